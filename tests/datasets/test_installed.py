"""Pictures that come with installed packages."""

import sys
from importlib import invalidate_caches

import numpy as np
import pytest
import torch
from PIL import Image

from stssad_fast.datasets import load_digits, load_elpv, load_textures
from stssad_fast.datasets.textures import draw_hole, draw_scratch
from stssad_fast.errors import InputError


def test_digits():
    split = load_digits(6, 9, seed=3)
    assert split.train_images.shape == (109, 1, 16, 16)
    assert split.test_images.shape == (72 + 180, 1, 16, 16)
    assert split.test_labels.sum() == 180 and set(split.test_kinds) == {"good", "9"}
    assert split.train_images.min() >= 0 and split.train_images.max() <= 1
    assert load_digits(image_size=None).train_images.shape[-2:] == (8, 8)


def test_digits_division_is_seeded_and_disjoint():
    first, again, other = (load_digits(image_size=None, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train_images, again.train_images)
    assert not torch.equal(first.train_images, other.train_images)
    good = first.test_images[torch.from_numpy(first.test_labels == 0)]
    everything = torch.cat([first.train_images, good]).flatten(1)
    assert len(torch.unique(everything, dim=0)) == len(everything) == 181


@pytest.mark.parametrize("arguments", [(6, 6), (6, 10), (-1, 3)])
def test_bad_digits(arguments):
    with pytest.raises(InputError, match="normal is"):
        load_digits(*arguments)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_bad_fractions(fraction):
    with pytest.raises(InputError, match="train_fraction"):
        load_digits(train_fraction=fraction)
    with pytest.raises(InputError, match="test_fraction"):
        load_elpv(test_fraction=fraction)


@pytest.mark.parametrize("name", ["brick", "grass", "gravel"])
@pytest.mark.parametrize("kind", ["hole", "scratch"])
def test_textures(name, kind):
    sizes = {"n_train": 5, "n_good": 3, "n_defect": 4, "image_size": 48}
    split = load_textures(name, kind=kind, seed=1, **sizes)
    assert split.train_images.shape == (5, 1, 48, 48) and split.test_images.shape == (7, 1, 48, 48)
    assert split.test_kinds == ["good"] * 3 + [kind] * 4
    assert split.test_labels.tolist() == [0] * 3 + [1] * 4
    assert split.test_images.min() >= 0 and split.test_images.max() <= 1
    again = load_textures(name, kind=kind, seed=1, **sizes)
    assert torch.equal(split.test_images, again.test_images)
    assert not torch.equal(
        split.test_images, load_textures(name, kind=kind, seed=2, **sizes).test_images
    )


def test_texture_crops_share_no_pixel(monkeypatch):
    columns = torch.arange(512.0).expand(1, 512, 512)
    monkeypatch.setattr("stssad_fast.datasets.textures.read_image", lambda *_, **__: columns)
    split = load_textures(n_train=200, n_good=200, n_defect=1)
    assert split.train_images.max() < split.test_images[:200].min()


@pytest.mark.parametrize("draw", [draw_hole, draw_scratch])
@pytest.mark.parametrize("side", [16, 64, 192])
def test_defects_are_dark_small_and_soft(draw, side, rng):
    for _ in range(20):
        factor = draw(side, rng)
        assert factor.dtype == np.float32 and factor.shape == (side, side)
        assert factor.min() >= 0 and factor.max() <= 1
        assert factor.min() < 0.8
        assert 0.001 < (factor < 0.95).mean() < 0.2
        assert ((factor > factor.min() + 0.02) & (factor < 0.98)).any()


@pytest.mark.parametrize(
    "argument", [{"name": "wood"}, {"kind": "dent"}, {"image_size": 4}, {"n_good": 0}]
)
def test_bad_texture_arguments(argument):
    with pytest.raises(InputError, match=next(iter(argument))):
        load_textures(**argument)


@pytest.fixture
def elpv(tmp_path, monkeypatch):
    """The package in its true layout: 10 good, 3 defective, 2 doubtful mono cells, 2 of poly."""
    data = tmp_path / "elpv_dataset" / "data"
    (data / "images").mkdir(parents=True)
    (tmp_path / "elpv_dataset" / "__init__.py").write_text("raise RuntimeError('not imported')")
    cells = [(0.0, "mono")] * 10 + [(1.0, "mono")] * 3 + [(1 / 3, "mono"), (2 / 3, "mono")]
    lines = []
    for number, (probability, kind) in enumerate([*cells, (0.0, "poly"), (1.0, "poly")], 1):
        name = f"images/cell{number:04}.png"
        Image.new("L", (300, 300), number).save(data / name)
        lines.append(f"{name}  {probability!r:<20} {kind}\n")
    (data / "labels.csv").write_text("".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    invalidate_caches()
    return data


def numbers(images):
    return (images.mean((1, 2, 3)) * 255).round().int().tolist()


def test_elpv(elpv):
    split = load_elpv(image_size=16, seed=0)
    assert split.train_images.shape == (8, 1, 16, 16) and split.test_images.shape == (5, 1, 16, 16)
    train, test = numbers(split.train_images), numbers(split.test_images)
    assert sorted(train + test[:2]) == list(range(1, 11)) and test[2:] == [11, 12, 13]
    assert split.test_labels.tolist() == [0, 0, 1, 1, 1]
    assert split.test_kinds == ["good"] * 2 + ["defective"] * 3
    assert numbers(load_elpv(image_size=16, seed=0).train_images) == train
    assert any(numbers(load_elpv(image_size=16, seed=s).train_images) != train for s in (1, 2, 3))
    assert len(load_elpv(None, image_size=16).test_images) == 2 + 4


def test_bad_elpv(elpv):
    with pytest.raises(InputError, match="module is 'thin'"):
        load_elpv("thin")
    with pytest.raises(InputError, match="1 good and 1 defective cells"):
        load_elpv("poly")
    (elpv / "labels.csv").write_text("images/cell0001.png 0.0\n")
    with pytest.raises(InputError, match=r"labels\.csv cannot be read"):
        load_elpv()


def test_elpv_not_installed(monkeypatch):
    monkeypatch.setattr("stssad_fast.datasets.installed.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'stssad-fast\[elpv\]'"):
        load_elpv()
