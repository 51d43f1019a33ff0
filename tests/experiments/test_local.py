"""Jobs in processes: failures, deaths, interrupts, and kill -9 of the whole run."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from pretended import begun, plan, work

import stssad_fast
from stssad_fast.errors import InputError
from stssad_fast.experiments.local import Local
from stssad_fast.experiments.runner import run
from stssad_fast.experiments.store import Store

PACKAGE = Path(stssad_fast.__file__).parents[1]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "begun"
    folder.mkdir()
    return folder


def run_all(jobs, out, executor, watch=lambda event: None, work=work):
    store = Store(out)
    with store.claimed():
        run(jobs, store, work, executor, watch)
    assert not multiprocessing.active_children()
    return store


def lines(out):
    text = (out / "jobs.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_failures_leave_the_rest_alone(folder, tmp_path):
    deeds = [None, "raise", "kill", "refuse", None, "nan", "exit", "kill once", None]
    jobs = plan(folder, deeds)
    events = []
    store = run_all(jobs, tmp_path / "run", Local(2), events.append)
    reasons = {r.config["index"]: r.reason for r in store.failed.values()}
    assert "KeyError: 'what it was'" in reasons[1]
    assert "signal 9, Killed" in reasons[2] and "--jobs" in reasons[2]
    assert reasons[3] == "a picture is missing; put it back"
    assert "JSON" in reasons[5] and "exit code 3" in reasons[6]
    assert set(reasons) == {1, 2, 3, 5, 6, 7}
    values = {r.config["index"]: r.values for r in store.done.values()}
    assert values == {i: {"value": i**2, "threads": 1} for i in (0, 4, 8)}
    assert len(store.arrays(jobs[4].key)["range"]) == 4
    assert Counter(line["key"] for line in lines(tmp_path / "run")) == {j.key: 1 for j in jobs}
    told = [(job, outcome is not None) for job, outcome in filter(None, events)]
    assert [job for job, ended in told if not ended] == jobs  # in their order
    assert {job.key for job, ended in told if ended} == {job.key for job in jobs}

    # Again: what failed is tried once more, what is done is not.
    store = run_all(jobs, tmp_path / "run", Local(2))
    expected = {index: 1 if index in (0, 4, 8) else 2 for index in range(9)}
    assert begun(folder) == expected
    assert set(store.done) == {jobs[index].key for index in (0, 4, 7, 8)}
    assert len(lines(tmp_path / "run")) == 9 + 6


def test_threads(folder, tmp_path):
    store = run_all(plan(folder, [None]), tmp_path / "run", Local(1, threads=2))
    assert [r.values["threads"] for r in store.done.values()] == [2]
    assert [r.about["threads"] for r in store.done.values()] == [2]


def test_nothing_to_do(folder, tmp_path):
    assert not run_all([], tmp_path / "run", Local(2)).done


def test_one_configuration_twice(folder, tmp_path):
    with pytest.raises(ValueError, match="'well · seed 0' and 'well · seed 0'"):
        run_all(plan(folder, [None]) * 2, tmp_path / "run", Local(2))


def test_work_that_cannot_be_imported(folder, tmp_path):
    with pytest.raises(InputError, match="function of a module"):
        run_all(plan(folder, [None]), tmp_path / "run", Local(1), work=lambda c, s: ({}, {}))


def test_an_error_of_the_watcher_ends_the_processes(folder, tmp_path):
    def fails(event):
        if event and event[1]:
            raise RuntimeError("of the watcher")

    with pytest.raises(RuntimeError, match="of the watcher"):
        run_all(plan(folder, [None] * 4), tmp_path / "run", Local(2), fails)
    assert not multiprocessing.active_children()
    assert len(lines(tmp_path / "run")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_done(folder, tmp_path, number):
    def interrupt(event):
        if event and event[1]:
            signal.raise_signal(number)

    jobs = plan(folder, [None, *["slow"] * 3], seconds=0.0)
    jobs[1:] = plan(folder, [None, *["slow"] * 3], seconds=60.0)[1:]
    with pytest.raises(KeyboardInterrupt):
        run_all(jobs, tmp_path / "run", Local(2), interrupt)
    assert not multiprocessing.active_children()
    assert [line["status"] for line in lines(tmp_path / "run")] == ["done"]


def command(out, folder, count):
    script = Path(__file__).with_name("pretended_command.py")
    given = ["experiment", "pretended", "--out", out, "--jobs", 2, folder, count]
    return [sys.executable, script, *map(str, given)]


def start(*arguments):
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE)},
        start_new_session=True,
    )


def until(condition, process=None):
    deadline = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def nobody_left(process):
    found = subprocess.run(["ps", "-o", "pid=", "-s", str(process.pid)], capture_output=True)
    return not found.stdout.strip()


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="no /proc")
def test_kill_9_and_go_on(folder, tmp_path):
    out, count = tmp_path / "run", 40
    process = start(out, folder, count)
    until(lambda: Store(out).done, process)
    time.sleep(random.uniform(0, 0.5))  # at whatever moment
    assert Store(out).in_use
    process.kill()
    process.communicate()
    until(lambda: nobody_left(process))
    recorded = {record.config["index"] for record in Store(out).done.values()}
    before = begun(folder)
    assert 1 <= len(recorded) < count

    run_all(plan(folder, [None] * count, seconds=0.05), out, Local(2))
    assert Counter(line["config"]["index"] for line in lines(out)) == Counter(range(count))
    for index in range(count):
        again = begun(folder)[index] - before[index]
        assert again == (0 if index in recorded else 1)


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="no /proc")
def test_ctrl_c_in_a_terminal(folder, tmp_path):
    out = tmp_path / "run"
    process = start(out, folder, 1000)
    until(lambda: len(Store(out).done) > 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    given = " ".join(command(out, folder, 1000)[2:])
    assert f"Stopped; what was done is kept. To go on: stssad-fast {given}" in errors
    until(lambda: nobody_left(process))
    assert len(Store(out).done) > 2 and not Store(out).failed
