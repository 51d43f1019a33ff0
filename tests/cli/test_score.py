import csv
import io
import os
import subprocess
import sys

import pytest

from stssad_fast.cli import score as scoring
from stssad_fast.cli.runs import OUTPUTS


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_scores_are_those_of_the_run(finished):
    cli, run = finished
    of_run = table((run / "scores.csv").read_text())
    for model in (run, run / "model.safetensors"):
        rows = table(cli.accepted("score", model, cli.data / "test").stdout)
        assert [row["score"] for row in rows] == [row["score"] for row in of_run]
        assert [row["predicted"] for row in rows] == [row["predicted"] for row in of_run]
        assert rows[0]["path"] == str(cli.data / "test/good/0.png")


def test_files_and_folders_in_the_order_given(finished, tmp_path):
    cli, run = finished
    one, folder = cli.data / "test/hole/4.png", cli.data / "test/good"
    result = cli.accepted("score", run, one, folder, one, "--out", tmp_path / "scores.csv")
    assert result.stdout == ""
    rows = table((tmp_path / "scores.csv").read_text())
    assert [row["path"] for row in rows[::6]] == [str(one), str(one)] and len(rows) == 7


def test_batches(finished, monkeypatch):
    cli, run = finished
    whole = table(cli.accepted("score", run, cli.data / "test").stdout)
    monkeypatch.setattr(scoring, "BATCH", 3)
    parts = table(cli.accepted("score", run, cli.data / "test").stdout)
    assert [row["path"] for row in parts] == [row["path"] for row in whole]
    for one, other in zip(parts, whole, strict=True):
        assert float(one["score"]) == pytest.approx(float(other["score"]), rel=1e-4)


def test_unreadable_pictures(finished, tmp_path):
    cli, run = finished
    good, empty = cli.data / "test/hole/0.png", tmp_path / "empty.png"
    empty.touch()
    cli.refused("score", run, good, empty, match="empty.png is empty")
    cli.refused("score", run, good, tmp_path / "no.png", match="no.png does not exist")
    out = tmp_path / "scores.csv"
    cli.refused("score", run, good, empty, "--out", out, match="empty.png is empty")
    assert not out.exists()
    result = cli.accepted("score", run, empty, good, tmp_path / "no.png", "--on-error", "skip")
    assert [row["path"] for row in table(result.stdout)] == [str(good)]
    assert "empty.png is empty" in result.stderr and "no.png does not exist" in result.stderr
    assert "Skipped 2 of 3 pictures" in result.stderr
    cli.refused("score", run, empty, "--on-error", "skip", match="none of the pictures")


def test_what_is_no_model(finished, tmp_path):
    cli, run = finished
    picture = cli.data / "test/hole/0.png"
    cli.refused("score", tmp_path / "no", picture, match="no does not exist")
    cli.refused("score", cli.data, picture, match="holds no model.safetensors: expected")
    cli.refused("score", picture, picture, match="cannot be read")
    cli.refused("score", run / "checkpoint.safetensors", picture, match="not a model")
    cli.refused("score", run, cli.data / "nothing", match="does not exist")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.json").write_bytes((run / "config.json").read_bytes())
    cli.refused("score", tmp_path / "begun", picture, match="not finished; go on .*--resume")
    assert set(OUTPUTS) <= {path.name for path in run.iterdir()}


def test_out_that_cannot_be_written(finished, tmp_path):
    cli, run = finished
    picture = cli.data / "test/hole/0.png"
    cli.refused("score", run, picture, "--out", tmp_path / "no/a.csv", match="cannot write")
    cli.refused("score", run, picture, "--out", tmp_path, match="cannot write")


def test_a_pipe_is_no_picture(finished, tmp_path):
    cli, run = finished
    os.mkfifo(tmp_path / "pipe.png")
    cli.refused("score", run, tmp_path / "pipe.png", match=r"pipe.png is no regular file")


def test_an_empty_path_is_not_the_current_folder(finished, tmp_path, monkeypatch):
    cli, run = finished
    monkeypatch.chdir(run)
    cli.refused("score", "", cli.data / "test", match="the argument after score is empty")
    monkeypatch.chdir(cli.data / "test")
    cli.refused("score", run, "", match="the argument after .*run is empty, expected a path")
    picture = cli.data / "test/hole/0.png"
    cli.refused("score", run, picture, "--out", "", match="--out is empty")


def test_output_that_is_not_utf_8(finished, tmp_path):
    cli, run = finished
    picture = tmp_path / "ü☃.png"
    picture.write_bytes((cli.data / "test/hole/0.png").read_bytes())
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    shown = []
    for arguments in (["score", run, picture], ["tune", "--out", run, "--resume"]):
        done = subprocess.run(
            [sys.executable, "-m", "stssad_fast", *map(str, arguments)],
            capture_output=True,
            env=os.environ | ascii_only,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        shown.append(done.stdout.decode("ascii"))
    assert table(shown[0])[0]["path"] == str(tmp_path / r"\xfc\u2603.png")
    assert r"1 \u2713" in shown[1] and "Report: " in shown[1]  # ✓
