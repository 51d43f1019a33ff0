"""study: from the command to the page, stopped, widened and gone on with."""

import csv
import json
import shutil

import numpy as np
import pytest

from stssad_fast.experiments import recommending, study
from stssad_fast.report import study_cases

TINY = {
    "DAE": {"width": 1, "hidden": 4, "epochs": 1, "batch_size": 64},
    "DeepSAD": {"width": 1, "hidden": 4, "epochs": 1, "batch_size": 64},
    "AP": {"depth": 10, "widen": 1, "classes_per_picture": 2, "views": 2, "views_per_batch": 64},
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(study.PRESETS, "small", TINY)
    few = {"epochs": (8,), "width": (4,), "weight_decay": (1e-5, 5e-5), "hidden": (4,)}
    monkeypatch.setitem(study.HYPERPARAMETERS, "small", few)
    monkeypatch.setattr("stssad_fast.cli.study.SWEEP", (0.2,))
    monkeypatch.setattr(study_cases, "STEPS", 250)
    monkeypatch.setattr(recommending, "PARAMETERS", {"depth": 10, "width": 2, "steps": 2})


@pytest.fixture
def labelled(tmp_path):
    """An .npz file of three classes, a class being told by its brightness."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 8)
    images = rng.integers(0, 99, (24, 16, 16)) + 60 * labels[:, None, None]
    arrays = {f"{part}_images": images.astype(np.uint8) for part in ("train", "test")}
    arrays |= {f"{part}_labels": labels for part in ("train", "test")}
    np.savez(tmp_path / "three.npz", **arrays)
    return tmp_path / "three.npz"


def options(out, *more):
    shared = [
        "--normal",
        "2",
        "--augmentations",
        "flip,cutout",
        "--generators",
        "cutout",
        "--jobs",
        1,
    ]
    return ["study", *shared, "--out", out, *more]


def test_a_run_on_digits_is_widened_and_not_done_again(cli, tmp_path):
    out = tmp_path / "run"
    result = cli.accepted(*options(out, "--parts", "testbeds", "--detectors", "DAE"))
    assert "| Flip | " in result.stdout
    assert "3 done, 0 failed" in result.stderr
    arguments = options(out, "--parts", "testbeds,sweep", "--detectors", "DAE")
    assert "3 of 4 jobs were done before" in cli.accepted(*arguments).stderr
    lines = (out / "jobs.jsonl").read_text()
    found = list(csv.DictReader((out / "runs.csv").read_text().splitlines()))
    # on what CutOut has made, and on nine other classes
    assert [each["augmentation"] for each in found].count("cutout:size=0.2") == 10
    for name in ("relative-cutout", "sweep-cutout", "rebuilt-cutout", "errors-cutout"):
        assert (out / f"figures/{name}.png").exists(), name
    for name in ("embeddings-cutout", "embeddings-sweep"):
        assert (out / f"figures/{name}.svg").exists(), name
    page = (out / "index.html").read_text()
    assert "AUC (Table 1)" in page and "Relative AUC" in page
    assert "| Flip | " in (out / "auc.md").read_text()
    assert "## " not in (out / "relative.md").read_text()
    assert "not finished" not in page
    assert "rebuilt-cutout" in page
    shutil.rmtree(out / "arrays")  # as if the lines alone had been kept
    assert "4 of 4 jobs were done before" in cli.accepted(*arguments).stderr
    assert (out / "jobs.jsonl").read_text() == lines
    assert "rebuilt-cutout" not in (out / "index.html").read_text()


def test_other_hyperparameters_have_a_table_and_a_figure_of_their_own(cli, tmp_path):
    out = tmp_path / "run"
    arguments = [*options(out), "--detectors", "DAE"]
    cli.accepted(*arguments)
    alone = (out / "relative.md").read_text()
    result = cli.accepted(*arguments, "--parts", "testbeds,hyperparameters")
    assert "3 of 9 jobs were done before" in result.stderr  # two settings, three augmentations
    assert (out / "relative.md").read_text() == alone
    assert "| Flip | " in (out / "hyperparameters.md").read_text()
    for name in ("hyperparameters-cutout", "hyperparameters-semantic", "relative-cutout"):
        assert (out / f"figures/{name}.png").exists(), name
    found = list(csv.DictReader((out / "runs.csv").read_text().splitlines()))
    texts = [f"epochs 8, width 4, weight decay {decay}, hidden 4" for decay in ("1e-05", "5e-05")]
    assert {line["hyperparameters"] for line in found} == {"", *texts}
    page = (out / "index.html").read_text()
    assert "Fig. 4b" in page and "Obs. 2" in page


def test_what_dae_undoes_is_told_of_the_arrays_that_are_there(cli, tmp_path, monkeypatch):
    wider = {"DAE": {**TINY["DAE"], "width": 4}}  # one channel embeds all pictures alike
    monkeypatch.setitem(study.PRESETS, "small", wider)
    out = tmp_path / "run"
    more = ["--generators", "flip", "--augmentations", "flip", "--detectors", "DAE"]
    assert "whose reconstructions were kept" in cli.accepted(*options(out, *more)).stdout
    shutil.rmtree(out / "arrays")
    assert "this cannot be told" in cli.accepted(*options(out, *more)).stdout


def test_other_hyperparameters_alone(cli, tmp_path):
    out = tmp_path / "run"
    arguments = options(out, "--parts", "hyperparameters", "--detectors", "AP")
    assert "6 done, 0 failed" in cli.accepted(*arguments).stderr  # of DAE, whatever else is named
    assert (out / "figures/hyperparameters-cutout.png").exists()
    assert not (out / "figures/relative-cutout.png").exists()
    assert not (out / "auc.md").exists()


def test_classes_in_the_wild_of_a_file(cli, tmp_path, labelled):
    out = tmp_path / "run"
    arguments = ["study", "--data", labelled, "--generators", "", "--detectors", "DAE,DeepSAD"]
    arguments += ["--augmentations", "rotate", "--jobs", 1, "--out", out]
    result = cli.accepted(*arguments)
    assert "12 done" in result.stderr  # three classes, two detectors, with Rotate and without
    assert "DeepSAD, Sem." in result.stdout
    tasks = {line["task"] for line in csv.DictReader((out / "runs.csv").read_text().splitlines())}
    assert tasks == {"0/1", "0/2", "1/0", "1/2", "2/0", "2/1"}
    for name in ("bias", "relative-semantic", "rebuilt-semantic"):
        assert (out / f"figures/{name}.png").exists(), name
    assert str(tmp_path) not in (out / "jobs.jsonl").read_text()


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--parts", "tame"], "'tame'; choose from testbeds, sweep, hyperparameters, mmd"),
        (["--parts", ","], "--parts has"),
        (["--normal", "two"], "expected class numbers like 2,6"),
        (["--augmentations", "sepia"], "sepia"),
        (["--generators", "identity"], "generator identity is unknown"),
        (["--detectors", "SVM"], "no detector SVM"),
        (["--detectors", "AP", "--parts", "sweep"], "add DAE or DeepSAD"),
        (["--generators", "flip", "--parts", "sweep"], "add cutout to --generators"),
        (["--parts", "mmd", "--encoder", "vgg"], "no encoder vgg"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_used_is_refused(cli, tmp_path, more, match):
    cli.refused(*options(tmp_path / "run", *more), match=match)
    assert not (tmp_path / "run").exists()


def test_the_folder_of_an_experiment_is_refused(cli, tmp_path):
    out = tmp_path / "run"
    record = {
        "key": "0" * 32,
        "config": {"method": "AE"},
        "label": "2/* · AE",
        "group": "AE",
        "status": "done",
        "values": {},
        "reason": None,
        "seconds": 1.0,
        "when": "2026-05-01",
        "about": {},
    }
    out.mkdir()
    (out / "jobs.jsonl").write_text(json.dumps(record) + "\n")
    cli.refused(*options(out), match="holds another experiment")


def test_the_ranking_without_labels_is_judged_by_them(cli, tmp_path, labelled):
    arguments = options(tmp_path / "run", "--data", labelled, "--parts", "testbeds,recommend")
    result = cli.accepted(*arguments, "--detectors", "DAE")
    assert "5 done, 0 failed" in result.stderr  # DAE with three augmentations, two candidates
    table = result.stdout[result.stdout.index("## Recommended without labels, judged by them") :]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == ["| 2 cutout", "| 2/0", "| 2/1", "| **mean**"]
    assert {row[2] for row in rows[:3]} <= {"Flip", "CutOut"}
    assert rows[3][-1] in [f"{n} of 3 |" for n in range(4)]
    assert "judged by them" in (tmp_path / "run/index.html").read_text()
    assert (tmp_path / "run/recommend.md").exists()
    cli.accepted(*options(tmp_path / "run", "--data", labelled, "--detectors", "DAE"))
    assert not (tmp_path / "run/recommend.md").exists()
