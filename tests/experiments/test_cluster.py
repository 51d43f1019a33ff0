"""Jobs as tasks of a real Ray on this machine."""

import os
import socket
import sys
from collections import Counter
from contextlib import closing
from types import SimpleNamespace

import pytest
from pretended import begun, plan

from stssad_fast.errors import InputError
from stssad_fast.experiments.cluster import Cluster, check_reachable
from stssad_fast.experiments.jobs import Outcome

from .test_local import PACKAGE, lines, run_all


def test_a_worker_that_is_killed(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PACKAGE), os.path.dirname(__file__)]))
    folder = tmp_path / "begun"
    folder.mkdir()
    jobs = plan(folder, [None, "kill once", None, "raise", None, None], seconds=0.1)
    store = run_all(jobs, tmp_path / "run", Cluster("local", workers=2))
    assert Counter(line["key"] for line in lines(tmp_path / "run")) == {j.key: 1 for j in jobs}
    assert begun(folder)[1] == 2
    assert set(store.done) == {job.key for job in jobs} - {jobs[3].key}
    assert store.done[jobs[1].key].values == {"value": 1, "threads": 1}
    assert "KeyError" in store.failed[jobs[3].key].reason
    assert len(store.arrays(jobs[5].key)["range"]) == 5


def test_no_cluster_at_that_address(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(InputError, match="cannot begin with Ray at nowhere:x"):
        run_all(plan(tmp_path, [None]), tmp_path / "run", Cluster("nowhere:x"))


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_nothing_answers(prefix, tmp_path):
    pytest.importorskip("ray")
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"{prefix}127.0.0.1:{server.getsockname()[1]}"
        check_reachable(address)
    with pytest.raises(InputError, match=f"nothing answers at {address}"):
        run_all(plan(tmp_path, [None]), tmp_path / "run", Cluster(address))


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'stssad-fast\[ray\]'"):
        run_all(plan(tmp_path, [None]), tmp_path / "run", Cluster("local"))


@pytest.mark.parametrize(
    ("resources", "options", "room"),
    [
        ({"CPU": 9.0}, {"cpus": 2}, 4),
        ({"CPU": 9.0}, {"cpus": 2, "workers": 3}, 3),
        ({"CPU": 9.0, "GPU": 1.0}, {"gpus": 0.25}, 4),
        ({"CPU": 9.0}, {"gpus": 1.0}, "has 9 CPUs and 0 GPUs; a job is to have 1 and 1"),
        ({}, {}, "has 0 CPUs"),
    ],
)
def test_room(resources, options, room):
    ray = SimpleNamespace(cluster_resources=lambda: resources)
    cluster = Cluster("auto", **options)
    if isinstance(room, int):
        assert cluster._room(ray, began=False) == cluster._room(ray, began=True) == room
    else:
        assert cluster._room(ray, began=True) == 0
        with pytest.raises(InputError, match=room):
            cluster._room(ray, began=False)


def test_a_cluster_loses_its_last_machine_for_a_while(tmp_path, monkeypatch):
    machines = iter([1.0, 0.0, 0.0, 1.0, 1.0])
    done = []

    def call(work, job, cpus):
        done.append(Outcome({"job": job.label}))
        return len(done) - 1

    ray = SimpleNamespace(
        cluster_resources=lambda: {"CPU": next(machines)},
        remote=lambda **options: lambda function: SimpleNamespace(remote=call),
        wait=lambda references, timeout: (references, []),
        get=done.__getitem__,
        shutdown=lambda: None,
        exceptions=SimpleNamespace(RayError=RuntimeError),
    )
    monkeypatch.setattr(Cluster, "_begun", lambda self: ray)
    jobs = plan(tmp_path, [None, None])
    ended = [event for event in Cluster("auto")(None, jobs) if event and event[1]]
    assert [job for job, _ in ended] == jobs
    machines = iter([1.0, 0.0])
    with pytest.raises(InputError, match="Ray on this machine has died"):
        list(Cluster("local")(None, jobs))


def test_parts_of_gpus():
    with pytest.raises(InputError, match=r"--gpus-per-job is 1\.5"):
        Cluster("auto", gpus=1.5)
