"""Labelled sets in one NumPy file: what is taken, and what is refused with a reason."""

from pathlib import Path

import numpy as np
import pytest

from stssad_fast.datasets import read_labelled
from stssad_fast.errors import InputError

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 16, 16), dtype=np.uint8)
LABELS = np.arange(6) % 3
ARRAYS = {
    "train_images": PICTURES,
    "train_labels": LABELS,
    "test_images": PICTURES,
    "test_labels": LABELS,
}


def test_keras_names_and_colours_last(tmp_path: Path) -> None:
    colour = np.repeat(PICTURES[..., None], 3, axis=3)
    path = tmp_path / "set.npz"
    np.savez(path, x_train=colour, y_train=LABELS[:, None], x_test=colour, y_test=LABELS)
    train, test = read_labelled(path)
    assert train.images.shape == test.images.shape == (6, 3, 16, 16)
    assert train.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"train_images": PICTURES / 255}, "train_images in .* is float64"),
        ({"test_labels": LABELS[:3]}, "test_labels in .* expected 6 class numbers"),
        ({"train_labels": np.full(6, np.nan)}, "train_labels in .* is float64"),
        ({"train_images": PICTURES[:0], "train_labels": LABELS[:0]}, "holds no pictures"),
        ({"test_images": np.repeat(PICTURES[:, None], 3, axis=1)}, "1 channels and test pictures"),
    ],
    ids=["floats", "few labels", "nan", "empty", "channels"],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, given: object, match: str) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, **{**ARRAYS, **given})  # type: ignore[dict-item]
    with pytest.raises(InputError, match=match):
        read_labelled(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with path.open("wb") as file:
        np.save(file, PICTURES)
    with pytest.raises(InputError, match="a single array without a name"):
        read_labelled(path)
    np.savez_compressed(path, **ARRAYS)
    whole = path.read_bytes()
    for torn in (whole[: len(whole) // 2], whole[:300] + b"\xff" * 100 + whole[400:]):
        path.write_bytes(torn)
        with pytest.raises(InputError, match="cannot be read as a NumPy file"):
            read_labelled(path)
