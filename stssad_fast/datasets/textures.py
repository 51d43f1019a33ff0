"""Photographs of surfaces that come with scikit-image, cut into crops, with drawn defects."""

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from stssad_fast.datasets.folder import GOOD
from stssad_fast.datasets.images import MIN_SIDE, read_image
from stssad_fast.datasets.installed import package_folder
from stssad_fast.datasets.labelled import Split
from stssad_fast.errors import InputError

Texture = Literal["brick", "grass", "gravel"]
Defect = Literal["hole", "scratch"]

_TRAIN_SHARE = 0.6  # of the photograph's width; the test crops come from the rest
_FINER = 4  # defects are drawn this much finer and then shrunk, for smooth edges


def load_textures(
    name: Texture = "brick",
    *,
    kind: Defect = "hole",
    image_size: int = 64,
    n_train: int = 128,
    n_good: int = 48,
    n_defect: int = 48,
    seed: int | np.random.Generator = 0,
) -> Split:
    """Cuts a 512 x 512 photograph into crops and damages some of the test crops.

    Training crops come from the left of the photograph and test crops from the right, so the two
    share no pixel; about half of either are mirrored. A defect multiplies brightness, as a hole or
    a scratch in shadow does: what is left of the surface still shows in it. It has a soft,
    irregular edge and thus is no patch of CutDiff's.

    Args:
        name: "brick", "grass" or "gravel".
        kind: "hole", an irregular dark blob, or "scratch", a thin dark line of varying width.
        image_size: side of a crop in pixels, `MIN_SIDE` to 192.
        n_train: number of training crops.
        n_good: number of test crops without a defect.
        n_defect: number of test crops with one.
        seed: of places and defects.

    Returns:
        Split of grey crops (N, 1, image_size, image_size), good ones first.

    Raises:
        InputError: an argument is out of its range, or scikit-image is not installed.
    """
    if name not in get_args(Texture):
        raise InputError(f"name is {name!r}, expected one of {', '.join(get_args(Texture))}.")
    if kind not in get_args(Defect):
        raise InputError(f"kind is {kind!r}, expected one of {', '.join(get_args(Defect))}.")
    if not MIN_SIDE <= image_size <= 192:
        raise InputError(f"image_size is {image_size!r}, expected {MIN_SIDE} to 192 pixels.")
    if min(n_train, n_good, n_defect) < 1:
        raise InputError("n_train, n_good and n_defect are expected to be at least 1.")
    # The file itself: skimage.data would ask its cache, and perhaps the network, first.
    file = package_folder("skimage", "scikit-image") / "data" / f"{name}.png"
    photograph = read_image(file, channels=1)
    border = round(_TRAIN_SHARE * photograph.shape[2])
    rng = np.random.default_rng(seed)
    train = _crops(photograph[..., :border], n_train, image_size, rng)
    test = _crops(photograph[..., border:], n_good + n_defect, image_size, rng)
    draw = draw_hole if kind == "hole" else draw_scratch
    for index in range(n_good, len(test)):
        test[index] *= torch.from_numpy(draw(image_size, rng))
    labels = np.repeat(np.array([0, 1], np.int64), [n_good, n_defect])
    return Split(train, test, labels, [GOOD] * n_good + [kind] * n_defect)


def draw_hole(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Brightness factors (side, side) in [0, 1] of an irregular dark blob, 1 outside it.

    The blob is a union of two to four random polygons around one point, 8 to 14 % of the side in
    radius, with a blurred edge.
    """
    canvas = Image.new("L", (_FINER * side, _FINER * side), 0)
    pen = ImageDraw.Draw(canvas)
    radius = rng.uniform(0.08, 0.14) * _FINER * side
    middle = rng.uniform(0.2, 0.8, 2) * _FINER * side
    for _ in range(rng.integers(2, 5)):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        reach = radius * rng.uniform(0.55, 1.1, 9)
        center = middle + rng.normal(0, 0.4 * radius, 2)
        corners = center + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        pen.polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return _darken(canvas, side, blur=0.012 * side + 0.3, depth=rng.uniform(0.65, 0.9))


def draw_scratch(side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Brightness factors (side, side) in [0, 1] of a thin dark line, 1 outside it.

    The line bends a little at random on its way, 40 to 80 % of the side long, and swells and
    tapers between 1 and 4 % of the side.
    """
    canvas = Image.new("L", (_FINER * side, _FINER * side), 0)
    pen = ImageDraw.Draw(canvas)
    steps = 48
    length = rng.uniform(0.4, 0.8) * _FINER * side
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.08, steps))
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0) * length / steps
    path += rng.uniform(0.35, 0.65, 2) * _FINER * side - path.mean(0)
    swell = np.interp(np.arange(steps), np.linspace(0, steps, 7), rng.uniform(0.4, 1, 7))
    taper = np.sin(np.linspace(0.1, np.pi - 0.1, steps)) ** 0.5
    radii = np.maximum(0.02 * side * swell * taper, 0.4) * _FINER
    for (x0, y0), (x1, y1), radius in zip(path[:-1], path[1:], radii[1:], strict=True):
        for t in np.linspace(0, 1, 5):  # discs along the line, for round joints
            x, y = x0 + t * (x1 - x0), y0 + t * (y1 - y0)
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return _darken(canvas, side, blur=0.006 * side + 0.1, depth=rng.uniform(0.6, 0.85))


def _darken(canvas: Image.Image, side: int, blur: float, depth: float) -> NDArray[np.float32]:
    soft = canvas.filter(ImageFilter.GaussianBlur(_FINER * blur))
    mask = np.asarray(soft.resize((side, side), Image.Resampling.BOX)).astype(np.float32)
    return 1 - np.float32(depth / 255) * mask


def _crops(photograph: Tensor, count: int, side: int, rng: np.random.Generator) -> Tensor:
    height, width = photograph.shape[1:]
    tops = rng.integers(0, height - side + 1, count)
    lefts = rng.integers(0, width - side + 1, count)
    crops = torch.stack(
        [photograph[:, y : y + side, x : x + side] for y, x in zip(tops, lefts, strict=True)]
    )
    # Perspective tilts the left of a photograph one way and the right the other; mirroring half
    # of the crops gives training and test crops the same tilts.
    mirrored = torch.from_numpy(rng.random(count) < 0.5)
    return torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)
