"""Wrong arguments: the documented error, before any operator is entered."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stssad_fast.ops import cutdiff, mean_distance_loss, patch_shape, rotate


class NoOperators(TorchDispatchMode):
    """Within it, every call of an operator of ours is an error."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.namespace != "stssad_fast", f"{func} was entered"
        return func(*args, **(kwargs or {}))


IMAGE = torch.zeros(2, 1, 4, 4)
ROWS = torch.rand(3, 2)
RIGHT = {
    cutdiff: {"image": IMAGE, "shape": torch.ones(3), "center": torch.ones(2)},
    rotate: {"image": IMAGE, "angle": 30.0},
    mean_distance_loss: {"train": ROWS, "augmented": ROWS + 1, "test": ROWS + 2},
}
NAN, INF = math.nan, math.inf

WRONG = [
    (cutdiff, "image", IMAGE.to(torch.uint8), TypeError, "image is torch.uint8"),
    (cutdiff, "image", IMAGE.to(torch.complex64), TypeError, "image is torch.complex64"),
    (cutdiff, "image", IMAGE.numpy(), TypeError, "image is ndarray"),
    (cutdiff, "image", IMAGE[0], ValueError, r"shape \(1, 4, 4\); expected \(B, C, H, W\)"),
    (cutdiff, "image", IMAGE[None], ValueError, r"expected \(B, C, H, W\)"),
    (cutdiff, "image", IMAGE.to("meta"), ValueError, "shape is on cpu, image on meta"),
    (cutdiff, "image", IMAGE.to_sparse(), TypeError, "image is torch.sparse_coo; expected a dense"),
    (cutdiff, "shape", torch.ones(3).to_sparse(), TypeError, "shape is torch.sparse_coo; expected"),
    (cutdiff, "shape", torch.ones(2), ValueError, r"shape has shape \(2,\)"),
    (cutdiff, "shape", torch.ones(3, 3), ValueError, r"expected \(3,\) .* or \(2, 3\)"),
    (cutdiff, "shape", torch.ones(2, 1, 3), ValueError, "shape has shape"),
    (cutdiff, "shape", torch.ones(3, dtype=torch.int64), TypeError, "shape is torch.int64"),
    (cutdiff, "shape", torch.tensor([1.0, NAN, 1.0]), ValueError, "shape has NaN"),
    (cutdiff, "shape", torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, INF]]), ValueError, "shape has"),
    (cutdiff, "shape", torch.ones(3, device="meta"), ValueError, "shape is on meta, image on cpu"),
    (cutdiff, "shape", None, TypeError, "shape is None; expected a number or a floating-point"),
    (cutdiff, "shape", [[1.0], [1.0, 2.0]], TypeError, r"shape is \[\[1.0\]"),
    (cutdiff, "shape", [1e39, 0.0, 1.0], ValueError, "shape has NaN or inf"),
    (cutdiff, "normalize", ("a", 1.0), TypeError, "mean of normalize is 'a'; expected a number"),
    (cutdiff, "normalize", (0.0, 1e39), ValueError, r"std of normalize is 1e\+39; expected at"),
    (cutdiff, "center", torch.ones(3), ValueError, "center has shape"),
    (cutdiff, "center", torch.ones(3, 2), ValueError, "center has shape"),
    (cutdiff, "center", torch.ones(2, dtype=torch.bool), TypeError, "center is torch.bool"),
    (cutdiff, "center", torch.tensor([INF, 0.0]), ValueError, "center has NaN or inf"),
    (cutdiff, "center", torch.tensor([0.0, NAN]), ValueError, "center has NaN or inf"),
    (cutdiff, "center", torch.ones(2, device="meta"), ValueError, "center is on meta, image on"),
    (rotate, "image", IMAGE.int(), TypeError, "image is torch.int32"),
    (rotate, "image", IMAGE.to_mkldnn(), TypeError, "image is torch._mkldnn; expected a dense"),
    (rotate, "image", np.zeros((2, 1, 4, 4)), TypeError, "image is ndarray"),
    (rotate, "image", IMAGE[0, 0], ValueError, r"expected \(B, C, H, W\)"),
    (rotate, "angle", torch.zeros(3), ValueError, "angle has shape"),
    (rotate, "angle", torch.zeros(2, 1), ValueError, "angle has shape"),
    (rotate, "angle", torch.tensor(90), TypeError, "angle is torch.int64"),
    (rotate, "angle", "45", TypeError, "angle is '45'; expected a number or a floating-point"),
    (rotate, "angle", None, TypeError, "angle is None"),
    (rotate, "angle", 1j, TypeError, "angle is 1j"),
    (
        rotate,
        "angle",
        -1e39,
        ValueError,
        r"angle is -1e\+39; expected at most 3.4e\+38, for torch.f",
    ),
    (rotate, "angle", 10**400, ValueError, "expected at most"),
    (rotate, "angle", NAN, ValueError, "angle has NaN"),
    (rotate, "angle", -INF, ValueError, "angle has NaN or inf"),
    (rotate, "angle", torch.tensor([0.0, INF]), ValueError, "angle has NaN or"),
    (rotate, "angle", torch.zeros((), device="meta"), ValueError, "angle is on meta"),
    (mean_distance_loss, "train", torch.zeros(0, 2), ValueError, "train has no rows"),
    (mean_distance_loss, "augmented", torch.zeros(0, 2), ValueError, "augmented has no rows"),
    (mean_distance_loss, "test", torch.zeros(0, 2), ValueError, "test has no rows"),
    (mean_distance_loss, "augmented", torch.zeros(3, 4), ValueError, "has 4 dimensions, train 2"),
    (mean_distance_loss, "test", torch.zeros(3, 1), ValueError, "test has 1 dimensions, train 2"),
    (mean_distance_loss, "augmented", torch.zeros(2), ValueError, r"expected \(N, D\)"),
    (mean_distance_loss, "test", torch.zeros(1, 3, 2), ValueError, r"expected \(N, D\)"),
    (mean_distance_loss, "train", ROWS.long(), TypeError, "train is torch.int64"),
    (mean_distance_loss, "train", ROWS.to_sparse(), TypeError, "train is torch.sparse_coo"),
    (mean_distance_loss, "train", ROWS.numpy(), TypeError, "train is ndarray"),
    (mean_distance_loss, "test", ROWS.to("meta"), ValueError, "test is on meta, train on cpu"),
]


def named(wrong):
    op, argument, *_ = wrong
    return f"{op.__name__} {argument}"


@pytest.mark.parametrize("wrong", WRONG, ids=named)
def test_the_documented_error_before_any_operator(wrong):
    op, argument, value, error, words = wrong
    with NoOperators(), pytest.raises(error, match=words):
        op(**{**RIGHT[op], argument: value})


def test_a_generator_that_is_none():
    with NoOperators(), pytest.raises(TypeError, match=r"generator is 0; expected a torch\.Gen"):
        cutdiff(IMAGE, torch.ones(3), generator=0)


@pytest.mark.parametrize("op", RIGHT, ids=lambda op: op.__name__)
def test_an_operator_that_is_entered_is_noticed(op):
    with NoOperators(), pytest.raises(AssertionError, match=f"{op.__name__}.default was entered"):
        op(**RIGHT[op])


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("argument", RIGHT[mean_distance_loss])
def test_embeddings_that_are_not_finite(argument, value):
    """They are found by their loss, which costs no sweep over the embeddings."""
    for row, column in [(0, 0), (2, 1), (1, 0)]:
        rows = RIGHT[mean_distance_loss][argument].clone()
        rows[row, column] = value
        with pytest.raises(ValueError, match=f"{argument} has NaN or infinite"):
            mean_distance_loss(**{**RIGHT[mean_distance_loss], argument: rows})


def test_a_number_that_is_not_finite_is_found_under_torch_func():
    with pytest.raises(ValueError, match="angle has NaN"):
        torch.func.grad(lambda angle: rotate(IMAGE, angle).sum())(torch.tensor(NAN))
    with pytest.raises(ValueError, match="shape has NaN"):
        torch.func.vmap(cutdiff, (None, 0))(IMAGE, torch.tensor([[1.0, 0.0, 1.0], [NAN, 0.0, 1.0]]))
    with pytest.raises(ValueError, match="test has NaN"):
        torch.func.grad(mean_distance_loss, 2)(ROWS, ROWS + 1, torch.full((2, 2), NAN))


@pytest.mark.parametrize("count", [0, 3])
def test_vmap_of_the_picture_ops_over_hyperparameters(count):
    """Each has its number of dimensions, and no size has to be guessed where there is nothing."""
    angles, shapes = torch.linspace(0, 90, count), torch.rand(count, 3)
    centers = torch.rand(count, 2, 2)  # one per picture
    turned = torch.vmap(lambda a: rotate(IMAGE, a))(angles)
    cut = torch.vmap(lambda s, c: cutdiff(IMAGE, s, c))(shapes, centers)
    assert turned.shape == cut.shape == (count, *IMAGE.shape)


def test_vmap_of_the_loss():
    """It is looked at for numbers that are not finite, of which there are several then."""
    sets = [torch.rand(4, 3, 2) for _ in range(3)]
    for found, *one in zip(torch.vmap(mean_distance_loss)(*sets), *sets, strict=True):
        torch.testing.assert_close(found, mean_distance_loss(*one))
    sets[1][2, 1, 0] = INF
    with pytest.raises(ValueError, match="augmented has NaN"):
        torch.vmap(mean_distance_loss)(*sets)


@pytest.mark.parametrize("number", [30.0, 30])
def test_a_number_is_not_copied_to_the_device(number, monkeypatch):
    """The copy would wait for a GPU, and could not be captured in a graph."""

    def copies(value, *, device=None, **_):
        assert isinstance(value, torch.Tensor) and value.device == device
        return value

    monkeypatch.setattr(torch, "as_tensor", copies)
    image = IMAGE.to("meta")
    rotate(image, number)
    shape = patch_shape(torch.ones((), device="meta"), number, number)
    cutdiff(image, shape)
    assert shape.device == image.device
