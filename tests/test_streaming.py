"""Fitting on pictures that stay on the disk: the same bits, bounded memory, no work lost."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from stssad_fast import STSSAD, InputError
from stssad_fast.datasets import ReadAhead, read_folder

PARAMS = {
    "width": 2,
    "iterations": 3,
    "warm_up": 2,
    "batch_size": 4,
    "starts": [{"size": 0.01}],
    "random_state": 0,
    "device": "cpu",
}


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("train", 12), ("test", 264)):
        (tmp_path / name).mkdir()
        for index in range(count):
            pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index:03}.png")
    return tmp_path / "train", tmp_path / "test"


def same(one, other):
    assert one.starts_[0]["scores"] == other.starts_[0]["scores"]
    assert [s["history"] for s in one.starts_] == [s["history"] for s in other.starts_]
    assert one.threshold_ == other.threshold_
    for mine, yours in zip(
        one.detector_.state_dict().values(), other.detector_.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, yours)


def lazily(folders):
    return (read_folder(folder, image_size=None, memory=0).images for folder in folders)


@pytest.mark.parametrize(
    ("changes", "ahead", "late"),  # of the batches drawn, those that were guessed right
    [({}, 6, 2), ({"updates": 2}, 7, 4), ({"strategy": "random_dynamic"}, 9, 2)],
    ids=["tuned", "updates", "random"],
)
def test_the_same_bits_wherever_pictures_are(folders, tmp_path, changes, ahead, late, monkeypatch):
    asked = {True: 0, False: 0}
    take = ReadAhead.__getitem__

    def noting(self, rows):
        future, guess = self._future, self._rows
        if len(rows) == PARAMS["batch_size"]:
            asked[future is not None and torch.equal(guess, rows)] += 1
        return take(self, rows)

    model = STSSAD(**{**PARAMS, **changes})
    kept = model.fit(*(read_folder(f, image_size=None).images for f in folders))
    monkeypatch.setattr(ReadAhead, "__getitem__", noting)
    streamed = STSSAD(**{**PARAMS, **changes}).fit(*lazily(folders))
    same(streamed, kept)
    assert asked == {True: ahead, False: late}
    monkeypatch.undo()

    if changes:
        return
    mapped = []
    for folder in folders:
        pixels = (read_folder(folder, image_size=None).images * 255).round().byte()
        np.save(tmp_path / f"{folder.name}.npy", pixels)
        mapped.append(np.load(tmp_path / f"{folder.name}.npy", mmap_mode="r"))
    same(STSSAD(**{**PARAMS, **changes}).fit(*mapped), kept)
    np.testing.assert_array_equal(kept.score_samples(mapped[1]), kept.score_samples(folders[1]))
    same(STSSAD(**{**PARAMS, **changes}).fit(*folders), kept)


def test_a_run_in_memory_goes_on_from_files_after_one_vanished(folders, tmp_path):
    kept = [read_folder(folder, image_size=None).images for folder in folders]
    unbroken = STSSAD(**PARAMS).fit(*kept)
    path = tmp_path / "checkpoint"
    steps = []

    def vanish(progress):
        steps.append(progress)
        if len(steps) == 3:
            for file in folders[0].iterdir():
                file.rename(file.with_suffix(".gone"))

    model = STSSAD(**PARAMS)
    with pytest.raises(InputError, match=r"does not exist.* put it back as it was"):
        model.fit(*lazily(folders), checkpoint_path=path, checkpoint_interval=0, callback=vanish)
    for file in folders[0].iterdir():
        file.rename(file.with_suffix(".png"))
    model.fit(*kept, checkpoint_path=path, resume=True, callback=steps.append)
    same(model, unbroken)
    assert len(steps) == 5  # no step was done twice


MEASURE = """
import resource, sys
import numpy as np
from stssad_fast import STSSAD

def fit(count):
    test = np.load(sys.argv[1] + "/test.npy", mmap_mode="r")[:count]
    model = STSSAD(width=1, iterations=1, warm_up=1, batch_size=4, starts=[{"size": 0.01}],
                   random_state=0, device="cpu")
    model.fit(test[:40], test, checkpoint_path=f"{sys.argv[1]}/checkpoint.{count}")

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

fit(300)  # what torch takes once
before = peak()
fit(3000)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_memory_does_not_grow_with_the_test_set(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3000, 64, 64), dtype=np.uint8)
    np.save(tmp_path / "test.npy", pixels)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)],
        capture_output=True,
        text=True,
        # What is freed goes back at once, so that the peak is what was needed.
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"},
    )
    assert done.returncode == 0, done.stderr
    megabytes = 4 * pixels.size / 2**20  # as float32; the pages of the file are a quarter of it
    assert float(done.stdout) < 0.6 * megabytes
