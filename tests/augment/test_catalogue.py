"""The catalogue of augmentations: what all of them keep to."""

import copy
import math
import pickle
import sys

import pytest
import torch

from stssad_fast import InputError
from stssad_fast.augment import PictureAugmentation, catalogue

pytest.importorskip("kornia")

NAMES = (
    "identity",
    "crop",
    "rotate",
    "flip",
    "geom",
    "cutout",
    "cutpaste",
    "cutpaste_scar",
    "blur",
    "noise",
    "mask",
    "invert",
    "color",
    "simclr",
)
RANDOM = NAMES[1:]
QUARTER_TURNS = ("rotate", "geom")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=6, channels=3, height=24, width=24, dtype=torch.float32):
    return torch.rand(count, channels, height, width, generator=seeded(9)).to(dtype)


def test_names_families_and_titles():
    assert catalogue.NAMES == NAMES
    assert tuple(catalogue.FAMILIES) == tuple(catalogue.TITLES) == (*NAMES, "cutdiff")
    families = {"none", "geometric", "local", "elementwise", "color", "mixed"}
    assert set(catalogue.FAMILIES.values()) == families
    assert catalogue.TITLES["cutpaste_scar"] == "CutPaste-scar"
    assert catalogue.TITLES["geom"] == "GEOM"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_dtype_and_range_are_kept(name, channels, dtype):
    image = pictures(40, channels, dtype=dtype).requires_grad_(name == "noise")
    before = image.detach().clone()
    made = catalogue.make(name)
    assert isinstance(made, PictureAugmentation)
    assert not list(made.parameters())
    out = made(image, generator=seeded()).detach()
    assert (out.shape, out.dtype, out.device) == (image.shape, dtype, image.device)
    assert out.isfinite().all()
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal(image, before)
    assert made(before[:0], generator=seeded()).shape == (0, channels, 24, 24)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu(name):
    image, made = pictures(40).cuda(), catalogue.make(name)
    first, again = (made(image, generator=torch.Generator("cuda").manual_seed(3)) for _ in range(2))
    assert (first.device, first.shape) == (image.device, image.shape)
    assert torch.equal(first, again)
    assert first.min() >= 0
    assert first.max() <= 1
    for k in range(made.classes):
        assert made.of_class(image, k).shape == image.shape
    assert torch.equal(made.of_class(image, 0), image)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in QUARTER_TURNS])
@pytest.mark.parametrize("sides", [(12, 40), (40, 12), (7, 9), (2, 3), (1, 1)])
def test_pictures_of_all_sides(name, sides):
    image = pictures(30, 3, *sides)
    out = catalogue.make(name)(image, generator=seeded())
    assert out.shape == image.shape
    assert out.isfinite().all()


@pytest.mark.parametrize("name", QUARTER_TURNS)
def test_quarter_turns_need_square_pictures(name):
    made = catalogue.make(name)
    for call in (lambda image: made(image), lambda image: made.of_class(image, 1)):
        with pytest.raises(InputError, match="square ones; these are 12 by 40"):
            call(pictures(2, 3, 12, 40))


@pytest.mark.parametrize("name", [*NAMES, "cutdiff"])
@pytest.mark.parametrize(
    ("image", "words"),
    [
        ((pictures() * 255).byte(), r"\(6, 3, 24, 24\) of torch.uint8, expected a float.* by 255"),
        (pictures()[0], r"\(3, 24, 24\) of torch.float32, expected .* image\[None\]"),
        (pictures().numpy(), "image is ndarray"),
    ],
)
def test_what_is_no_picture(name, image, words):
    made = catalogue.make(name)
    calls = [made, lambda x: made(image=x), *([lambda x: made.of_class(x, 1)][: made.classes - 1])]
    for call in calls:
        with pytest.raises(InputError, match=words):
            call(image)


@pytest.mark.parametrize("name", RANDOM)
def test_the_generator_alone_decides(name):
    image, made = pictures(), catalogue.make(name)
    before = torch.get_rng_state()
    first, again = (made(image, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, made(image, generator=seeded(4)))
    torch.manual_seed(5)
    first = made(image)
    assert not torch.equal(first, made(image))
    torch.manual_seed(5)
    assert torch.equal(first, made(image))


@pytest.mark.parametrize("name", RANDOM)
def test_every_picture_has_a_draw_of_its_own(name):
    image = pictures(1).expand(64, -1, -1, -1)
    out = catalogue.make(name)(image, generator=seeded())
    different = len(out.flatten(1).unique(dim=0))
    assert different >= {"flip": 2, "invert": 2, "rotate": 4, "geom": 30}.get(name, 60)


@pytest.mark.parametrize("name", RANDOM)
def test_pictures_do_not_depend_on_each_other(name):
    image, made = pictures(8, dtype=torch.float64), catalogue.make(name)
    out = made(image, generator=seeded())
    image[0] = image[0] ** 3
    torch.testing.assert_close(made(image, generator=seeded())[1:], out[1:], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", RANDOM)
def test_dtypes_get_the_same_draws(name):
    image, made = pictures(), catalogue.make(name)
    out = made(image, generator=seeded()).double()
    torch.testing.assert_close(out, made(image.double(), generator=seeded()), rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", NAMES)
def test_classes(name):
    image, made = pictures(), catalogue.make(name)
    assert made.classes == {"identity": 1, "rotate": 4, "geom": 72}.get(name, 2)
    assert torch.equal(made.of_class(image, 0), image)
    for k in (-1, made.classes):
        with pytest.raises(InputError, match=f"class {k} of"):
            made.of_class(image, k)


@pytest.mark.parametrize("name", [n for n in RANDOM if n not in (*QUARTER_TURNS, "flip", "invert")])
def test_the_second_class_is_the_augmentation(name):
    image, made = pictures(), catalogue.make(name)
    assert torch.equal(made.of_class(image, 1, generator=seeded()), made(image, generator=seeded()))


@pytest.mark.parametrize(
    ("name", "change"), [("flip", lambda x: x.flip(2)), ("invert", lambda x: 1 - x)]
)
def test_a_change_without_chance(name, change):
    image = pictures(4000, 1, 4, 4)
    assert torch.equal(catalogue.make(name).of_class(image, 1), change(image))
    assert torch.equal(catalogue.make(name, probability=1)(image), change(image))
    assert torch.equal(catalogue.make(name, probability=0)(image), image)
    for probability in (0.5, 0.2):
        settings = {} if probability == 0.5 else {"probability": probability}
        out = catalogue.make(name, **settings)(image, generator=seeded())
        hit, missed = ((out == x).flatten(1).all(1) for x in (change(image), image))
        assert (hit ^ missed).all()
        error = math.sqrt(probability * (1 - probability) / 4000)
        assert abs(hit.double().mean() - probability) < 4 * error


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles(name):
    image, made = pictures(), catalogue.make(name)
    expected = made(image, generator=seeded())
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(other(image, generator=seeded()), expected)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("crop", {"min_area": 0.5}),
        ("flip", {"probability": 1.0}),
        ("cutout", {"size": 0.2}),
        ("noise", {"std": 0.3}),
        ("mask", {"probability": 0.7}),
        ("invert", {"probability": 0.0}),
        ("color", {"strength": 0.5}),
        ("simclr", {"strength": 2.0}),
    ],
)
def test_settings_change_what_is_done(name, settings):
    image, made = pictures(40), catalogue.make(name, **settings)
    assert made.describe() == settings
    plain = catalogue.make(name)
    assert made.describe() != plain.describe()
    assert not torch.equal(made(image, generator=seeded()), plain(image, generator=seeded()))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("cutup", {}, "augmentation is 'cutup'; choose one of identity, crop"),
        ("noise", {"size": 0.1}, "setting 'size' of 'noise', which has std"),
        ("identity", {"size": 0.1}, "setting 'size' of 'identity', which has no settings"),
        ("cutout", {"size": 0}, r"size is 0, expected a number in \(0, 1\]"),
        ("cutout", {"size": 1.5}, "size is 1.5"),
        ("noise", {"std": 0.0}, r"std is 0.0, expected a number in \(0, inf\]"),
        ("noise", {"std": math.nan}, "std is nan"),
        ("mask", {"probability": 1.1}, "probability is 1.1"),
        ("flip", {"probability": -0.1}, r"probability is -0.1, expected a number in \[0, 1\]"),
        ("crop", {"min_area": 0.0}, "min_area is 0.0"),
        ("color", {"strength": 3.0}, "strength is 3.0"),
        ("simclr", {"strength": -1.0}, "strength is -1.0"),
        ("crop", {"min_area": "a"}, r"min_area is 'a', expected a number in \(0, 1\]"),
        ("cutdiff", {"size": None}, "size is None"),
    ],
)
def test_what_cannot_be_made(name, settings, words):
    with pytest.raises(InputError, match=words):
        catalogue.make(name, **settings)


def test_without_kornia(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    for name in NAMES:
        if name in ("blur", "color", "simclr", "cutpaste", "cutpaste_scar"):
            with pytest.raises(InputError, match=r"pip install stssad-fast\[study\]"):
                catalogue.make(name)
        else:
            catalogue.make(name)(pictures(2))
