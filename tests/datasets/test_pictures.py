"""Pictures that do not lie in memory: the same rows, and clear words when they cannot be read."""

import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from stssad_fast.datasets import (
    ConvertedPictures,
    PictureFiles,
    ReadAhead,
    as_pictures,
    as_train_test,
    batches,
    mean_and_std,
    read_folder,
)
from stssad_fast.datasets import folder as folders
from stssad_fast.errors import InputError

ROWS = [torch.tensor([4, 0, 4]), np.array([2]), [1, 3], slice(1, 4), 2, np.int64(-1), slice(0, 0)]


@pytest.fixture
def folder(tmp_path, rng):
    for index in range(6):
        pixels = rng.integers(0, 256, (20, 24, *((3,) if index == 3 else ())), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    return tmp_path


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("channels", ["auto", 1])
def test_files_give_what_memory_gives(folder, size, channels):
    kept = read_folder(folder, image_size=size, channels=channels)
    lazy = read_folder(folder, image_size=size, channels=channels, memory=0)
    assert isinstance(kept.images, torch.Tensor) and isinstance(lazy.images, PictureFiles)
    assert tuple(lazy.images.shape) == tuple(kept.images.shape) and lazy.paths == kept.paths
    for rows in ROWS:
        assert torch.equal(lazy.images[rows], kept.images[rows])
    grey, colour = (torch.cat(list(batches(lazy.with_channels(c).images, 4))) for c in (1, 3))
    if channels == 1:
        assert torch.equal(grey, kept.images)
        assert torch.equal(colour, kept.with_channels(3).images)
    else:
        assert torch.equal(colour, kept.images)


def test_the_limit_counts_decoded_bytes(folder, monkeypatch):
    monkeypatch.setattr(folders, "BATCH", 2)
    bytes_ = 6 * 3 * 16 * 16 * 4
    at, below = (read_folder(folder, image_size=16, memory=b / 2**30) for b in (bytes_, bytes_ - 1))
    assert isinstance(at.images, torch.Tensor) and isinstance(below.images, PictureFiles)
    with pytest.raises(InputError, match="memory is nan"):
        read_folder(folder, image_size=16, memory=float("nan"))


def test_what_cannot_be_read_is_found_first(folder):
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:90])
    with pytest.raises(InputError, match=r"1\.png cannot be read"):
        read_folder(folder, image_size=16, memory=0)
    skipping = read_folder(folder, image_size=16, memory=0, on_error="skip")
    assert len(skipping.images) == 5 and [path.name for path, _ in skipping.skipped] == ["1.png"]
    Image.new("L", (24, 21)).save(folder / "1.png")
    with pytest.raises(InputError, match=r"1\.png is 21 x 24 pixels and .*0\.png is 20 x 24"):
        read_folder(folder, image_size=None, memory=0)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(b"GIF"), "cannot be read as a picture"),
        (lambda path: Image.new("L", (24, 21)).save(path), "is 21 x 24 pixels, and was 20 x 24"),
    ],
)
def test_a_file_that_changes_later(folder, spoil, words):
    images = read_folder(folder, image_size=None, memory=0).images
    spoil(folder / "2.png")
    assert images[[0, 1, 3]].shape[0] == 3
    for read in (lambda: images[torch.tensor([0, 2])], lambda: list(batches(images, 2))):
        with pytest.raises(InputError, match=rf"2\.png {words}.*Put it back|2\.png {words}.*put"):
            read()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 16, 17), (5, 3, 16, 17)])
def test_a_memmap_is_not_copied(tmp_path, rng, dtype, shape):
    white = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    array = (rng.random(shape) * white).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    mapped = as_pictures(np.load(tmp_path / "a.npy", mmap_mode="r"))
    kept = as_pictures(array)
    assert isinstance(mapped, ConvertedPictures) and isinstance(kept, torch.Tensor)
    assert tuple(mapped.shape) == tuple(kept.shape)
    for rows in ROWS:
        assert torch.equal(mapped[rows], kept[rows])


@pytest.mark.parametrize(
    "view", [lambda a: a, lambda a: a[3:7], lambda a: a[::-2, :, ::-1], lambda a: a[1:][2:, 1:]]
)
def test_a_memmap_is_sent_without_its_values(tmp_path, rng, view):
    np.save(tmp_path / "a.npy", rng.integers(0, 256, (9, 17, 17), dtype=np.uint8))
    pictures = as_pictures(view(np.load(tmp_path / "a.npy", mmap_mode="r")))
    sent = pickle.dumps(pictures)
    assert len(sent) < 1500
    again = pickle.loads(sent)
    assert torch.equal(again[:], pictures[:]) and len(again) == len(pictures)


def test_a_memmap_is_checked_at_once(tmp_path):
    array = np.zeros((300, 16, 16), np.float32)
    array[299, 0, 0] = np.nan
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match="test_images holds NaN"):
        as_pictures(np.load(tmp_path / "a.npy", mmap_mode="r"), name="test_images")
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")[:3]
    with pytest.raises(InputError, match="holds 3 picture"):
        as_pictures(mapped, min_count=4)
    with pytest.raises(InputError, match="16 x 16 pixels; both sides need at least 20"):
        as_pictures(mapped, min_side=20)


class Own:
    """A class of one's own: pictures made when they are asked for."""

    def __init__(self, shape=(9, 1, 16, 16), given=None):
        self.shape, self.given = shape, given or shape[1:]

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        return np.stack([np.full(self.given, int(row), np.uint8) for row in rows])


def test_a_class_of_ones_own():
    pictures = as_pictures(Own())
    assert torch.equal(pictures[[3, 1]][:, 0, 0, 0] * 255, torch.tensor([3.0, 1.0]))
    with pytest.raises(InputError, match="but gives pictures"):
        as_pictures(Own(given=(1, 16, 17)))
    for nothing in (3, None, object(), [], [[1]], "nowhere"):
        with pytest.raises(InputError):
            as_pictures(nothing)


def test_folders_and_files_as_they_are_given(folder):
    kept = read_folder(folder, image_size=None)
    train, test = as_train_test(folder, [str(path) for path in kept.paths])
    assert torch.equal(train, kept.images) and torch.equal(test, kept.images)
    with pytest.raises(InputError, match="does not exist"):
        as_pictures([folder / "0.png", folder / "9.png"])


class Slow(Own):
    """Notes who asked for what."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def __getitem__(self, rows):
        self.asked.append((threading.current_thread() is threading.main_thread(), list(rows)))
        if 8 in list(rows):
            raise InputError("gone")
        return super().__getitem__(rows)


def test_read_ahead_uses_a_right_guess_only():
    slow = Slow()
    ahead = ReadAhead(slow)
    one, other, bad = torch.tensor([1, 2]), torch.tensor([2, 1]), torch.tensor([8])
    ahead.announce(one)
    assert np.array_equal(ahead[one], slow[one])
    ahead.announce(one)
    assert np.array_equal(ahead[other], slow[other])
    ahead.announce(bad)  # a wrong guess that fails
    assert np.array_equal(ahead[one], slow[one])
    ahead.announce(bad)
    with pytest.raises(InputError, match="gone"):
        ahead[bad]
    assert not slow.asked[0][0] and [rows for main, rows in slow.asked if main].count([2, 1]) == 2


def test_mean_and_std(rng):
    images = torch.from_numpy(rng.random((70, 3, 9, 8)).astype(np.float32))
    mean, std = mean_and_std(images)
    flat = images.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, flat.mean(1).float(), rtol=2e-7, atol=0)
    torch.testing.assert_close(std, flat.std(1).float(), rtol=2e-7, atol=0)
