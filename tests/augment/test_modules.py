"""CutDiff and Rotation: modules that hold their hyperparameters."""

import math

import pytest
import torch

from stssad_fast import CutDiff, Rotation, cutdiff, patch_parameters, patch_shape, rotate
from stssad_fast.augment import modules

IMAGE = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MODULES = {
    "log": lambda **values: CutDiff(**values, parametrization="log"),
    "cholesky": lambda **values: CutDiff(**values, parametrization="cholesky"),
    "rotation": Rotation,
}


@pytest.fixture(params=MODULES)
def make(request):
    return MODULES[request.param]


@pytest.fixture(params=["log", "cholesky"])
def make_cutdiff(request):
    return MODULES[request.param]


def test_cutdiff_cuts_the_patch_it_describes(make_cutdiff, assert_close):
    words = {"size": 0.03, "aspect": 2.0, "angle": 25.0}
    module = make_cutdiff(**words)
    found = module.describe()
    assert found.keys() == words.keys()
    assert_close(list(found.values()), list(words.values()))
    out = module(IMAGE, generator=torch.Generator().manual_seed(1))
    expected = cutdiff(
        IMAGE, patch_shape(0.03, 2.0, 25.0), generator=torch.Generator().manual_seed(1)
    )
    assert_close(out, expected)


def test_jitter_gives_every_picture_a_patch_of_its_own(assert_close):
    count, words = 4000, {"size": 0.03, "aspect": 2.0, "angle": 25.0}
    drawn = []

    def recorded(image, shape, *, generator):
        drawn.append(shape.detach())
        return cutdiff(image, shape, generator=generator)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(modules, "cutdiff", recorded)
        module = CutDiff(**words, jitter=0.05)
        out = module(torch.rand(count, 1, 2, 2), generator=torch.Generator().manual_seed(0))
    assert out.shape == (count, 1, 2, 2)
    size, aspect, angle = patch_parameters(drawn[0])
    found = torch.stack([size.log(), aspect.log(), torch.deg2rad(angle)])
    center = torch.tensor([math.log(0.03), math.log(2.0), math.radians(25.0)])
    assert found.mean(1).tolist() == pytest.approx(center.tolist(), abs=0.005)
    assert found.std(1).tolist() == pytest.approx([0.05] * 3, rel=0.1)
    assert_close(list(module.describe().values()), list(words.values()))


def test_jitter_is_differentiable_about_what_is_tuned():
    module, image = CutDiff(0.1, 2.0, 20.0, jitter=0.5).double(), IMAGE.double()
    raw = module.raw.detach().clone().requires_grad_()

    def made(raw):
        generator = torch.Generator().manual_seed(3)
        return torch.func.functional_call(module, {"raw": raw}, (image,), {"generator": generator})

    assert torch.autograd.gradcheck(made, (raw,))
    assert torch.autograd.gradgradcheck(made, (raw,))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"jitter": -0.1}, r"jitter is -0.1, expected a number in \[0, 3\]"),
        ({"jitter": math.nan}, "jitter is nan"),
        ({"jitter": 0.5, "parametrization": "cholesky"}, "expected jitter 0, or parametrization"),
    ],
)
def test_jitter_out_of_range(arguments, words):
    with pytest.raises(ValueError, match=words):
        CutDiff(**arguments)


def test_rotation_rotates_by_what_it_describes(assert_close):
    module = Rotation(-30.0)
    assert_close(module.describe()["angle"], 330.0)
    assert_close(module(IMAGE), rotate(IMAGE, -30.0))


def test_gradients_reach_the_hyperparameters(make):
    module = make()
    (module(IMAGE, generator=torch.Generator().manual_seed(0)) * IMAGE).sum().backward()
    (parameter,) = module.parameters()
    assert torch.isfinite(parameter.grad).all()
    assert parameter.grad.any()


def test_draws_come_from_the_prior(make, generator):
    module = make()
    drawn = []
    for _ in range(200):
        module.draw_(generator)
        drawn.append(module.describe())
    ranges = {"size": (1e-4, 1e-1), "aspect": (0.25, 4.0), "angle": (-45.0, 45.0)}
    if getattr(module, "parametrization", "") == "log":
        ranges["angle"] = (0.0, 180.0)
    if make is Rotation:
        ranges = {"angle": (0.0, 360.0)}
    for name, (low, high) in ranges.items():
        values = torch.tensor([d[name] for d in drawn])
        slack = 1e-4 * high
        assert (values >= low - slack).all()
        assert (values <= high + slack).all()
        assert values.max() - values.min() > 0.8 * (high - low)
    again = make()
    again.draw_(torch.Generator().manual_seed(0))
    assert again.describe() == drawn[0]


def test_constrain(make):
    module = make()
    before = module.describe()
    module.constrain_()
    assert module.describe() == before
    if isinstance(module, CutDiff) and module.parametrization == "log":
        for sign in (-1, 1):
            module.raw.data.copy_(sign * torch.tensor([100.0, 100.0, 1.0]))
            module.constrain_()
            found = module.describe()
            assert modules.MIN_SIZE * 0.999 < found["size"] < modules.MAX_SIZE * 1.001
            assert 0.999 / modules.MAX_ASPECT < found["aspect"] < modules.MAX_ASPECT * 1.001


def test_state_dict(make, generator):
    module, other = make(), make()
    module.draw_(generator)
    other.load_state_dict(module.state_dict())
    assert other.describe() == module.describe()


def test_starts_of_the_paper(make):
    made = [make(**start).describe() for start in type(make()).starts()]
    if make is Rotation:
        assert [d["angle"] for d in made] == pytest.approx([45, 135, 225, 315])
    else:
        assert [d["size"] for d in made] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
        assert all(d["aspect"] == pytest.approx(1) for d in made)
        assert all(d["angle"] == 0 for d in made)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": 0.0}, "size has values that are not positive"),
        ({"aspect": -1.0}, "aspect has values that are not positive"),
        ({"angle": math.nan}, "angle has NaN or infinite values"),
        ({"angle": -math.inf}, "angle has NaN or infinite values"),
    ],
)
def test_cutdiff_refuses_what_is_no_patch(make_cutdiff, arguments, words):
    with pytest.raises(ValueError, match=words):
        make_cutdiff(**arguments)


@pytest.mark.parametrize("angle", [math.nan, math.inf, 1e300])
def test_rotation_refuses_what_is_no_angle(angle):
    with pytest.raises(ValueError, match="angle has NaN or infinite values"):
        Rotation(angle)


def test_unknown_parametrization():
    with pytest.raises(ValueError, match="choose 'log' or 'cholesky'"):
        CutDiff(parametrization="exp")
