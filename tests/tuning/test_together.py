"""Starts side by side: the same bits, stopping, going on, and processes that die."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from stssad_fast import STSSAD, InputError
from stssad_fast.augment import Augmentation

PARAMS = {
    "width": 2,
    "iterations": 20,
    "warm_up": 2,
    "batch_size": 4,
    "starts": [{"size": 0.01}, {"size": 0.1}],
    "random_state": 0,
    "device": "cpu",
}
IMAGES = torch.randint(
    256, (12, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)


def fit(**more):
    options = {k: more.pop(k) for k in ("checkpoint_path", "callback", "resume") if k in more}
    return STSSAD(**{**PARAMS, **more}).fit(IMAGES[:7], IMAGES, checkpoint_interval=0.0, **options)


def outcome(model):
    return [{k: v for k, v in start.items() if k != "seconds"} for start in model.starts_]


def children():
    return [process.pid for process in multiprocessing.active_children()]


@pytest.fixture(scope="module")
def in_a_row():
    return fit()


def test_the_same_bits_side_by_side(in_a_row, tmp_path):
    seen = []
    model = fit(n_jobs=2, callback=seen.append, checkpoint_path=tmp_path / "checkpoint")
    assert outcome(model) == outcome(in_a_row)
    np.testing.assert_array_equal(model.score_samples(IMAGES), in_a_row.score_samples(IMAGES))
    for start in range(2):
        assert [p.step for p in seen if p.start == start] == list(range(1, 23))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"] and not children()


@pytest.mark.parametrize("how", ["SIGINT", "killed", "callback"])
def test_it_is_stopped_and_goes_on(in_a_row, tmp_path, how):
    path, seen = tmp_path / "checkpoint", []

    def disturb(progress):
        seen.append(progress)
        if len(seen) == 3:
            if how == "callback":
                raise RuntimeError("of the caller")
            if how == "SIGINT":
                signal.raise_signal(signal.SIGINT)
            else:
                os.kill(children()[0], signal.SIGKILL)

    expected = {
        "SIGINT": (KeyboardInterrupt, None),
        "callback": (RuntimeError, "of the caller"),
        "killed": (
            InputError,
            r"process of start \d of 2 .*signal 9.*smaller n_jobs.*in the checkpoint; resume",
        ),
    }[how]
    with pytest.raises(expected[0], match=expected[1]):
        fit(n_jobs=2, checkpoint_path=path, callback=disturb)
    assert not children()
    if how != "callback":  # which ends all at once, like a crash of this process
        assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    again = []
    model = fit(
        n_jobs=2 if how == "killed" else None,
        checkpoint_path=path,
        resume=True,
        callback=again.append,
    )
    assert outcome(model) == outcome(in_a_row)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    if how == "SIGINT":  # what was done is not done again
        assert len(again) == 44 - len(seen)


class Local(Augmentation):
    def forward(self, image, *, generator=None):
        return image

    def describe(self):
        return {}


def test_what_cannot_be_sent():
    class Hidden(Local):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, image, *, generator=None):
            return image * self.factor

    with pytest.raises(InputError, match=r"n_jobs sends the augmentation.*in a module"):
        fit(augmentation=Hidden(), starts=None, n_jobs=2)


def test_an_error_in_a_process_is_told_here(tmp_path):
    images = np.memmap(tmp_path / "images", np.float32, "w+", shape=(12, 16, 16))
    images[:] = IMAGES[:, 0] / 255

    def spoil(progress):
        images[:] = np.nan
        images.flush()

    model = STSSAD(**{**PARAMS, "n_jobs": 2, "iterations": 500})
    with pytest.raises(InputError, match="holds NaN"):
        model.fit(IMAGES[:7], images, callback=spoil)
    assert not children()


SCRIPT = """
import sys, numpy as np
from stssad_fast import STSSAD
if __name__ == "__main__":
    images = np.random.default_rng(0).random((12, 16, 16))
    model = STSSAD(width=1, warm_up=0, iterations=100000, batch_size=4, n_jobs=2, random_state=0)
    model.fit(images, images, callback=lambda p: print(p.start, flush=True))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="no /proc")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_no_process_outlives_this_one(tmp_path, how):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    seen = set()
    while len(seen) < 2:
        line = process.stdout.readline()
        assert line
        seen.add(line)
    if how == "SIGKILL":
        process.kill()
    else:  # as a terminal does: to all of them
        os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    deadline = time.monotonic() + 120
    while True:
        found = subprocess.run(["ps", "-o", "pid=", "-s", str(process.pid)], capture_output=True)
        if not found.stdout.strip():
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
