"""One picture file becomes one float tensor.

PNG, JPEG, BMP and TIFF; 1-bit, grey, palette, RGB, CMYK; 8 bits by Pillow, deeper TIFF by
`tiff.py`. Values are divided by the largest the file's format can hold, never by the largest the
picture happens to hold. Transparent pictures are laid over black, so alpha multiplies the colour.
"""

import os
import stat
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from stssad_fast.datasets.tiff import read_deep_tiff
from stssad_fast.errors import InputError

MIN_SIDE = 8
"""Fewest pixels along the smaller side of a picture, before and after resizing."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
"""Names (in lower case) that a picture file ends in."""

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_LUMA = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601, as Pillow and JPEG have it

Size = int | tuple[int, int]


def read_image(
    path: str | os.PathLike[str],
    *,
    channels: int | None = None,
    image_size: Size | None = None,
) -> Tensor:
    """Reads one picture as a float32 tensor in [0, 1] of shape (C, H, W).

    The camera's EXIF orientation is applied. Of a TIFF with several pages the first is read.

    Args:
        path: PNG, JPEG, BMP or TIFF file; the content decides, not the name.
        channels: 1 (colour becomes BT.601 luma), 3 (grey is repeated), or None for what the file
            holds: 1 for 1-bit and grey, 3 for all others, palettes included.
        image_size: side of a square, or (height, width); the picture is resized to it with
            antialiasing, whatever its aspect. None keeps its size.

    Raises:
        InputError: the file is missing, no picture, cut short, smaller than `MIN_SIDE`, larger
            than `PIL.Image.MAX_IMAGE_PIXELS`, or of a pixel type without a known range.
    """
    if channels not in (None, 1, 3):
        raise InputError(f"channels is {channels!r}, expected 1, 3 or None.")
    path = Path(path)
    image = torch.from_numpy(_read_pixels(path)).permute(2, 0, 1)  # (C, H, W)
    height, width = image.shape[1:]
    if min(height, width) < MIN_SIDE:
        raise InputError(
            f"{path} is {height} x {width} pixels; both sides need at least {MIN_SIDE}. "
            "Remove it or use a larger picture."
        )
    if image_size is not None:
        image = resize(image[None], image_size)[0]
    return with_channels(image, channels).contiguous()


def resize(images: Tensor, image_size: Size) -> Tensor:
    """Resizes float images (N, C, H, W) bilinearly, with antialiasing when they shrink.

    Bilinear weights are never negative, so values stay in the range they had.

    Raises:
        InputError: `image_size` is not one or two whole numbers of at least `MIN_SIDE`.
    """
    size = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    if len(size) != 2 or not all(isinstance(side, int) and side >= MIN_SIDE for side in size):
        raise InputError(
            f"image_size is {image_size!r}, expected a side or (height, width) in whole pixels, "
            f"at least {MIN_SIDE}."
        )
    if tuple(images.shape[-2:]) == size:
        return images
    resized = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    return resized.clamp_(0, 1)  # rounding leaves [0, 1] by an ulp


def with_channels(image: Tensor, channels: int | None) -> Tensor:
    """Makes images (..., C, H, W) of 1 or 3 channels grey (1) or RGB (3); None changes nothing."""
    have = image.shape[-3]
    if channels is None or channels == have:
        return image
    if channels == 1:
        luma = _LUMA.to(image.dtype)[:, None, None]
        return (image * luma).sum(-3, keepdim=True).clamp_(0, 1)
    return image.repeat_interleave(channels, dim=-3)


def _read_pixels(path: Path) -> NDArray[np.float32]:
    """File → (H, W, C) in [0, 1], C either 1 or 3."""
    try:
        status = path.stat()
        # A pipe would be waited for; opening a folder says what it is.
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise InputError(
                f"{path} is no regular file, expected a picture file. Save what it gives to a file."
            )
        if status.st_size == 0 and not stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path} is empty (zero bytes). Remove it or write it again.")
        with path.open("rb") as file:
            magic = file.read(4)
        pixels = None
        if magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            pixels = read_deep_tiff(path)
        return _read_with_pillow(path) if pixels is None else pixels
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist. Check the name.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, expected a picture file.") from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read. Check its permissions.") from error
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    # A damaged file makes decoders raise nearly anything: OSError, SyntaxError, struct.error, …
    except Exception as error:
        reason = " ".join(str(error).replace(repr(str(path)), "").split())
        raise InputError(
            f"{path} cannot be read as a picture ({reason or type(error).__name__}); expected a "
            "whole PNG, JPEG, BMP or TIFF file. Remove it or write it again."
        ) from error


def _read_with_pillow(path: Path) -> NDArray[np.float32]:
    with Image.open(path, formats=_FORMATS) as opened:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and opened.width * opened.height > limit:
            raise _too_large(path)
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):  # 16 bits, or 12; tiff.py keeps 32 away
            return _scaled(image, 2 ** _bits_per_sample(image) - 1)[..., None]
        grey = image.mode in ("1", "L", "LA", "La")
        colours = 1 if grey else 3
        if image.has_transparency_data:
            rgba = _scaled(image.convert("LA" if grey else "RGBA"), 255)
            return rgba[..., :colours] * rgba[..., colours:]
        array = _scaled(image.convert("L" if grey else "RGB"), 255)
        return array.reshape(*array.shape[:2], colours)


def _scaled(image: Image.Image, white: int) -> NDArray[np.float32]:
    return np.asarray(image).astype(np.float32) / np.float32(white)


def _bits_per_sample(image: Image.Image) -> int:
    tags = getattr(image, "tag_v2", None)  # a 12-bit TIFF is I;16 to Pillow
    return int(tags[258][0]) if tags and 258 in tags else 16


def _too_large(path: Path) -> InputError:
    return InputError(
        f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels, which is refused lest a small file "
        "fill the memory. Scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS."
    )
