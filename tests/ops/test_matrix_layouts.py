"""The matrix: where numbers lie in memory changes neither values nor gradients."""

import pytest
import torch

from .backends import OPS, PICTURE_OPS
from .cases import (
    compare,
    cotangent,
    cutdiff_case,
    expanded,
    far_from_kinks,
    layouts,
    loss_case,
    prepared,
    rotate_case,
)

MAKE = {
    "cutdiff": lambda: cutdiff_case((2, 3, 5, 8), each=(True, True)),
    "rotate": lambda: rotate_case((2, 3, 5, 8), each=True),
    "mean_distance_loss": lambda: loss_case((5, 2, 4), 6),
}
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def inputs_of(op, dtype, device):
    return prepared(MAKE[op]().inputs, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", PICTURE_OPS)
def test_layouts_are_what_they_are_called(op, dtype):
    """A copy that came out contiguous would test nothing."""
    inputs = inputs_of(op, dtype, "cpu")
    image = inputs[0]
    found = layouts(image) | expanded(image)
    assert len({value.stride() for value in found.values()}) == len(found)
    assert not any(value.is_contiguous() for value in found.values())
    assert all(torch.equal(value, image) for value in layouts(image).values())
    # Then an incoming gradient that is expanded meets no kink.
    assert far_from_kinks(op, inputs).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", PICTURE_OPS)
def test_pictures(op, backend, dtype, assert_close):
    image, *rest = inputs_of(op, dtype, backend.device)
    for other in (layouts(image) | expanded(image)).values():
        compare(backend, op, (other, *rest), assert_close)


@pytest.mark.parametrize(
    "dtype",
    [*(pytest.param(dtype, marks=pytest.mark.large) for dtype in DTYPES[:2]), DTYPES[2]],
    ids=str,
)
@pytest.mark.parametrize("op", PICTURE_OPS)
def test_incoming_gradients(op, backend, dtype, assert_close):
    image, *rest = inputs_of(op, dtype, backend.device)
    last = image.contiguous(memory_format=torch.channels_last)
    for picture in (image, last, layouts(image)["transposed"]):
        inputs = (picture, *rest)
        grads = cotangent(op, inputs)
        for grad in (layouts(grads) | expanded(grads)).values():
            compare(backend, op, inputs, assert_close, grad)


@pytest.mark.large
@pytest.mark.parametrize("op", PICTURE_OPS)
def test_a_single_channel_or_pixel(op, backend, assert_close):
    """Sizes of 1 have strides without a meaning."""
    for size in [(2, 1, 5, 8), (1, 3, 1, 1), (2, 3, 1, 8), (2, 3, 8, 1)]:
        make = {"cutdiff": cutdiff_case, "rotate": rotate_case}[op]
        image, *rest = prepared(make(size).inputs, torch.float32, backend.device)
        for other in layouts(image).values():
            inputs = (other, *rest)
            compare(backend, op, inputs, assert_close)
            for grad in layouts(cotangent(op, inputs)).values():
                compare(backend, op, inputs, assert_close, grad)


@pytest.mark.parametrize("op", PICTURE_OPS)
def test_sum_backward(op, backend, assert_close):
    """Its incoming gradient is one number for all pixels."""
    inputs = inputs_of(op, torch.float32, backend.device)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        image = inputs[0].contiguous(memory_format=memory_format)
        grad = image.new_ones(()).expand_as(image)
        compare(backend, op, (image, *inputs[1:]), assert_close, grad)


@pytest.mark.parametrize("op", OPS)
def test_hyperparameters_and_embeddings(op, backend, assert_close):
    inputs = inputs_of(op, torch.float32, backend.device)
    for position in range(0 if op not in PICTURE_OPS else 1, len(inputs)):
        value = inputs[position]
        others = expanded(value) | (layouts(value) if value.dim() > 1 else {})
        for other in others.values():
            changed = (*inputs[:position], other, *inputs[position + 1 :])
            compare(backend, op, changed, assert_close)
