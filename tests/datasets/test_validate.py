import numpy as np
import pytest
import torch

from stssad_fast.datasets import as_images, as_train_test
from stssad_fast.errors import InputError

GOOD = np.linspace(0, 1, 4 * 3 * 9 * 8, dtype=np.float32).reshape(4, 3, 9, 8)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "uint16", ">f4"])
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_accepted_dtypes(dtype, kind):
    white = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    x = (GOOD * white).astype(dtype)
    given = torch.from_numpy(x.astype(dtype.replace(">f4", "f4"))) if kind == "tensor" else x
    images = as_images(given)
    assert images.dtype == torch.float32 and images.is_contiguous()
    np.testing.assert_allclose(images.numpy(), x.astype(np.float64) / white, rtol=0, atol=1e-6)


def test_grey_gets_its_channel_and_strides_are_taken():
    assert as_images(GOOD[:, 0]).shape == (4, 1, 9, 8)
    flipped = as_images(GOOD[::2, :, ::-1])
    np.testing.assert_array_equal(flipped.numpy(), GOOD[::2, :, ::-1])
    wide = torch.from_numpy(GOOD).expand(2, 4, 3, 9, 8)[0].requires_grad_()
    assert not as_images(wide).requires_grad


def test_rounding_is_clamped():
    images = as_images(np.full((1, 9, 9), 1 + 1e-6, np.float32))
    assert images.max() == 1


def spoiled(value):
    x = GOOD.copy()
    x[1, 0, 0, 0] = value
    return x


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (spoiled(np.nan), "NaN or infinite values in 1 of 4"),
        (spoiled(np.inf), "NaN or infinite"),
        (spoiled(-np.inf), "NaN or infinite"),
        (spoiled(-0.5), r"from -0.5 to 1, expected \[0, 1\]. Scale it"),
        (GOOD * 255, r"from 0 to 255, expected \[0, 1\]. Divide by 255"),
        (GOOD.astype(complex), "dtype complex128, expected uint8"),
        (GOOD > 0.5, "dtype bool"),
        (GOOD.astype(np.int64), "dtype int64"),
        (torch.zeros(4, 1, 9, 9, dtype=torch.int32), "dtype int32"),
        (GOOD.astype(object), "dtype object"),
        (GOOD.tolist(), "is a list"),
        (GOOD[0, 0], r"shape \(9, 8\), expected \(N, H, W\)"),
        (GOOD[None], r"shape \(1, 4, 3, 9, 8\)"),
        (GOOD.transpose(0, 2, 3, 1), r"x\.transpose\(0, 3, 1, 2\)"),
        (np.zeros((4, 2, 9, 9), np.float32), "one channel or three"),
        (np.zeros((4, 1, 7, 9), np.float32), "7 x 9 pixels; both sides need at least 8"),
    ],
)
def test_refused(x, words):
    with pytest.raises(InputError, match=words) as caught:
        as_images(x, name="test_images")
    assert str(caught.value).startswith("test_images") and "\n" not in str(caught.value)


def test_expectations():
    with pytest.raises(InputError, match=r"3 channel\(s\), expected 1"):
        as_images(GOOD, channels=1)
    with pytest.raises(InputError, match=r"4 picture\(s\), expected at least 5"):
        as_images(GOOD, min_count=5)
    with pytest.raises(InputError, match="at least 32"):
        as_images(GOOD, min_side=32)
    assert as_images(GOOD[:0], min_count=0).shape == (0, 3, 9, 8)


def test_train_and_test_together():
    train, test = as_train_test(GOOD, (GOOD * 255).astype(np.uint8))
    assert train.dtype == test.dtype == torch.float32
    with pytest.raises(InputError, match=r"test_images holds 1 picture"):
        as_train_test(GOOD, GOOD[:1])
    with pytest.raises(InputError, match=r"train_images holds 1 picture"):
        as_train_test(GOOD[:1], GOOD)
    with pytest.raises(InputError, match=r"3 channel\(s\) and test_images 1"):
        as_train_test(GOOD, GOOD[:, :1])
    with pytest.raises(InputError, match="9 x 8 pixels and test_images 8 x 8"):
        as_train_test(GOOD, GOOD[:, :, 1:])
