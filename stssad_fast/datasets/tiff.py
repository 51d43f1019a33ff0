"""TIFF with more than 8 bits a sample, which Pillow reads in part, or cut down to 8 bits."""

import logging
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from stssad_fast.errors import InputError

# What it has to say of damaged files is said by InputError; it goes to standard error only if no
# one else handles it.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

# Tag 274: how the stored rows and columns lie; (transpose, flip rows, flip columns), in that order.
_ORIENTATIONS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def read_deep_tiff(path: Path) -> NDArray[np.float32] | None:
    """Reads the first page of a TIFF of more than 8 bits as (H, W, C) in [0, 1], C 1 or 3.

    Returns:
        None where Pillow should go on: 8 bits or fewer, or 16 in a compression that tifffile
        cannot undo without further packages (Pillow then gives 16 bits of grey and 8 of RGB).

    Raises:
        InputError: signed or 32-bit whole numbers, floats outside [0, 1], or samples that are not
            grey or RGB with or without alpha: their range or meaning is not known.
    """
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        if max(np.atleast_1d(page.bitspersample)) <= 8:
            return None
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and page.imagelength * page.imagewidth > limit:
            raise Image.DecompressionBombError
        colours = page.samplesperpixel - len(page.extrasamples)
        inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        kinds = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        if (
            page.axes not in ("YX", "YXS", "SYX")
            or (page.photometric not in kinds and not inverted)
            or colours not in (1, 3)
            or len(page.extrasamples) > 1
        ):
            raise InputError(
                f"{path} holds {page.samplesperpixel} samples a pixel of kind "
                f"{tifffile.PHOTOMETRIC(page.photometric).name}, expected grey or RGB, with or "
                "without alpha. Save it as one of these."
            )
        scale = _scale(path, page)
        if not page.dataoffsets or 0 in page.databytecounts:  # tifffile would fill in black
            raise ValueError("data missing")
        try:
            array = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            if scale != 1 and not inverted:  # what Pillow can read too
                return None
            raise InputError(
                f"{path} is compressed in a way that cannot be read here ({error}). Save it "
                "uncompressed or with deflate, or run: pip install imagecodecs"
            ) from error
        orientation = page.tags.valueof(274, default=1)
        unassociated = tuple(page.extrasamples) == (tifffile.EXTRASAMPLE.UNASSALPHA,)
        axes = page.axes

    pixels = array.astype(np.float32) / np.float32(scale)
    if axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.reshape(*pixels.shape[:2], -1)  # (H, W, samples)
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN fails both
        raise InputError(
            f"{path} holds floats from {pixels.min():g} to {pixels.max():g}, expected [0, 1] "
            "throughout. Scale them, or save the picture with 8 or 16 bits."
        )
    colour = pixels[..., :colours]
    if inverted:
        colour = 1 - colour
    if unassociated:  # associated alpha has been multiplied in already
        colour = colour * pixels[..., colours:]
    return _orient(colour, orientation)


def _scale(path: Path, page: tifffile.TiffPage) -> int:
    """The sample value that means white."""
    if page.dtype is not None and page.dtype.kind == "f":
        return 1
    if page.dtype is not None and page.dtype.kind == "u" and page.dtype.itemsize == 2:
        return int(2 ** max(np.atleast_1d(page.bitspersample))) - 1
    raise InputError(
        f"{path} holds samples of type {page.dtype}, whose white is not known; expected 8 or 16 "
        "bits without sign, or floats in [0, 1]. Save it as one of these."
    )


def _orient(pixels: NDArray[np.float32], orientation: int) -> NDArray[np.float32]:
    transpose, rows, columns = _ORIENTATIONS.get(orientation, _ORIENTATIONS[1])
    if transpose:
        pixels = pixels.swapaxes(0, 1)
    pixels = pixels[:: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(pixels)
