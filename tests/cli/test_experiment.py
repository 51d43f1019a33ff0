"""experiment: status, what shows progress, and options that do not fit."""

import io

import pytest
import typer
from rich.console import Console
from rich.text import Text

from stssad_fast.cli import experiment, jobs
from stssad_fast.errors import InputError
from stssad_fast.experiments.jobs import Job, Outcome
from stssad_fast.experiments.store import Store

PLAN = [
    Job({"seed": seed, "method": method}, f"{method} [red] · seed {seed}", method)
    for method in ("fast", "slow")
    for seed in range(3)
]
ENDED = [
    (PLAN[0], Outcome({}, seconds=10.0)),
    (PLAN[1], Outcome(reason="it rains", seconds=1.0)),
    (PLAN[3], Outcome({}, seconds=100.0)),
]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "run")
    with store.claimed():
        store.write_plan(PLAN, 2)
        for job, outcome in ENDED:
            store.add(job, outcome)
    return store


def rows(result):
    return [line.split() for line in result.stdout.splitlines()]


def test_status(cli, store):
    with (store.folder / "jobs.jsonl").open("a") as file:
        file.write('{"key": "torn')
    before = cli.tree(store.folder)
    result = cli.accepted("experiment", "status", store.folder)
    assert cli.tree(store.folder) == before
    assert f"{store.folder}: not running" in result.stdout
    assert ["fast", "1", "1", "1", "11", "s", "10", "s"] in rows(result)
    assert ["slow", "1", "0", "2", "1", "min", "40", "s", "1", "min", "40", "s"] in rows(result)
    assert ["all", "2", "1", "3", "1", "min", "51", "s", "1", "min", "45", "s"] in rows(result)
    assert "Failed: fast [red] · seed 1: it rains" in result.stdout
    with store.claimed():
        result = cli.accepted("experiment", "status", store.folder)
    assert f"{store.folder}: running" in result.stdout


def test_status_of_lines_alone(cli, store):
    (store.folder / "plan.json").unlink()
    result = cli.accepted("experiment", "status", store.folder)
    assert ["fast", "1", "1", "0", "11", "s"] in rows(result)


def test_status_of_a_smaller_plan(cli, store):
    store.write_plan(PLAN[:2], None)
    result = cli.accepted("experiment", "status", store.folder)
    assert "1 more done that the present plan leaves out." in result.stdout
    assert "slow" not in result.stdout


def test_status_of_what_is_no_run(cli, tmp_path):
    for path in (tmp_path, tmp_path / "missing", cli.draw("a.png")):
        cli.refused("experiment", "status", path, match="holds no run of an experiment")


def shown(store, terminal, events):
    """What is printed, in lines; None is when nothing happens, a second after the last None."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, markup=False)
    with jobs.JobsDisplay(console, store, PLAN, lines_every=0.5) as display:
        for event in events:
            display._shown -= event is None
            display(event)
    return [Text.from_ansi(line).plain for line in console.file.getvalue().splitlines()]


def test_progress(store):
    bad, good = Outcome(reason="a [b] c"), Outcome({}, seconds=1.0)
    events = [(PLAN[1], None), (PLAN[4], None), None, (PLAN[1], bad), (PLAN[2], None), None]
    lines = shown(store, False, [*events, None, (PLAN[4], good), None])
    assert lines == [
        "2 of 6 jobs were done before.",
        "Failed: fast [red] · seed 1: a [b] c",
        # 100 s and 10 s for what runs, 100 s for what is left, by two at a time
        "2 of 6 done, 2 running, 1 left, 1 failed, about 1 min 45 s to go; fast [red] · seed 1",
        "3 of 6 done, 1 running, 1 left, 1 failed, about 1 min 50 s to go; slow [red] · seed 1",
    ]
    lines = shown(store, True, events)
    assert any(line.startswith("Failed: fast [red] · seed 1: a [b] c") for line in lines)
    last = max(i for i, line in enumerate(lines) if line.startswith("2 of 6 done, 2 running, 1"))
    assert lines[last].endswith("about 1 min 45 s to go")
    assert lines[last + 1].split("  ") == ["slow [red] · seed 1", "0.0 s"]
    assert lines[last + 2].split("  ") == ["fast [red] · seed 2", "0.0 s"]


def test_quiet(store):
    console = Console(file=io.StringIO(), force_terminal=True, quiet=True)
    with jobs.JobsDisplay(console, store, PLAN) as display:
        display((PLAN[1], Outcome(reason="it rains")))
    assert console.file.getvalue() == ""


def never(config, sources):
    raise AssertionError


def test_gpus_are_rays(tmp_path):
    with pytest.raises(InputError, match="--gpus-per-job needs --ray"):
        experiment.run_plan(PLAN, tmp_path / "run", never, experiment.How(gpus_per_job=0.5))
    assert not (tmp_path / "run").exists()


def test_ctrl_c_while_tables_are_written(tmp_path, capsys):
    def write(store):
        assert Store(store.folder).in_use
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as stopped:
        experiment.run_plan([], tmp_path / "run", never, experiment.How(1), write)
    assert stopped.value.exit_code == 130
    assert "Stopped; what was done is kept. To go on: stssad-fast" in capsys.readouterr().err


def test_all_done(store, capsys):
    with store.claimed():
        for job in PLAN:
            store.add(job, Outcome({}))
    assert len(experiment.run_plan(PLAN, store.folder, never, experiment.How(1)).done) == 6
    assert capsys.readouterr().err.splitlines() == [
        "6 of 6 jobs were done before.",
        "6 done, 0 failed",
    ]
    experiment.run_plan(PLAN, store.folder, never, experiment.How(quiet=True))
    assert capsys.readouterr().err == ""
