"""The catalogue: where pixels go, and how sizes and places are distributed."""

import math
import random

import pytest
import torch
import torch.nn.functional as F

from stssad_fast.augment import catalogue
from stssad_fast.augment.catalogue import patches
from stssad_fast.augment.catalogue.base import tried

COUNT = 4000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def positions(count, height, width):
    """Pictures in which every pixel has a value of its own, in (0, 1)."""
    values = (1 + torch.arange(height * width, dtype=torch.float64)) / (2 + height * width)
    return values.reshape(1, 1, height, width).repeat(count, 1, 1, 1)


def boxes(changed):
    """First row and column, height and width (B, 4) of what changed in pictures (B, H, W)."""
    found = []
    for picture in changed:
        rows, columns = picture.any(1).nonzero()[:, 0], picture.any(0).nonzero()[:, 0]
        begin, sides = (rows[0], columns[0]), (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
        found.append([int(value) for value in (*begin, *sides)])
    return torch.tensor(found, dtype=torch.float64)


def assert_uniform(counts):
    """Counts in cells of one probability; a chi-square beyond five standard deviations is none."""
    counts = torch.as_tensor(counts, dtype=torch.float64)
    chi_square = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    freedom = len(counts) - 1
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def assert_same_distribution(found, expected):
    """Means, and shares below quantiles of ``expected``, within 4.5 standard errors."""
    for a, b in zip(found.T, expected.T, strict=True):
        error = math.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) < 4.5 * error + 1e-9
        for q in b.quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=b.dtype)):
            share, other = (a <= q).double().mean(), (b <= q).double().mean()
            error = math.sqrt(other * (1 - other) * (1 / len(a) + 1 / len(b)))
            assert abs(share - other) < 4.5 * error + 1e-9


def with_shape(box):
    """Boxes (B, 4) with their areas and aspects."""
    tall, wide = box[:, 2], box[:, 3]
    return torch.cat([box, (tall * wide)[:, None], (wide / tall)[:, None]], 1)


def torchvision_boxes(count, height, width, area, aspect, *, smaller, tall, seed=0):
    """Boxes as torchvision's documentation draws them, one by one; without those that never fit."""
    draw, found = random.Random(seed), []
    while len(found) < count:
        for _ in range(10):
            pixels = draw.uniform(*area) * height * width
            ratio = math.exp(draw.uniform(math.log(aspect[0]), math.log(aspect[1])))
            h, w = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
            h, w = (round(h), round(w)) if tall else (round(w), round(h))
            if 0 < h <= height - smaller and 0 < w <= width - smaller:
                row, column = draw.randint(0, height - h), draw.randint(0, width - w)
                found.append([row, column, h, w])
                break
    return torch.tensor(found, dtype=torch.float64)


def test_rotate():
    image = positions(COUNT, 6, 6)
    made = catalogue.make("rotate")
    ways = [torch.rot90(image[:1], k, (2, 3)) for k in range(4)]
    assert all(torch.equal(made.of_class(image[:1], k), way) for k, way in enumerate(ways))
    out = made(image, generator=seeded())
    assert_uniform([(out == way).flatten(1).all(1).sum() for way in ways])


def geom_by_slices(picture, k):
    """GEOM's class ``k`` of one picture (H, H), by padding and cutting."""
    side = len(picture)
    by = round(side / 4)
    flip, down, across, quarters = k // 36, k // 12 % 3, k // 4 % 3, k % 4
    if flip:
        picture = picture.flip(1)
    wide = F.pad(picture, (by, by, by, by))
    row, column = ({0: by, 1: 0, 2: 2 * by}[step] for step in (down, across))
    return torch.rot90(wide[row : row + side, column : column + side], quarters)


@pytest.mark.parametrize("side", [8, 28, 32, 30, 1])
def test_classes_of_geom(side):
    image, made = positions(2, side, side), catalogue.make("geom")
    for k in range(72):
        expected = geom_by_slices(image[0, 0], k)
        assert torch.equal(made.of_class(image, k), expected.expand(2, 1, -1, -1))


def test_geom_draws_all_classes_alike():
    image, made = positions(7200, 8, 8), catalogue.make("geom")
    out = made(image, generator=seeded())
    counts = [int((out == made.of_class(image[:1], k)).flatten(1).all(1).sum()) for k in range(72)]
    assert sum(counts) == 7200
    assert_uniform(counts)


def crops(count, height, width, **settings):
    """Crops of pictures whose two channels are ramps, and the boxes that these tell of."""
    rows = ((torch.arange(height) + 0.5) / height).double()[:, None].expand(height, width)
    columns = ((torch.arange(width) + 0.5) / width).double().expand(height, width)
    image = torch.stack([rows, columns]).expand(count, 2, height, width)
    out = catalogue.make("crop", **settings)(image, generator=seeded())
    box = []
    for channel, side in ((out[:, 0, :, 0], height), (out[:, 1, 0, :], width)):
        at = channel * side - 0.5  # first and last pixels are clamped to the part: begin, end
        box.append((at[:, 0].round(), at[:, -1].round() - at[:, 0].round() + 1))
    (row, tall), (column, wide) = box
    return out, torch.stack([row, column, tall, wide], 1)


def test_crop_draws_like_torchvision():
    _, found = crops(COUNT, 64, 64)
    share = found[:, 2] * found[:, 3] / 64**2
    assert 0.073 < share.min() < 0.086  # rounded to whole pixels
    assert share.max() <= 1
    aspect = found[:, 3] / found[:, 2]
    assert 0.7 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 1.42
    expected = torchvision_boxes(
        COUNT, 64, 64, (0.08, 1), (3 / 4, 4 / 3), smaller=0, tall=False, seed=1
    )
    assert_same_distribution(with_shape(found), with_shape(expected))


def test_ten_draws():
    """Half of the draws are too long; one time in 1024 all ten are."""
    image = torch.zeros(100_000, 1, 1, 1).expand(-1, -1, 1000, 1000)
    tall, wide, found = tried(image, (0.5, 0.5), (0.25, 4), (1000, 1000), seeded())
    assert abs((~found).double().mean() - 2**-10) < 4.5 * math.sqrt(2**-10 / 100_000)
    tall, wide = tall[found].double(), wide[found].double()
    assert max(tall.max(), wide.max()) <= 1000
    torch.testing.assert_close(tall * wide, torch.full_like(tall, 5e5), rtol=2e-3, atol=0)
    aspect = (tall / wide).log() / math.log(2)
    assert_same_distribution(aspect[:, None], torch.linspace(-1, 1, 2001).double()[:, None])


def test_crop_enlarges_bilinearly():
    image = torch.rand(200, 2, 12, 20, generator=seeded(1), dtype=torch.float64)
    out = catalogue.make("crop")(image, generator=seeded())
    _, found = crops(200, 12, 20)  # the same seed draws the same boxes
    for before, after, (row, column, tall, wide) in zip(image, out, found.long(), strict=True):
        part = before[None, :, row : row + tall, column : column + wide]
        expected = F.interpolate(part, (12, 20), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("sides", "box"),
    [((8, 24), (0, 6, 8, 11)), ((24, 8), (6, 0, 11, 8)), ((9, 9), (0, 0, 9, 9))],
)
def test_crop_that_never_fits(sides, box):
    """The whole area fits by chance only in a square; else the middle is taken."""
    _, found = crops(50, *sides, min_area=1.0)
    assert torch.equal(found, torch.tensor(box, dtype=torch.float64).expand(50, 4))


def test_cutout_draws_like_torchvision():
    image = positions(COUNT, 64, 64)
    out = catalogue.make("cutout")(image, generator=seeded())
    changed = (out != image)[:, 0]
    assert not out[:, 0][changed].any()
    found = boxes(changed)
    area = found[:, 2] * found[:, 3]
    assert torch.equal(area, changed.flatten(1).sum(1).double())
    assert 0.018 < (area / 64**2).min() < 0.022
    assert 0.32 < (area / 64**2).max() < 0.345
    expected = torchvision_boxes(
        COUNT, 64, 64, (0.02, 0.33), (0.3, 3.3), smaller=1, tall=True, seed=1
    )
    assert_same_distribution(with_shape(found), with_shape(expected))


def test_cutout_where_nothing_fits():
    image = positions(100, 1, 1)
    assert torch.equal(catalogue.make("cutout")(image, generator=seeded()), image)


@pytest.mark.parametrize(
    ("sides", "size", "expected"),
    [
        ((32, 32), 0.2, (6, 6)),
        ((10, 40), 0.5, (5, 20)),
        ((8, 8), 0.01, (1, 1)),
        ((5, 5), 1, (5, 5)),
    ],
)
def test_cutout_of_one_size(sides, size, expected):
    image = positions(300, *sides)
    out = catalogue.make("cutout", size=size)(image, generator=seeded())
    found = boxes((out != image)[:, 0])
    assert torch.equal(found[:, 2:], torch.tensor(expected).double().expand(300, 2))
    for axis in (0, 1):
        assert found[:, axis].min() == 0
        assert found[:, axis].max() == sides[axis] - expected[axis]


@pytest.fixture
def still(monkeypatch):
    """Patches keep their colours, so that their pixels can be recognised."""
    pytest.importorskip("kornia")
    monkeypatch.setattr(patches, "JITTER", (0.0, 0.0, 0.0, 0.0))


def sources(image, out, changed):
    """Rows and columns that the changed pixels of one picture came from."""
    _, height, width = image.shape
    at = (out[0][changed] * (2 + height * width)).round().long() - 1
    return at // width, at % width


def test_cutpaste_copies_one_rectangle(still):
    image = positions(400, 32, 32)
    out = catalogue.make("cutpaste")(image, generator=seeded())
    changed = (out != image)[:, 0]
    moved = changed.flatten(1).any(1)
    assert moved.double().mean() > 0.98
    image, out, changed = image[moved], out[moved], changed[moved]
    found = boxes(changed)
    assert torch.equal(found[:, 2] * found[:, 3], changed.flatten(1).sum(1).double())
    for before, after, where, (row, column, _, _) in zip(
        image, out, changed, found.long(), strict=True
    ):
        rows, columns = sources(before, after, where)
        at = where.nonzero()
        # One shift for all pixels, and none of them from beyond the border.
        assert len((rows - at[:, 0]).unique()) == len((columns - at[:, 1]).unique()) == 1
        assert (rows[0], columns[0]) != (row, column)


def test_cutpaste_draws_its_sizes(still):
    image = positions(COUNT, 64, 64)
    out = catalogue.make("cutpaste")(image, generator=seeded())
    changed = (out != image)[:, 0]
    found = boxes(changed[changed.flatten(1).any(1)])
    draw, expected = random.Random(1), []
    for _ in range(COUNT):
        pixels = draw.uniform(0.02, 0.15) * 64**2
        aspect = draw.uniform(*draw.choice([(0.3, 1), (1, 3.3)]))
        h, w = int(math.sqrt(pixels / aspect)), int(math.sqrt(pixels * aspect))
        expected.append([draw.randint(0, 64 - h), draw.randint(0, 64 - w), h, w])
    expected = torch.tensor(expected, dtype=torch.float64)
    assert_same_distribution(with_shape(found), with_shape(expected))


def test_scar_copies_a_turned_rectangle(still):
    image = positions(COUNT, 32, 32)
    out = catalogue.make("cutpaste_scar")(image, generator=seeded())
    changed = (out != image)[:, 0]
    area = changed.flatten(1).sum(1).double()
    assert area.max() <= 25 * 16
    # 17 by 8.5 pixels in the mean; where source and target overlap a pixel may keep its value.
    spread = math.sqrt((17**2 + 18.7) * (8.5**2 + 16.3) - (17 * 8.5) ** 2)
    assert abs(area.mean() - 17 * 8.5) < 4.5 * spread / math.sqrt(COUNT) + 0.5
    angles, shares, sides = [], [], []
    for before, after, where in zip(image[:400], out, changed, strict=False):
        rows, columns = sources(before, after, where)
        at = where.nonzero().double()
        if len(at) < 60:
            continue
        tall, wide = (int(side.max() - side.min()) + 1 for side in (rows, columns))
        sides.append((tall, wide))
        shares.append(len(at) / (tall * wide))  # about one pixel for each of the source
        # The best rotation from the source to where it went.
        source = torch.stack([rows, columns], 1).double()
        source, target = source - source.mean(0), at - at.mean(0)
        m = source.T @ target
        angle = math.degrees(math.atan2(m[0, 1] - m[1, 0], m[0, 0] + m[1, 1]))
        turn = math.radians(angle)
        cos, sin = math.cos(turn), math.sin(turn)
        matrix = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
        assert (source @ matrix - target).abs().max() < 1.5
        angles.append(angle)
    angles = torch.tensor(angles, dtype=torch.float64)
    assert len(angles) > 200
    assert [max(side) for side in zip(*sides, strict=True)] == [24, 15]
    assert min(tall for tall, _ in sides) == 10
    assert max(shares) < 1.15
    assert sorted(shares)[len(shares) // 20] > 0.85  # less where it lies on its source
    assert -47 < angles.min() < -40
    assert 40 < angles.max() < 47
    even = torch.linspace(-45, 45, 2001, dtype=torch.float64)
    assert_same_distribution(angles[:, None], even[:, None])


def test_scar_grows_with_the_picture(still):
    """Twice the side: patches of about 4 times as many pixels."""
    areas = []
    for side in (32, 64):
        image = positions(1500, side, side)
        changed = catalogue.make("cutpaste_scar")(image, generator=seeded()) != image
        areas.append(changed.flatten(1).sum(1).double().mean())
    assert areas[1] / areas[0] == pytest.approx(34.5 * 17.5 / (17 * 8.5), rel=0.03)


@pytest.mark.parametrize("name", ["cutpaste", "cutpaste_scar"])
def test_pasted_colours_change_a_little(name):
    """In a picture of one colour the patch is where the colour is another."""
    pytest.importorskip("kornia")
    image = torch.tensor([0.6, 0.4, 0.2], dtype=torch.float64)[:, None, None].expand(500, 3, 16, 16)
    out = catalogue.make(name)(image, generator=seeded())
    changed = out != image
    assert changed.flatten(1).any(1).all()
    difference = (out - image).abs()
    # Brightness, saturation and hue by up to a tenth: (0.6, 0.4, 0.2) moves by less than 0.3.
    assert 0.05 < difference.max() < 0.3
    for picture, where in zip(out, changed.any(1), strict=True):
        assert (picture[:, where] == picture[:, where][:, :1]).all()
