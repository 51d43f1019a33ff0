"""recommend: a ranking of a user's folders, gone on with, and what it refuses."""

import csv
import shutil

import numpy as np
import pytest

OPTIONS = ["--image-size", 16, "--steps", 2, "--width", 2, "--jobs", 1]


@pytest.fixture
def asked(cli, tmp_path):
    for index in range(5, 9):
        cli.draw(f"train/good/{index}.png", index)
    return ["recommend", "--train", cli.data, "--test", cli.data, *OPTIONS]


def test_ranks_and_goes_on(cli, tmp_path, asked):
    out = tmp_path / "run"
    result = cli.accepted(
        *asked, "--out", out, "--candidates", "noise, cutdiff:size=0.01", "--seeds", 1
    )
    assert "2 done, 0 failed" in result.stderr
    assert "CutDiff-0.01" in result.stdout
    with (out / "ranking.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["candidate"] for row in rows} == {"noise", "cutdiff:size=0.01"}
    separations = [float(row["separation"]) for row in rows]
    assert separations == sorted(separations, reverse=True)
    assert all(0 <= float(row["auc"]) <= 1 for row in rows)  # the folders tell which are good
    page = (out / "index.html").read_text()
    assert "Which augmentation fits these pictures" in page
    assert {path.name for path in (out / "figures").iterdir()} >= {"evidence.svg", "separation.svg"}
    before = (out / "jobs.jsonl").read_text()
    for number, path in enumerate(out.glob("arrays/*.npz")):  # too large for half precision
        with np.load(path) as file:
            arrays = dict(file)
        arrays["embedding/train"][: 1 if number else None] = np.inf
        np.savez(path, **arrays)
    cli.accepted(*asked, "--out", out, "--candidates", "noise, cutdiff:size=0.01", "--seeds", 1)
    shutil.rmtree(out / "arrays")  # as if the lines alone had been kept
    cli.accepted(*asked, "--out", out, "--candidates", "noise, cutdiff:size=0.01", "--seeds", 1)
    assert "figure-evidence" not in (out / "index.html").read_text()
    result = cli.accepted(*asked, "--out", out, "--candidates", "noise,invert", "--seeds", 1)
    after = (out / "jobs.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 3
    assert "Invert" in result.stdout
    assert "CutDiff" not in result.stdout


def test_no_labels_are_needed(cli, tmp_path, asked):
    good = cli.data / "train/good"
    cli.accepted(
        *["recommend", "--train", good, "--test", cli.data / "test/hole", *OPTIONS],
        *["--out", tmp_path / "run", "--candidates", "noise", "--seeds", 1],
    )
    assert "AUC" not in (tmp_path / "run/table.md").read_text()


def test_pictures_that_are_left_out_are_named(cli, tmp_path, asked):
    (cli.data / "test/good/broken.png").write_text("x")
    arguments = [*asked, "--out", tmp_path / "run", "--candidates", "noise", "--seeds", 1]
    cli.refused(*arguments, match="broken.png cannot be read .* --on-error skip")
    result = cli.accepted(*arguments, "--on-error", "skip")
    assert "Skipped: " in result.stderr and "broken.png" in result.stderr


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--candidates", "sparkle"], "sparkle"),
        (["--candidates", "noise,identity"], "identity changes no picture"),
        (["--candidates", "noise,noise"], "twice"),
        (["--candidates", " , "], "names none"),
        (["--channels", 2], "expected 1 or 3"),
        (["--test", "nowhere"], "nowhere"),
    ],
)
def test_refused(cli, tmp_path, asked, more, match):
    cli.refused(*asked, "--out", tmp_path / "run", *more, match=match)
    assert not (tmp_path / "run").exists()


def test_refuses_another_run(cli, tmp_path, asked):
    from stssad_fast.experiments.jobs import Job, Outcome
    from stssad_fast.experiments.store import Store

    store = Store(tmp_path / "run")
    with store.claimed():
        store.add(Job({"data": {"reader": "made"}}, "another", "x"), Outcome({}))
    cli.refused(*asked, "--out", tmp_path / "run", match="choose another --out")


def test_too_few_pictures_to_hold_some_out(cli, tmp_path):
    result = cli.invoke(
        *["recommend", "--train", cli.data, "--test", cli.data, *OPTIONS],
        *["--out", tmp_path / "run", "--candidates", "noise", "--seeds", 1],
    )
    assert result.exit_code == 1
    assert "5 training pictures; expected at least 8" in result.stderr
