"""CutOut and CutPaste: hard patches, for baselines that draw their hyperparameters at random."""

import math

import pytest
import torch

from stssad_fast import STSSAD, InputError
from stssad_fast.augment import CutDiff, CutOut, CutPaste

NO_PICTURES = [
    (
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        r"image is \(2, 3, 8, 8\) of torch.uint8, exp.* 255",
    ),
    (torch.zeros(3, 8, 8), r"image is \(3, 8, 8\) of torch.float32, expected .* image\[None\]"),
    (torch.zeros(2, 3, 8, 8).numpy(), "image is ndarray, expected a floating-point tensor"),
]
KINDS = {"cutout": CutOut, "cutpaste": CutPaste}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def positions(count, height, width, channels=1):
    """Pictures in which every pixel has a value of its own, none of them 0."""
    values = 1 + torch.arange(height * width, dtype=torch.float64)
    return values.reshape(1, 1, height, width).repeat(count, channels, 1, 1)


def boxes(changed):
    """Height, width, first row and first column of what changed in pictures (B, H, W)."""
    found = []
    for picture in changed:
        rows, columns = picture.any(1).nonzero()[:, 0], picture.any(0).nonzero()[:, 0]
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert picture.sum() == height * width  # a full rectangle
        found.append((height, width, int(rows[0]), int(columns[0])))
    return found


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.mark.parametrize(
    ("sides", "size", "aspect", "expected"),
    [
        ((16, 16), 0.25, 1.0, (8, 8)),
        ((20, 40), 0.25, 1.0, (10, 20)),  # units of the picture, so it is no square
        ((40, 20), 0.1, 2.5, (8, 10)),
        ((32, 32), 1 / 16, 4.0, (4, 16)),
        ((16, 17), 1e-4, 1.0, (1, 1)),  # less than a pixel becomes one
        ((16, 16), 0.5, 16.0, (3, 16)),  # wider than the picture: as wide as it
        ((16, 24), 1.0, 1.0, (16, 24)),
    ],
)
def test_cutout_blackens_a_rectangle_of_its_size(sides, size, aspect, expected):
    images = positions(20, *sides, channels=3)
    out = CutOut(size, aspect)(images, generator=seeded())
    changed = out != images
    assert (changed == changed[:, :1]).all()
    assert not out[changed].any()
    for height, width, row, column in boxes(changed[:, 0]):
        assert (height, width) == expected
        assert row + height <= sides[0]
        assert column + width <= sides[1]


@pytest.mark.parametrize(
    ("sides", "size", "aspect", "expected"),
    [((16, 16), 1 / 16, 1.0, (4, 4)), ((24, 16), 0.03, 2.0, (3, 4)), ((16, 16), 1e-4, 1.0, (1, 1))],
)
def test_cutpaste_copies_a_rectangle_of_the_same_picture(sides, size, aspect, expected):
    images = positions(40, *sides, channels=3) + torch.arange(40)[:, None, None, None] * 1e4
    images += torch.arange(3)[:, None, None] * 1e7
    out = CutPaste(size, aspect)(images, generator=seeded())
    changed = out != images
    moved = 0
    for before, after, where in zip(images, out, changed, strict=True):
        if not where.any():
            continue  # copied onto itself
        ((height, width, row, column),) = boxes(where[:1])
        assert (height, width) == expected  # values differ everywhere if it moved at all
        source = (before[0] == after[0, row, column]).nonzero()
        assert len(source) == 1
        at, across = source[0].tolist()
        patch = before[:, at : at + height, across : across + width]
        assert torch.equal(after[:, row : row + height, column : column + width], patch)
        moved += 1
    assert moved > 30


def test_places_are_uniform_and_one_per_picture(kind):
    images = positions(6000, 7, 7)
    changed = (kind(9 / 49)(images, generator=seeded()) != images)[:, 0]
    possible = torch.zeros(5, 5)
    for height, width, row, column in boxes(changed[changed.flatten(1).any(1)]):
        assert (height, width) == (3, 3)
        possible[row, column] += 1
    # 25 places; a chi-square of 24 degrees of freedom exceeds 60 once in 20 000 times.
    mean = possible.mean()
    assert ((possible - mean) ** 2 / mean).sum() < 60


def test_places_of_source_and_target_are_independent():
    out = CutPaste(1 / 49)(positions(20000, 7, 7), generator=seeded())[:, 0]
    pairs = torch.zeros(49, 49)
    changed = out != positions(1, 7, 7)[0]
    assert (changed.flatten(1).sum(1) <= 1).all()
    moved = changed.flatten(1).any(1)
    # One time in 49 both are the same.
    assert abs((~moved).double().mean() - 1 / 49) < 4 * math.sqrt(1 / 49 / 20000)
    target = changed[moved].flatten(1).double().argmax(1)
    source = out[moved].flatten(1)[torch.arange(int(moved.sum())), target].long() - 1
    pairs.index_put_((source, target), torch.ones(len(target)), accumulate=True)
    away = pairs[~torch.eye(49, dtype=torch.bool)]
    chi_square = ((away - away.mean()) ** 2 / away.mean()).sum()
    freedom = len(away) - 1
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def test_the_generator_alone_decides(kind):
    images, module = positions(8, 16, 16), kind(0.05)
    before = torch.get_rng_state()
    first, again = (module(images, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, module(images, generator=seeded(4)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_shape_and_arguments_are_kept(kind, dtype):
    images = torch.rand(3, 3, 16, 20, generator=seeded()).to(dtype)
    copy = images.clone()
    out = kind(0.1)(images, generator=seeded())
    assert (out.dtype, out.shape) == (dtype, images.shape)
    assert torch.equal(images, copy)
    assert kind(0.1)(images[:0], generator=seeded()).shape == (0, 3, 16, 20)


def test_draws_come_from_the_prior_of_cutdiff(kind):
    generator, module = seeded(), kind()
    drawn, expected = [], []
    for _ in range(300):
        module.draw_(generator)
        drawn.append(module.describe())
    other = CutDiff()
    for _ in range(300):
        other.draw_(generator)
        expected.append(other.describe())
    for name, (low, high) in {"size": (1e-4, 1e-1), "aspect": (1 / 4, 4)}.items():
        for values in (drawn, expected):
            share = torch.tensor([math.log(d[name] / low) / math.log(high / low) for d in values])
            assert share.min() > -1e-6
            assert share.max() < 1 + 1e-6
            assert abs(share.mean() - 0.5) < 0.07  # four standard errors of a uniform number
            assert abs(share.std() - 12**-0.5) < 0.04
    again = kind()
    again.draw_(seeded())
    assert again.describe() == drawn[0]


def test_nothing_is_tuned_and_everything_is_kept(kind):
    module, other = kind(0.02, 2.0), kind()
    assert module.describe() == pytest.approx({"size": 0.02, "aspect": 2.0})
    assert not any(value.requires_grad for value in module.parameters())
    other.load_state_dict(module.state_dict())
    assert other.describe() == module.describe()
    assert [kind(**start).describe()["size"] for start in kind.starts()] == pytest.approx(
        [1e-4, 1e-3, 1e-2, 1e-1]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": 0.0}, "size is 0.0"),
        ({"size": 1.5}, "size is 1.5"),
        ({"size": math.nan}, "size is nan"),
        ({"aspect": -1.0}, "aspect is -1.0"),
        ({"aspect": math.inf}, "aspect is inf"),
        ({"size": "a"}, "size is 'a', expected a share"),
        ({"aspect": None}, "aspect is None, expected width over height"),
    ],
)
def test_what_is_no_rectangle(kind, arguments, words):
    with pytest.raises(InputError, match=words):
        kind(**arguments)


@pytest.mark.parametrize(("image", "words"), NO_PICTURES)
def test_what_is_no_picture(kind, image, words):
    with pytest.raises(InputError, match=words):
        kind()(image)


PARAMS = {"width": 1, "warm_up": 3, "iterations": 5, "batch_size": 4, "random_state": 0}
TRAIN, TEST = (torch.rand(n, 1, 16, 16, generator=seeded(n)) for n in (8, 6))


@pytest.mark.parametrize("name", KINDS)
def test_random_dynamic_draws_once_per_epoch_and_tells_what(name):
    model = STSSAD(name, strategy="random_dynamic", **PARAMS, device="cpu").fit(TRAIN, TEST)
    sizes = model.history_["size"]  # two steps are an epoch; steps 3 to 7 are iterations
    assert sizes[0] != sizes[1] == sizes[2] != sizes[3] == sizes[4]
    assert model.augmentation_.describe() == model.starts_[0]["final"]
    assert model.starts_[0]["final"]["size"] == sizes[-1]
    again = STSSAD(name, strategy="random_dynamic", **PARAMS, device="cpu").fit(TRAIN, TEST)
    assert again.history_ == model.history_
    assert (again.score_samples(TEST) == model.score_samples(TEST)).all()


@pytest.mark.parametrize("name", KINDS)
def test_random_static_draws_once_and_can_be_saved(name, tmp_path):
    model = STSSAD(name, strategy="random_static", **PARAMS, device="cpu").fit(TRAIN, TEST)
    assert len(set(model.history_["size"])) == 1
    assert model.history_["size"][0] not in [s["size"] for s in KINDS[name].starts()]
    model.save(tmp_path / "model")
    loaded = STSSAD.load(tmp_path / "model", device="cpu")
    assert loaded.augmentation_.describe() == model.augmentation_.describe()
    assert (loaded.score_samples(TEST) == model.score_samples(TEST)).all()


@pytest.mark.parametrize("strategy", ["second_order", "first_order"])
@pytest.mark.parametrize("augmentation", ["cutout", "cutpaste", CutOut()])
def test_tuning_them_is_refused(augmentation, strategy):
    with pytest.raises(InputError, match=r"no gradient|no parameters to tune"):
        STSSAD(augmentation, strategy=strategy, **PARAMS).fit(TRAIN, TEST)
