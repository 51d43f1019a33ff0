"""The folder of a run: what is kept, what a crash leaves, and who may write."""

import json
import os
import zipfile

import numpy as np
import pytest

from stssad_fast.errors import InputError
from stssad_fast.experiments import store as stores
from stssad_fast.experiments.jobs import Job, Outcome
from stssad_fast.experiments.store import Record, Store, time_to_go

A, B, C = (Job({"seed": seed}, f"seed {seed}", "group") for seed in range(3))
GOOD = Outcome({"auc": 0.5}, {"scores": np.array([1.0, 2.0])}, None, 1.5, {"torch": "2"})
BAD = Outcome(reason="it rains", seconds=0.5)


def kept(folder, *pairs):
    store = Store(folder)
    with store.claimed():
        for job, outcome in pairs:
            store.add(job, outcome)
    return store


def test_what_is_kept(tmp_path):
    written = kept(tmp_path / "a/b", (A, GOOD), (B, BAD))
    for store in (written, Store(tmp_path / "a/b")):
        done, failed = store.done[A.key], store.failed[B.key]
        assert (done.values, done.seconds, done.config) == ({"auc": 0.5}, 1.5, {"seed": 0})
        assert (failed.status, failed.reason, failed.label) == ("failed", "it rains", "seed 1")
        assert done.when.endswith("+00:00")
        np.testing.assert_array_equal(store.arrays(A.key)["scores"], [1.0, 2.0])


def test_what_is_no_utf_8_can_be_kept(tmp_path):
    name = os.fsdecode(b"b\xff")
    job = Job({"i": 0}, name, "group")
    kept(tmp_path, (job, Outcome(reason=f"no {name}")))
    assert [(r.label, r.reason) for r in Store(tmp_path).failed.values()] == [(name, f"no {name}")]


def test_done_stays_done(tmp_path):
    store = kept(tmp_path, (A, BAD), (A, GOOD), (B, GOOD), (B, BAD))
    assert set(store.done) == set(Store(tmp_path).done) == {A.key, B.key}
    assert not store.failed and not Store(tmp_path).failed


def test_a_torn_line_is_cut_off(tmp_path):
    kept(tmp_path, (A, GOOD), (B, GOOD))
    path = tmp_path / "jobs.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert set(Store(tmp_path).done) == {A.key}
    store = kept(tmp_path, (C, GOOD))
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == [A.key, C.key]
    assert set(store.done) == {A.key, C.key}


def test_a_last_line_that_lacks_its_end_alone(tmp_path):
    kept(tmp_path, (A, GOOD))
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert set(kept(tmp_path, (B, GOOD)).done) == {A.key, B.key} == set(Store(tmp_path).done)


def test_a_last_line_that_is_not_torn_is_not_cut_off(tmp_path):
    """As of an editor that writes lone carriage returns: the whole file is one line."""
    kept(tmp_path, (A, GOOD), (B, GOOD))
    path = tmp_path / "jobs.jsonl"
    lines = path.read_bytes().splitlines()
    for data in (b"\r".join(lines), lines[0] + b"\n>>>>>>> theirs", lines[0] + b"\n{}"):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"line \d of .*jobs.jsonl.*delete that line"):
            kept(tmp_path)
        assert path.read_bytes() == data


def test_what_a_power_failure_leaves_is_cut_off(tmp_path):
    kept(tmp_path, (A, GOOD))
    path = tmp_path / "jobs.jsonl"
    whole = path.read_bytes()
    for tail in (b"\0" * 9, b'{"key": "0\0\0\0'):
        path.write_bytes(whole + tail)
        assert set(kept(tmp_path).done) == {A.key}
        assert path.read_bytes() == whole


def test_a_line_that_did_not_fit_spoils_no_other(tmp_path, monkeypatch):
    def full(handle):
        os.ftruncate(handle, os.fstat(handle).st_size - 20)
        raise OSError(28, "No space left on device")

    store = kept(tmp_path, (A, GOOD))
    with store.claimed():
        with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left"):
            patch.setattr(os, "fsync", full)
            store.add(B, Outcome({}))
        store.add(C, Outcome({}))
    assert set(Store(tmp_path).done) == {A.key, C.key}


CHANGES = [
    {"key": 1},
    {"config": []},
    {"status": "won"},
    {"values": None},
    {"values": [1]},
    {"seconds": "1"},
    {"seconds": float("nan")},
    {"when": None},
    {"about": None},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_values_of_another_type_are_told(tmp_path, change):
    kept(tmp_path, (A, GOOD))
    path = tmp_path / "jobs.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | change) + "\n")
    with pytest.raises(InputError, match=r"line 1 of .*jobs.jsonl cannot be read \(a value"):
        Store(tmp_path)


def test_damage_elsewhere_is_told(tmp_path):
    kept(tmp_path, (A, GOOD), (B, GOOD))
    path = tmp_path / "jobs.jsonl"
    for damaged in ("<<<<<<< HEAD", "[]", '{"key": 1}', "[" * 10**5):
        path.write_text("\n".join([damaged, *path.read_text().splitlines()[-1:], ""]))
        with pytest.raises(InputError, match=r"line 1 of .*jobs.jsonl.*delete that line"):
            Store(tmp_path)


def test_lines_alone_are_enough(tmp_path):
    kept(tmp_path / "there", (A, GOOD))
    (tmp_path / "here").mkdir()
    (tmp_path / "there/jobs.jsonl").rename(tmp_path / "here/jobs.jsonl")
    store = Store(tmp_path / "here")
    assert A.key in store.done
    with pytest.raises(InputError, match=r"npz cannot be read.*delete the line"):
        store.arrays(A.key)


@pytest.mark.parametrize("left", [0, 60, 200])
def test_torn_arrays_are_refused(tmp_path, left):
    store = kept(tmp_path, (A, GOOD))
    path = tmp_path / f"arrays/{A.key}.npz"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match=r"npz cannot be read.*delete the line"):
        store.arrays(A.key)


def test_other_files_than_arrays_are_refused(tmp_path):
    store = kept(tmp_path, (A, GOOD))
    path = tmp_path / f"arrays/{A.key}.npz"
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(InputError, match=r"npz cannot be read.*delete the line"):
        store.arrays(A.key)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scores.npy", b"")
    path.write_bytes(path.read_bytes().replace(b"\x14\0\0\0\0\0", b"\x14\0\0\0\x63\0"))
    with pytest.raises(InputError, match=r"npz cannot be read.*delete the line"):
        store.arrays(A.key)


def test_arrays_come_first_and_whole(tmp_path, monkeypatch):
    def fails(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fails)
    with pytest.raises(InputError, match="No space left"):
        kept(tmp_path, (A, GOOD))
    assert not Store(tmp_path).done and not list((tmp_path / "arrays").iterdir())


def test_what_a_killed_process_did_not_finish_is_deleted(tmp_path):
    names = (".plan.json", f"arrays/.{A.key}.npz", ".table.md", ".runs.csv", ".index.html")
    for name in (*names, "figures/.auc.svg", "figures/.auc.png"):
        path = tmp_path / f"{name}.abcd_123"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / ".table.md.swp").touch()  # an editor's
    kept(tmp_path)
    found = sorted(path.name for path in tmp_path.rglob("*"))
    assert found == [".table.md.swp", "arrays", "figures"]


def test_one_writer_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE", 0.1)
    store = Store(tmp_path / "run")
    assert not store.in_use
    with store.claimed():
        assert Store(tmp_path / "run").in_use
        with (
            pytest.raises(InputError, match=r"another process is at work in .*run; wait"),
            Store(tmp_path / "run").claimed(),
        ):
            pass
    assert not store.in_use


def test_what_another_wrote_before_the_claim_is_known(tmp_path):
    store = Store(tmp_path)
    kept(tmp_path, (A, GOOD))
    with store.claimed():
        assert A.key in store.done


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with (
            pytest.raises(InputError, match=r"cannot write to .*file.*: .*choose a folder"),
            Store(folder).claimed(),
        ):
            pass


def test_the_plan(tmp_path):
    store = Store(tmp_path)
    assert store.plan().jobs == []
    store.write_plan([A, B], 2)
    assert [(job.key, job.label) for job in store.plan().jobs] == [
        (A.key, "seed 0"),
        (B.key, "seed 1"),
    ]
    assert store.plan().workers == 2
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan.json cannot be read"):
        store.plan()


def record(group, seconds):
    return Record("", {}, "", group, "done", {}, None, seconds, "", {})


def test_time_to_go():
    done = [record("slow", 10.0), record("slow", 20.0), record("fast", 3.0)]
    assert time_to_go([("slow", 0.0)], [], 1) is None
    assert time_to_go([], done, 2) == 0.0
    assert time_to_go([("slow", 0.0), ("slow", 5.0), ("fast", 9.0)], done, 1) == 25.0
    assert time_to_go([("slow", 0.0)] * 4, done, 2) == 30.0
    assert time_to_go([("slow", 0.0)], done, 2) == 15.0  # one job is not divided
    assert time_to_go([("new", 0.0)], done, 1) == 11.0
