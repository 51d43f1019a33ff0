"""The catalogue: what becomes of values, and how strongly."""

import colorsys
import itertools
import math

import pytest
import torch

from stssad_fast.augment import catalogue
from stssad_fast.augment.catalogue import colour, elementwise, mixed

pytest.importorskip("kornia")

LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, channels=3, height=8, width=8):
    shape = count, channels, height, width
    return torch.rand(shape, generator=seeded(9), dtype=torch.float64)


def assert_uniform(values, low, high):
    """Range, mean and spread, within 4.5 standard errors."""
    width = high - low
    assert low - 1e-6 <= values.min() < low + 0.02 * width
    assert high - 0.02 * width < values.max() <= high + 1e-6
    error = width / math.sqrt(len(values))
    assert abs(values.mean() - (low + high) / 2) < 4.5 * error / math.sqrt(12)
    # The variance of a uniform number's square about its mean: (1/80 − 1/144) width⁴.
    assert abs(values.var() - width**2 / 12) < 4.5 * error * width * math.sqrt(1 / 80 - 1 / 144)


@pytest.mark.parametrize("std", [None, 0.02])
def test_noise_is_normal_and_clamped(std):
    image = torch.full((50, 3, 40, 40), 0.5, dtype=torch.float64)
    settings = {} if std is None else {"std": std}
    made = catalogue.make("noise", **settings)
    noise = (made(image, generator=seeded()) - image).flatten()
    std = std or 0.1
    assert abs(noise.mean()) < 4.5 * std / math.sqrt(len(noise))
    assert abs(noise.std() / std - 1) < 4.5 / math.sqrt(2 * len(noise))
    assert abs((noise.abs() < std).double().mean() - math.erf(math.sqrt(0.5))) < 0.005
    dark = made(torch.zeros_like(image), generator=seeded())
    assert torch.equal(dark.flatten(), noise.clamp(min=0)) or (
        (dark.flatten() - noise.clamp(min=0)).abs().max() < 1e-15
    )


@pytest.mark.parametrize("probability", [None, 0.4])
def test_mask_blackens_values_by_themselves(probability):
    image = torch.full((100, 3, 30, 30), 0.7)
    settings = {} if probability is None else {"probability": probability}
    out = catalogue.make("mask", **settings)(image, generator=seeded())
    masked = out == 0
    assert torch.equal(out[~masked], image[~masked])
    p = probability or 0.1
    assert abs(masked.double().mean() - p) < 4.5 * math.sqrt(p * (1 - p) / masked.numel())
    both = (masked[:, 0] & masked[:, 1]).double()
    assert abs(both.mean() - p**2) < 4.5 * math.sqrt(p**2 * (1 - p**2) / both.numel())


def kernel_of(side):
    """Blurs of a point in the middle, summed along the other axis: (3000, side)."""
    image = torch.zeros(3000, 1, 5, side, dtype=torch.float64)
    image[:, :, 2, side // 2] = 1
    return catalogue.make("blur")(image, generator=seeded())[:, 0].sum(1)


@pytest.mark.parametrize(("side", "length"), [(8, 3), (32, 3), (59, 5), (60, 7), (64, 7)])
def test_blur_is_a_gaussian_with_a_width_of_its_own(side, length):
    kernel = kernel_of(side)
    middle, reach = side // 2, length // 2
    torch.testing.assert_close(kernel.sum(1), torch.ones(3000, dtype=torch.float64))
    assert not kernel[:, : middle - reach].any()
    assert not kernel[:, middle + reach + 1 :].any()
    # exp(−1/(2 σ²)) between neighbours tells of σ.
    sigma = (-0.5 / (kernel[:, middle + 1] / kernel[:, middle]).log()).sqrt()
    assert_uniform(sigma, 0.1, 2)
    for distance in range(1, reach + 1):
        expected = (-(distance**2) / (2 * sigma**2)).exp() * kernel[:, middle]
        torch.testing.assert_close(kernel[:, middle + distance], expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(kernel[:, middle - distance], expected, rtol=0, atol=1e-9)


def test_blur_mirrors_at_the_border(monkeypatch):
    monkeypatch.setattr(elementwise, "uniform", lambda image, *_: torch.full((len(image),), 1.5))
    image = pictures(2, 2, 7, 9)
    weights = torch.exp(-torch.tensor([1.0, 0, 1], dtype=torch.float64) / (2 * 1.5**2))
    weights /= weights.sum()
    wide = torch.cat([image[:, :, 1:2], image, image[:, :, -2:-1]], 2)
    expected = sum(w * wide[:, :, k : k + 7] for k, w in enumerate(weights))
    wide = torch.cat([expected[..., 1:2], expected, expected[..., -2:-1]], 3)
    expected = sum(w * wide[..., k : k + 9] for k, w in enumerate(weights))
    out = catalogue.make("blur")(image)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_invert():
    image = pictures(3)
    assert torch.equal(catalogue.make("invert").of_class(image, 1), 1 - image)


def test_brightness():
    image = pictures(3000) * 0.5
    out = colour.jittered(image, (0.8, 0, 0, 0), seeded())
    factor = out[:, 0, 0, 0] / image[:, 0, 0, 0]
    assert_uniform(factor, 0.2, 1.8)
    torch.testing.assert_close(out, image * factor[:, None, None, None], rtol=0, atol=1e-12)


def test_contrast_is_about_the_mean_grey():
    image = pictures(3000) * 0.2 + 0.4
    out = colour.jittered(image, (0, 0.8, 0, 0), seeded())
    factor = (out[:, 0, 0, 0] - out[:, 1, 1, 1]) / (image[:, 0, 0, 0] - image[:, 1, 1, 1])
    assert_uniform(factor, 0.2, 1.8)
    factor = factor[:, None, None, None]
    mean = (image * LUMA).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    torch.testing.assert_close(out, mean + factor * (image - mean), rtol=0, atol=1e-9)


def test_saturation_is_about_the_grey_of_each_pixel():
    image = pictures(3000) * 0.2 + 0.4
    out = colour.jittered(image, (0, 0, 0.8, 0), seeded())
    grey = (image * LUMA).sum(1, keepdim=True)
    factor = ((out - grey) / (image - grey))[:, 0].flatten(1).median(1).values
    assert_uniform(factor, 0.2, 1.8)
    expected = grey + factor[:, None, None, None] * (image - grey)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-9)


def test_hue_is_turned():
    image = pictures(2000, 3, 1, 2)
    image[:, :, 0, 0] = torch.tensor([0.8, 0.3, 0.3])  # hue 0
    out = colour.jittered(image, (0, 0, 0, 0.2), seeded())
    turns = []
    for before, after in zip(image[:, :, 0].mT.tolist(), out[:, :, 0].mT.tolist(), strict=True):
        turn = (colorsys.rgb_to_hsv(*after[0])[0] + 0.5) % 1 - 0.5
        hue, saturation, value = colorsys.rgb_to_hsv(*before[1])
        expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        assert after[1] == pytest.approx(expected, abs=1e-5)
        turns.append(turn)
    assert_uniform(torch.tensor(turns, dtype=torch.float64), -0.2, 0.2)


def test_all_orders_of_the_four_are_alike(monkeypatch):
    """Each change is replaced by one that writes a digit in front of those that are there."""
    for digit, name in enumerate(("_brightness", "_contrast", "_saturation", "_hue"), 1):
        monkeypatch.setattr(colour, name, lambda image, *_, digit=digit: (image + digit) / 10)
    image = torch.zeros(4800, 3, 1, 1, dtype=torch.float64)
    out = colour.jittered(image, (0.1, 0.1, 0.1, 0.1), seeded())[:, 0, 0, 0]
    found = (out * 10**4).round().long()
    orders = [int("".join(order)) for order in itertools.permutations("1234")]
    counts = torch.tensor([int((found == order).sum()) for order in orders]).double()
    assert counts.sum() == 4800
    # 23 degrees of freedom: beyond 64 once in 100 000 times.
    assert ((counts - 200) ** 2 / 200).sum() < 64


@pytest.mark.parametrize("channels", [1, 4])
def test_pictures_without_colours(channels):
    image = pictures(200, channels) * 0.2 + 0.4
    assert torch.equal(colour.jittered(image, (0, 0, 1, 0.5), seeded()), image)
    out = colour.jittered(image, (0, 0.8, 0, 0), seeded())
    mean = image.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(out.mean((1, 2, 3), keepdim=True), mean, rtol=0, atol=1e-12)
    assert not torch.equal(out, image)


def test_contrast_of_a_region_is_about_its_mean():
    image = pictures(50) * 0.2 + 0.4
    region = torch.zeros(50, 1, 8, 8, dtype=torch.bool)
    region[:, :, 2:5, 1:4] = True
    part = image[:, :, 2:5, 1:4]
    out = colour.jittered(image, (0, 0.8, 0, 0), seeded(), region)[:, :, 2:5, 1:4]
    expected = colour.jittered(part, (0, 0.8, 0, 0), seeded())
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    assert not torch.equal(out, colour.jittered(image, (0, 0.8, 0, 0), seeded())[:, :, 2:5, 1:4])


@pytest.mark.parametrize("name", ["color", "simclr"])
def test_strengths_are_those_of_simclr(name, monkeypatch):
    given = []

    def spy(image, strengths, *_):
        given.append(tuple(strengths))
        return image

    monkeypatch.setattr({"color": colour, "simclr": mixed}[name], "jittered", spy)
    for settings in ({}, {"strength": 0.5}):
        catalogue.make(name, **settings)(pictures(2))
    assert given[0] == pytest.approx((0.8, 0.8, 0.8, 0.2))
    assert given[1] == pytest.approx((0.4, 0.4, 0.4, 0.1))


def share(found, probability):
    error = math.sqrt(probability * (1 - probability) / len(found))
    return abs(found.double().mean() - probability) < 4.5 * error


def test_simclr_flips_half_of_the_pictures():
    ramp = torch.linspace(0.2, 0.8, 16, dtype=torch.float64)
    image = ramp.expand(3000, 1, 16, 16)
    out = catalogue.make("simclr")(image, generator=seeded())
    assert share(out[:, 0, 8, 0] > out[:, 0, 8, -1], 0.5)


def test_simclr_greys_a_fifth_of_the_pictures():
    out = catalogue.make("simclr")(pictures(3000), generator=seeded())
    same = (out - out[:, :1]).abs().flatten(1).max(1).values < 1e-12
    assert share(same, 0.2)


def test_simclr_colours_and_blurs_a_share_of_the_pictures(monkeypatch):
    made = catalogue.make("simclr")
    image = pictures(3000, 1) * 0.5 + 0.25
    monkeypatch.setattr(made.blur, "forward", lambda image, **_: torch.zeros_like(image))
    assert share((made(image, generator=seeded()) == 0).flatten(1).all(1), 0.5)
    monkeypatch.setattr(made.blur, "forward", lambda image, **_: image)
    monkeypatch.setattr(mixed, "jittered", lambda image, *_: torch.ones_like(image))
    assert share((made(image, generator=seeded()) == 1).flatten(1).all(1), 0.8)
