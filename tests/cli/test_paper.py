"""experiment lemma, gallery, semantic, defects, demonstrative: from the command to the page."""

import json
import re
import shutil

import numpy as np
import pytest

from stssad_fast.experiments import methods
from stssad_fast.experiments.methods import Method

SMALL = ["--seeds", 1, "--jobs", 1, "--image-size", 16, "--set", "width=1"]
SMALL += ["--set", "warm_up=1", "--set", "iterations=2", "--set", "updates=1"]
SMALL += ["--set", "batch_size=4"]


def test_lemma(cli, tmp_path):
    result = cli.accepted("experiment", "lemma", "--out", tmp_path / "run", "--points", 7)
    assert "L_val is least, 1.000000, at u1 = 0, u2 = 0" in result.stdout
    page = (tmp_path / "run/index.html").read_text()
    assert "L_val is least" in page
    assert (tmp_path / "run/figures/lemma.png").exists()
    cli.refused("experiment", "lemma", "--out", tmp_path / "run", "--points", 6, match="odd number")
    cli.accepted("experiment", "lemma", "--out", tmp_path / "run", "--points", 5)  # anew
    (tmp_path / "run/notes.txt").write_text("mine")
    match = r"not of this page \(notes.txt\); choose a new folder"
    cli.refused("experiment", "lemma", "--out", tmp_path / "run", "--points", 7, match=match)


@pytest.mark.parametrize(
    "arguments",
    [
        ("lemma", "--points", 5),
        ("semantic", "--methods", "AE", "--seeds", 1),
    ],
    ids=lambda arguments: arguments[0],
)
def test_other_peoples_files_are_not_written_over(cli, tmp_path, arguments):
    page = tmp_path / "site/index.html"
    page.parent.mkdir()
    page.write_text("my home page")
    cli.refused("experiment", *arguments, "--out", page.parent, match=r"\(index.html\); choose a")
    assert cli.tree(page.parent) == {page: b"my home page"}


def test_gallery(cli, tmp_path):
    cli.accepted(
        *("experiment", "gallery", "--out", tmp_path / "run"),
        *("--image", cli.data / "test/hole/0.png"),
    )
    assert (tmp_path / "run/figures/gallery.svg").exists()
    arguments = ("experiment", "gallery", "--out", tmp_path / "other", "--runs", tmp_path)
    cli.refused(*arguments, match="has no figures of learned augmentations")


def test_the_papers_preset_reads_pictures_of_the_papers_size(cli, tmp_path):
    arguments = ["experiment", "defects", "--data", cli.data, "--out", tmp_path / "run"]
    arguments += ["--preset", "paper", "--methods", "AE", "--seeds", 1, "--jobs", 1]
    cli.accepted(*arguments, "--set", "width=1", "--set", "warm_up_epochs=1")
    cli.accepted(*arguments, "--set", "width=1", "--image-size", 16)
    lines = (tmp_path / "run/jobs.jsonl").read_text().splitlines()
    read = [json.loads(line)["config"]["data"]["options"] for line in lines]
    assert read == [{"image_size": 256, "channels": 3}, {"image_size": 16, "channels": 3}]
    cli.refused(*arguments, "--set", "n_jobs=2", match="a NAME of .*warm_up_epochs")


def spoil(run, kind):
    """Arrays as if a network without a limit had given them."""
    for path in run.glob("arrays/*.npz"):
        with np.load(path) as file:
            arrays = dict(file.items())
        arrays |= {k: np.full_like(v, np.inf) for k, v in arrays.items() if k.startswith(kind)}
        np.savez(path, **arrays)


def test_defects_and_the_gallery_of_what_was_learned(cli, tmp_path):
    out = tmp_path / "run"
    arguments = ["experiment", "defects", "--data", cli.data, "--out", out, *SMALL]
    arguments += ["--methods", "RD-CD,ST-SSAD"]
    result = cli.accepted(*arguments)
    assert "| data/hole |" in result.stdout
    assert "what the paper prints" not in result.stdout
    for name in ("index.html", "table.md", "ablation.md", "runs.csv", "summary.csv"):
        assert (out / name).stat().st_size > 0
    for name in ("auc", "differences", "learned", "embeddings"):
        assert (out / f"figures/{name}.png").exists()
    assert "chosen by S" in (out / "ablation.md").read_text()
    (out / "figures/embeddings.png").unlink()
    spoil(out, "embedding")
    cli.accepted(*arguments)
    assert not (out / "figures/embeddings.png").exists()
    lines = (out / "jobs.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 4
    assert all(json.loads(line)["status"] == "done" for line in lines)
    assert str(tmp_path) not in "".join(lines)

    again = cli.accepted(*arguments, "--selection", "score_variance")
    assert "5 of 5 jobs were done before" in again.stderr
    assert (out / "jobs.jsonl").read_text().splitlines() == lines

    cli.accepted(*arguments, "--selection", "ensemble")
    ensemble = (out / "table.md").read_text()
    assert "[0/1]" not in ensemble
    assert "all together" in (out / "ablation.md").read_text()
    spoil(out, "scores")
    cli.accepted(*arguments)
    assert "all together" not in (out / "ablation.md").read_text()
    shutil.rmtree(out / "arrays")
    cli.accepted(*arguments)  # a run whose lines alone were kept
    assert "all together" not in (out / "ablation.md").read_text()
    assert (out / "jobs.jsonl").read_text().splitlines() == lines

    (out / "figures/mine.png").touch()
    arguments[-1] = "RD-CD"
    cli.accepted(*arguments)  # a smaller plan, which has nothing to compare and learns nothing
    assert {path.name for path in out.glob("figures/*")} == {"auc.svg", "auc.png", "mine.png"}
    arguments[-1] = "RD-CD,ST-SSAD"
    cli.accepted(*arguments)

    gallery = tmp_path / "gallery"
    cli.accepted("experiment", "gallery", "--runs", out, "--out", gallery)
    assert (gallery / "figures/learned-run.png").exists()
    arguments = ("experiment", "gallery", "--runs", out, "--runs", out, "--out", gallery)
    cli.refused(*arguments, match="two of the runs are called run")


def test_the_papers_figures_stand_beside_its_tasks_alone(cli, tmp_path):
    carpet = tmp_path / "carpet"
    shutil.copytree(cli.data, carpet)
    (carpet / "test/cut").mkdir()
    cli.draw("test/cut/0.png", 3).rename(carpet / "test/cut/0.png")
    shutil.rmtree(cli.data / "test/cut")
    arguments = ["--data", carpet, "--out", tmp_path / "run", *SMALL, "--methods", "RS-CD"]
    result = cli.accepted("experiment", "defects", *arguments)
    (row,) = (line for line in result.stdout.splitlines() if line.startswith("| carpet/cut |"))
    assert "(0.490)" in row
    # Digits of another set have the names of SVHN's, and are others.
    more = ["--methods", "RS-RO", "--tasks", "6/9", "--out", tmp_path / "digits"]
    result = cli.accepted("experiment", "semantic", *SMALL, *more)
    assert "what the paper prints" not in result.stdout


def test_semantic(cli, tmp_path):
    out = tmp_path / "run"
    cli.accepted(
        *("experiment", "semantic", "--out", out, *SMALL),
        *("--methods", "ST-SSAD,RD-RO", "--tasks", "6/9", "--normal", "6"),
        *("--set", 'starts=[{"angle": 180}]', "--train-limit", 20, "--test-limit", 8),
    )
    table = (out / "table.md").read_text()
    assert "6/9 | " in table
    assert "6/8" not in table  # RD-RO, too, has been fitted for 6/9 alone
    assert "2 of 2 runs" in table
    assert "the paper" not in table  # which has other pictures of the same classes
    assert (out / "figures/learned.png").exists()


def test_what_was_learned_is_shown_of_the_papers_tasks_first(cli, tmp_path):
    arguments = ["--methods", "ST-SSAD", "--tasks", "2/0,2/1,2/6,2/9,6/9", "--normal", "2,6"]
    arguments += ["--set", 'starts=[{"angle": 180}]', "--train-limit", 20, "--test-limit", 8]
    cli.accepted("experiment", "semantic", "--out", tmp_path / "run", *SMALL, *arguments)
    drawn = (tmp_path / "run/figures/learned.svg").read_text()
    assert re.findall(r">(\d/\d): normal<", drawn) == ["2/6", "6/9", "2/0"]
    assert len(re.findall(r">rotated \d+°<", drawn)) == 3


def test_the_page_tells_settings_that_differ(cli, tmp_path):
    arguments = ["--methods", "RD-RO", "--tasks", "2/9,6/9", "--out", tmp_path / "run"]
    cli.accepted("experiment", "semantic", *arguments, *SMALL)
    page = (tmp_path / "run/index.html").read_text()
    assert '<th scope="row">pictures: normal</th><td>2, 6</td>' in page


def test_semantic_with_few_pictures(cli, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (8, 16, 16), dtype=np.uint8)
    arrays = {f"{part}_images": pictures for part in ("train", "test")}
    arrays |= {f"{part}_labels": np.arange(8) % 2 for part in ("train", "test")}
    np.savez(tmp_path / "few.npz", **arrays)
    arguments = ["--data", tmp_path / "few.npz", "--normal", "0", "--methods", "ST-SSAD"]
    arguments += ["--set", 'starts=[{"angle": 180}]', "--out", tmp_path / "run"]
    cli.accepted("experiment", "semantic", *arguments, *SMALL)
    assert (tmp_path / "run/figures/learned.png").exists()


def test_demonstrative(cli, tmp_path):
    out = tmp_path / "run"
    arguments = ["experiment", "demonstrative", "--out", out, *SMALL]
    arguments += ["--train-limit", 8, "--test-limit", 4, "--set", 'starts=[{"size": 0.02}]']
    cli.accepted(*arguments, "--tasks", "size 0.04 aspect 1")
    assert (out / "table.md").read_text().count("| size 0.") == 1
    assert (out / "figures/recovered.png").exists()
    assert (out / "figures/trajectories.png").exists()
    assert cli.accepted(*arguments).stderr.count("1 of 25 jobs were done before") == 1
    assert (out / "table.md").read_text().count("| size 0.") == 25


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["defects", "--data", "nowhere"], "nowhere does not exist"),
        (["semantic", "--normal", "six"], "expected class numbers like 2,6"),
        (["semantic", "--methods", "SVM"], "no method SVM; choose from AE"),
        (["semantic", "--data", "nowhere"], "nowhere does not exist"),
        (["semantic", "--set", "depht=10"], "depht=10 is not understood"),
        (["semantic", "--set", "random_state=1"], "random_state=1 is not understood"),
        (["demonstrative", "--data", "marble"], "marble does not exist"),
    ],
)
def test_what_cannot_be_used_is_refused(cli, tmp_path, arguments, match):
    cli.refused("experiment", *arguments, "--out", tmp_path / "run", *SMALL, match=match)


def test_an_unknown_backbone_is_refused(cli, tmp_path):
    arguments = ("--data", cli.data, "--backbone", "vgg", "--out", tmp_path / "run")
    cli.refused("experiment", "defects", *arguments, match="expected one of efficientnet_lite0")


def test_a_folder_of_another_experiment_is_refused(cli, tmp_path):
    out = tmp_path / "run"
    cli.accepted("experiment", "semantic", *SMALL, "--methods", "RS-RO", "--out", out)
    arguments = ("--data", cli.data, *SMALL, "--methods", "RS-CD", "--out", out)
    cli.refused("experiment", "defects", *arguments, match="holds another experiment")


def test_a_job_that_fails_is_told_and_the_rest_is_shown(cli, tmp_path, monkeypatch):
    nonsense = {"augmentation": "nonsense", "strategy": "random_static"}
    monkeypatch.setitem(methods.METHODS, "RS-CD", Method("random", nonsense))
    out = tmp_path / "run"
    arguments = ["--data", cli.data, *SMALL, "--methods", "RS-CD,RD-CD", "--out", out]
    result = cli.invoke("experiment", "defects", *arguments)
    assert result.exit_code == 1
    assert "1 done, 1 failed" in result.stderr
    assert "| data/hole | \u2013 | **" in result.stdout
    assert "RS-CD" in (out / "index.html").read_text()
