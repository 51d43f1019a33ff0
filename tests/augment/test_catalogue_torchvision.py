"""The catalogue against torchvision, from which the study takes its augmentations."""

import pytest
import torch

from stssad_fast.augment import catalogue
from stssad_fast.augment.catalogue import base, colour, elementwise

pytest.importorskip("kornia")
torchvision = pytest.importorskip("torchvision")
transforms = pytest.importorskip("torchvision.transforms")
functional = transforms.functional


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, channels=3, height=32, width=32):
    return torch.rand(count, channels, height, width, generator=seeded(9))


def assert_near(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("factor", [0.2, 0.7, 1.0, 1.8])
@pytest.mark.parametrize("channels", [1, 3])
def test_changes_of_colour(factor, channels):
    image = pictures(1, channels)
    for ours, theirs in (
        (colour._brightness, functional.adjust_brightness),
        (colour._contrast, functional.adjust_contrast),
        (colour._saturation, functional.adjust_saturation),
    ):
        number = torch.full((1, 1, 1, 1), factor)
        if channels == 3 or ours is not colour._saturation:
            expected = theirs(image, factor)
            assert_near(ours(image, number, None).clamp(0, 1), expected, 3e-4)  # 0.299 or 0.2989


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.05, 0.2])
def test_hue(turn):
    image = pictures(2)
    number = torch.full((2, 1, 1, 1), turn)
    assert_near(colour._hue(image, number, None), functional.adjust_hue(image, turn))


def test_grey():
    image = pictures(2)
    assert_near(colour.grey(image), functional.rgb_to_grayscale(image), 3e-4)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
@pytest.mark.parametrize(("side", "kernel"), [(32, 3), (64, 7)])
def test_blur(sigma, side, kernel, monkeypatch):
    monkeypatch.setattr(elementwise, "uniform", lambda image, *_: torch.full((len(image),), sigma))
    image = pictures(2, 3, side, side)
    expected = functional.gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    assert_near(catalogue.make("blur")(image), expected)


def test_rotate_and_flip():
    image = pictures(2)
    for k in range(4):
        expected = functional.rotate(image, 90 * k)
        assert torch.equal(catalogue.make("rotate").of_class(image, k), expected)
    assert torch.equal(catalogue.make("flip").of_class(image, 1), functional.vflip(image))
    assert torch.equal(catalogue.make("invert").of_class(image, 1), functional.invert(image))


@pytest.mark.parametrize("side", [28, 32])
def test_geom(side):
    image, made = pictures(2, 3, side, side), catalogue.make("geom")
    for k in range(72):
        flip, down, across, quarters = k // 36, k // 12 % 3, k // 4 % 3, k % 4
        x, y = ((0, side / 4, -side / 4)[step] for step in (across, down))
        expected = functional.hflip(image) if flip else image
        expected = functional.affine(expected, 0, [x, y], 1, 0, fill=0)
        assert torch.equal(made.of_class(image, k), functional.rotate(expected, 90 * quarters))


def assert_same_means(ours, theirs):
    for a, b in zip(ours.double().T, theirs.double().T, strict=True):
        error = (a.var() / len(a) + b.var() / len(b)).sqrt()
        assert abs(a.mean() - b.mean()) < 4.5 * error
        assert abs(a.std() / b.std() - 1) < 0.08


def test_sizes_of_crops_and_erased_patches():
    image, count = pictures(1, 1), 4000
    many = image.expand(count, -1, -1, -1)
    torch.manual_seed(0)
    for get, area, aspect, smaller, first in (
        (transforms.RandomResizedCrop.get_params, (0.08, 1.0), (3 / 4, 4 / 3), 0, 2),
        (transforms.RandomErasing.get_params, (0.02, 0.33), (0.3, 3.3), 1, 2),
    ):
        largest = (32 - smaller, 32 - smaller)
        tall, wide, found = base.tried(many, area, aspect, largest, seeded())
        theirs = [get(image[0], list(area), list(aspect)) for _ in range(count)]
        sizes = torch.tensor([box[first : first + 2] for box in theirs])
        assert_same_means(torch.stack([tall, wide], 1)[found], sizes)


def test_an_enlarged_crop():
    """Boxes recovered from a crop of ramps, as in the test of places."""
    side = 32
    ramp = (torch.arange(side) + 0.5) / side
    ramps = torch.stack([ramp[:, None].expand(side, side), ramp.expand(side, side)])
    out = catalogue.make("crop")(ramps.double().expand(50, -1, -1, -1), generator=seeded())
    image = pictures(50)
    cropped = catalogue.make("crop")(image, generator=seeded())
    for k in range(50):
        rows, columns = (out[k, 0, :, 0] * side - 0.5), (out[k, 1, 0, :] * side - 0.5)
        top, left = int(rows[0].round()), int(columns[0].round())
        tall, wide = int(rows[-1].round()) - top + 1, int(columns[-1].round()) - left + 1
        expected = functional.resized_crop(image[k], top, left, tall, wide, [side, side])
        assert_near(cropped[k], expected, 2e-5)
