import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from stssad_fast import STSSAD
from stssad_fast.datasets import read_folder
from stssad_fast.report.collect import area_under_roc

FILES = {
    "checkpoint.safetensors",
    "config.json",
    "model.safetensors",
    "report.html",
    "results.json",
    "scores.csv",
}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def copy(finished, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(finished[1], run)
    return run


def test_run_folder(finished):
    cli, run = finished
    assert {path.name for path in run.iterdir()} == FILES
    table = rows(run / "scores.csv")
    assert list(table[0]) == ["path", "score", "predicted", "kind", "label"]
    assert [row["path"] for row in table[4:6]] == ["test/good/4.png", "test/hole/0.png"]
    assert [row["kind"] for row in table] == ["good"] * 5 + ["hole"] * 5
    model = STSSAD.load(run / "model.safetensors")
    test = read_folder(cli.data, image_size=16, split="test")
    scores = np.array([float(row["score"]) for row in table])
    assert np.array_equal(scores, model.anomaly_scores(test.images))
    assert [row["predicted"] == "anomalous" for row in table] == list(scores > model.threshold_)
    results = json.loads((run / "results.json").read_text())
    assert results["auc"] == area_under_roc(test.labels, scores)
    assert results["starts"][0]["auc"] == results["auc"]
    assert results["test_pictures"] == 10 and results["train_pictures"] == 5
    config = json.loads((run / "config.json").read_text())
    assert config["train"] == str(cli.data) and config["parameters"]["width"] == 4
    assert "hole/0.png" in (run / "report.html").read_text()


def test_says_what_it_found(cli, tmp_path):
    result = cli.tune(tmp_path / "run", "--strategy", "first_order")
    assert "5 training and 10 test pictures, resized to 16 x 16, grey" in result.stdout
    assert "Chosen: start 1" in result.stdout and "AUC" in result.stdout
    assert f"Report: {tmp_path / 'run/report.html'}" in result.stdout
    assert "start 1/1  step 4/4  size" in result.stderr and "L_val" in result.stderr


@pytest.mark.parametrize(
    ("rule", "column", "why"),
    [
        ("score_shift", " shift ", "largest score shift"),
        ("score_variance", " S ", "largest score variance"),
        ("loss", "", "least L_trn + L_val"),
    ],
)
def test_says_by_what_a_start_was_chosen(cli, tmp_path, rule, column, why):
    result = cli.tune(tmp_path / "run", "--set", f"selection={rule}")
    header = next(line for line in result.stdout.splitlines() if "L_trn " in line)
    assert [name for name in (" shift ", " S ") if name in header] == ([column] if column else [])
    assert f"Chosen: start 1, of the {why}: size" in result.stdout


def test_quiet(cli, tmp_path):
    assert cli.tune(tmp_path / "run", "--quiet").output == ""


def test_no_labels_without_their_layout(cli, tmp_path):
    folders = ["--train", cli.data / "train/good", "--test", cli.data / "test/hole"]
    result = cli.tune(tmp_path / "run", *folders)
    assert "AUC" not in result.output
    assert list(rows(tmp_path / "run/scores.csv")[0]) == ["path", "score", "predicted"]
    assert json.loads((tmp_path / "run/results.json").read_text())["auc"] is None


def test_kinds(cli, tmp_path):
    for index in range(2):
        cli.draw(f"test/crack/{index}.png", 30 + index)
    cli.tune(tmp_path / "a", "--kinds", "good,crack")
    cli.tune(tmp_path / "b", "--kinds", "good", "--kinds", "crack")
    for name in "ab":
        kinds = [row["kind"] for row in rows(tmp_path / name / "scores.csv")]
        assert kinds == ["crack"] * 2 + ["good"] * 5


def test_one_rgb_picture_makes_all_rgb(cli, tmp_path):
    path = cli.draw("test/hole/5.png", 40)
    Image.open(path).convert("RGB").save(path)
    assert "RGB" in cli.tune(tmp_path / "a").stdout
    assert "grey" in cli.tune(tmp_path / "b", "--channels", "1").stdout


def test_set_values_are_json_or_words(cli, tmp_path):
    cli.tune(
        tmp_path / "run",
        *["--set", "patience=20", "--set", "unit_embedding=False", "--set", "momentum=0.5"],
        *["--set", "contamination=auto", "--set", "hyper_optimizer=sgd"],
    )
    parameters = json.loads((tmp_path / "run/config.json").read_text())["parameters"]
    assert parameters["patience"] == 20 and parameters["unit_embedding"] is False
    assert parameters["momentum"] == 0.5 and parameters["hyper_optimizer"] == "sgd"


def test_skip_names_and_counts(cli, tmp_path):
    (cli.data / "test/hole/9.png").write_bytes(b"")
    (cli.data / "test/hole/8.png").write_bytes((cli.data / "test/hole/0.png").read_bytes()[:200])
    result = cli.tune(tmp_path / "run", "--on-error", "skip")
    assert "hole/9.png is empty" in result.stderr and "hole/8.png" in result.stderr
    assert "Skipped 2 of 12 test pictures" in result.stderr
    assert len(json.loads((tmp_path / "run/results.json").read_text())["skipped"]) == 2


def test_resume_of_a_finished_run_does_nothing(cli, copy):
    before = cli.tree(copy)
    result = cli.accepted("tune", "--out", copy, "--resume")
    assert "is finished" in result.stdout and "Chosen: start 1" in result.stdout
    assert cli.tree(copy) == before


@pytest.mark.parametrize("name", ["report.html", "model.safetensors", "scores.csv"])
def test_resume_makes_what_is_missing(cli, finished, copy, name):
    (copy / name).unlink()
    result = cli.accepted("tune", "--out", copy, "--resume")
    assert "step" not in result.stderr  # nothing was tuned again
    assert {path.name for path in copy.iterdir()} == FILES
    assert cli.same(copy, finished[1])


def test_resume_begins_where_nothing_has_begun(cli, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.config.json.x1").touch()  # of a process that was killed
    result = cli.tune(tmp_path / "run", "--resume")
    assert "so this begins" in result.stdout
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


def test_resume_takes_the_same_command(cli, finished, copy):
    (copy / "report.html").unlink()
    finished[0].accepted("tune", *finished[0].options, "--out", copy, "--resume")
    assert (copy / "report.html").exists()


def test_pictures_in_their_files_and_starts_side_by_side_change_nothing(cli, tmp_path):
    starts = ["--set", 'starts=[{"size": 0.01}, {"size": 0.1}]']
    options = cli.options[:-2]
    cli.accepted("tune", *options, *starts, "--out", tmp_path / "plain")
    more = ["--memory", 0, "--jobs", 2]
    result = cli.accepted("tune", *options, *starts, *more, "--out", tmp_path / "other")
    assert "The test pictures are read from their files" in result.stdout
    assert cli.same(tmp_path / "plain", tmp_path / "other")
    assert {path.name for path in (tmp_path / "other").iterdir()} == FILES
    (tmp_path / "other/report.html").unlink()
    cli.accepted("tune", "--out", tmp_path / "other", "--resume", "--jobs", 1, "--memory", 1)


def test_all_starts_together(cli, tmp_path):
    out = tmp_path / "run"
    starts = 'starts=[{"size": 0.01}, {"size": 0.1}]'
    result = cli.accepted("tune", *cli.options[:-2], "--out", out, "--set", starts)
    assert "AUC of all starts together" in result.stdout
    rows = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    scored = cli.accepted("score", out, cli.data / "test")
    assert [line.split(",")[1] for line in scored.stdout.splitlines()[1:]] == [
        row["score"] for row in rows
    ]


def changed(**values):
    return lambda saved: saved | values


def without(name):
    return lambda saved: {k: v for k, v in saved.items() if k != name}


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("results", lambda _: {}, r"\(starts is missing\); delete it and resume"),
        ("results", lambda _: None, "expected an object, not None"),
        ("results", changed(starts=[]), "chosen is 0 of 0 starts"),
        ("results", changed(starts=None), "starts is None, expected list"),
        ("results", changed(starts=[{}]), "initial is missing"),
        ("results", changed(chosen=-1), "chosen is -1 of 1 starts"),
        ("results", changed(chosen=True), "chosen is True, expected int"),
        ("results", changed(selection="best"), "selection is 'best', expected Literal"),
        ("results", changed(auc="0.5"), "auc is '0.5', expected float | None"),
        ("results", without("flagged"), "flagged is missing"),
        (
            "results",
            lambda saved: saved | {"starts": [saved["starts"][0] | {"initial": {"size": "big"}}]},
            "initial is {'size': 'big'}",
        ),
        (
            "results",
            lambda saved: saved | {"starts": [saved["starts"][0] | {"initial": {}}]},
            "the hyperparameters of its starts differ",
        ),
        ("config", changed(image_size="64"), r"image_size is '64', expected int\); .* begin again"),
        ("config", changed(image_size=True), "image_size is True"),
        ("config", changed(threads="a"), "threads is 'a'"),
        ("config", changed(train=3), "train is 3"),
        ("config", changed(kinds=[1]), r"kinds is \[1\]"),
        ("config", changed(channels="grey"), "channels is 'grey'"),
        ("config", changed(memory=None), "memory is None"),
        ("config", changed(parameters=None), "parameters is None"),
        ("config", changed(parameters={"colour": 1}), "differ in .*colour.*, width"),
        ("config", changed(colour=1), "colour"),
        ("config", lambda _: [], "config.json cannot be read"),
    ],
)
def test_json_that_is_not_what_is_expected(cli, copy, name, change, match):
    path = copy / f"{name}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    before = cli.tree(copy)
    match = f"{name}.json cannot be read .*{match}" if "cannot" not in match else match
    cli.refused("tune", "--out", copy, "--resume", match=match)
    assert cli.tree(copy) == before


@pytest.mark.parametrize("option", ["--train", "--test", "--out"])
def test_an_empty_path_is_not_the_current_folder(cli, tmp_path, monkeypatch, option):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = cli.tree(tmp_path)
    for words in ([option, ""], [f"{option}="]):
        options = [*cli.options, "--out", tmp_path / "run", *words]
        cli.refused("tune", *options, match=f"{option} is empty, expected a path; .* variable")
    assert cli.tree(tmp_path) == before
