"""Each bad input: one sentence, exit code 2, and everything on the disk as it was."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile

import pytest
import torch

from stssad_fast import InputError, checkpoint
from stssad_fast.cli import processes
from stssad_fast.tuning.tuner import Tuner


def truncated(path):
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--train", "nowhere"], "nowhere does not exist"),
        (["--test", "nowhere"], "nowhere does not exist"),
        (["--kinds", "scratch"], "no subfolder scratch"),
        (["--image-size", "8"], "--image-size is 8; .* at least 16"),
        (["--augmentation", "cutmix"], "'cutmix'; choose one of cutdiff, cutout, cutpaste"),
        (["--augmentation", "rotation"], "starts does not fit rotation"),
        (["--strategy", "third_order"], "'strategy' parameter"),
        (["--width", "0"], "'width' parameter"),
        (["--width", "1000000"], "'width' parameter"),
        (["--width", "four"], "'--width': .* integer"),
        (["--learning-rate", "nan"], "'learning_rate' parameter"),
        (["--device", "abacus"], "'abacus' cannot be used"),
        (["--threads", "0"], "--threads is 0"),
        (["--threads", "99999999999"], "--threads is 99999999999; expected 1 to"),
        (["--image-size", "99999999999999999999"], "--image-size is 9.*expected at most 16384"),
        (["--iterations", "99999999999999999999"], "'iterations' parameter"),
        (["--warm-up", "99999999999999999999"], "'warm_up' parameter"),
        (["--learning-rate", "1e308"], "'learning_rate' parameter"),
        (["--set", "hyper_learning_rate=1e300"], "'hyper_learning_rate' parameter"),
        (["--set", "patience=99999999999999999999999"], "'patience' parameter"),
        (["--set", "patience=" + "[" * 10000], "--set patience is nested too deeply"),
        (["--checkpoint-interval", "-1"], "--checkpoint-interval is -1"),
        (["--memory", "-1"], "--memory is -1"),
        (["--jobs", "0"], "'n_jobs' parameter"),
        (["--channels", "2"], "'--channels'"),
        (["--set", "colour=blue"], "--set colour=blue is not understood"),
        (["--set", "patience"], "--set patience is not understood"),
        (["--set", "patience=[1]"], "'patience' parameter"),
        (["--set", "width=8"], "width is given twice"),
        (["--sets", "patience=1"], "--sets"),
    ],
)
def test_options(cli, tmp_path, more, match):
    before = cli.tree(tmp_path)
    cli.refused("tune", *cli.options, "--out", tmp_path / "new/run", *more, match=match)
    assert cli.tree(tmp_path) == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
    ],
    ids=repr,
)
def test_more_memory_than_there_is(cli, tmp_path, monkeypatch, error):
    def step(tuner):
        raise error

    monkeypatch.setattr(Tuner, "step", step)
    match = "not enough memory for this; lower --width"
    cli.refused("tune", *cli.options, "--out", tmp_path / "run", match=match)


def test_commands(cli, tmp_path):
    cli.refused("tun", match="tun")
    cli.refused("tune", match="--out")
    cli.refused("tune", "--out", tmp_path / "run", match="--train is missing")
    cli.refused("score", match="Missing argument")


def test_empty_folder(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    options = [*cli.options, "--train", tmp_path / "empty", "--out", tmp_path / "run"]
    cli.refused("tune", *options, match="holds no pictures")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (truncated, "cannot be read as a picture"),
        (lambda path: path.write_bytes(b""), "zero bytes"),
        (lambda path: path.write_text("a text"), "cannot be read as a picture"),
    ],
)
def test_unreadable_pictures(cli, tmp_path, spoil, match):
    spoil(cli.data / "test/hole/3.png")
    before = cli.tree(tmp_path)
    result = cli.refused("tune", *cli.options, "--out", tmp_path / "run", match=match)
    assert "3.png" in result.stderr and "--on-error skip" in result.stderr
    assert cli.tree(tmp_path) == before


def test_a_picture_that_vanishes_while_files_are_streamed(cli, tmp_path, monkeypatch):
    options = [*cli.options, "--memory", "0", "--checkpoint-interval", "0"]
    cli.accepted("tune", *options, "--out", tmp_path / "unbroken")
    step, steps = Tuner.step, []

    def vanish(tuner):
        steps.append(tuner)
        if len(steps) == 3:
            (cli.data / "train").rename(cli.data / "away")
        step(tuner)

    with monkeypatch.context() as patch:
        patch.setattr(Tuner, "step", vanish)
        match = "does not exist.* put it back as it was, and go on"
        cli.refused("tune", *options, "--out", tmp_path / "run", match=match)
    (cli.data / "away").rename(cli.data / "train")
    cli.accepted("tune", "--out", tmp_path / "run", "--resume")
    assert cli.same(tmp_path / "run", tmp_path / "unbroken")


def test_small_pictures(cli, tmp_path):
    cli.draw("test/hole/3.png", side=6)
    cli.refused("tune", *cli.options, "--out", tmp_path / "run", match="6 x 6 pixels")


def test_too_few_pictures(cli, tmp_path):
    for index in range(4):
        (cli.data / f"test/hole/{index}.png").write_bytes(b"")
    options = [*cli.options, "--kinds", "hole", "--on-error", "skip"]
    cli.refused("tune", *options, "--out", tmp_path / "run", match="one test picture")
    assert not (tmp_path / "run").exists()


def test_another_run(cli, finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "run")
    before = cli.tree(tmp_path)
    cli.refused("tune", *cli.options, "--out", tmp_path / "run", match="holds another run")
    assert cli.tree(tmp_path) == before


def test_a_folder_that_is_no_run(cli, tmp_path):
    before = cli.tree(cli.data)
    for more in ([], ["--resume"]):
        options = [*cli.options, "--out", cli.data, *more]
        cli.refused("tune", *options, match="holds files that are no run's")
    cli.refused("demo", "--out", cli.data, match="no demo's")
    assert cli.tree(cli.data) == before


def test_resume_with_other_settings(cli, finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "run")
    before = cli.tree(tmp_path)
    command = ["tune", "--out", tmp_path / "run", "--resume"]
    cli.refused(*command, "--width", "8", "--seed", "1", match="another width, random_state;")
    cli.refused(*command, "--image-size", "32", match="another image_size")
    cli.refused(*command, "--set", "momentum=0.1", match="another momentum")
    assert cli.tree(tmp_path) == before


def test_resume_with_other_pictures(cli, tmp_path):
    cli.tune(tmp_path / "run")
    (tmp_path / "run/report.html").unlink()
    cli.draw("test/hole/3.png", seed=99)
    before = cli.tree(tmp_path)
    cli.refused(
        "tune", "--out", tmp_path / "run", "--resume", match="pictures, parameters or seed differ"
    )
    assert cli.tree(tmp_path) == before


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "config.json", "results.json"])
def test_files_cut_short(cli, finished, tmp_path, name):
    shutil.copytree(finished[1], tmp_path / "run")
    if name == "checkpoint.safetensors":
        (tmp_path / "run/report.html").unlink()
    truncated(tmp_path / "run" / name)
    before = cli.tree(tmp_path)
    cli.refused("tune", "--out", tmp_path / "run", "--resume", match=f"{name} cannot be read")
    assert cli.tree(tmp_path) == before


def test_folders_that_cannot_be_written(cli, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    cli.refused("tune", *cli.options, "--out", tmp_path / "file", match="is a file")
    below = ["--out", tmp_path / "file/run"]
    cli.refused("tune", *cli.options, *below, match="cannot write to .*Not a directory")
    cli.refused("demo", *below, match="cannot write to .*Not a directory")

    def read_only(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    new = ["--out", tmp_path / "new/run"]
    cli.refused("tune", *cli.options, *new, match="cannot write to .*Read-only file system")
    assert not (tmp_path / "new").exists()


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_disk_full_at_once(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    cli.refused("tune", *cli.options, "--out", tmp_path / "new/run", match="No space left")
    assert not (tmp_path / "new").exists()


def test_disk_full_on_the_way(cli, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full_disk)
        cli.refused("tune", *finished[0].options, "--out", tmp_path / "run", match="No space left")
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
    cli.accepted("tune", "--out", tmp_path / "run", "--resume")
    assert cli.same(tmp_path / "run", finished[1])


def test_disk_full_at_the_report(cli, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("stssad_fast.report.page.write_text", full_disk)
        cli.refused("tune", *finished[0].options, "--out", tmp_path / "run", match="No space left")
    cli.accepted("tune", "--out", tmp_path / "run", "--resume")
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_standard_output_full(finished):
    cli, run = finished
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "stssad_fast", "score", run, cli.data / "test"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: No space left on device")
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_processes_without_a_device_each(cli, tmp_path, monkeypatch):
    start = ["tune", *cli.options, "--out", tmp_path / "run"]
    cli.refused(*start, "--set", "distributed=true", match="start the command with torchrun")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for index, reason in ((1, "need a GPU each"), (None, "2 processes .* has 1 GPUs")):
        monkeypatch.setattr(processes, "find_device", lambda _, i=index: torch.device("cuda", i))
        with pytest.raises(InputError, match=reason):
            processes.check("cuda")
