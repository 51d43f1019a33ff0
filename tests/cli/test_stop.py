"""Runs that are stopped go on to the result of a run that was not."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np

from stssad_fast import STSSAD

STEPS = ["--iterations", 30]
OFTEN, NEVER = ["--checkpoint-interval", 0.1], ["--checkpoint-interval", 1000]


def start(out, *more, under=()):
    command = [sys.executable, "-m", *under, "stssad_fast", "tune", "--out", out, *more]
    return subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(path, process, newer_than=0):
    deadline = time.monotonic() + 120
    while not (path.exists() and path.stat().st_mtime_ns > newer_than):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stopped_twice(cli, tmp_path):
    options = [*cli.options, *STEPS]
    cli.accepted("tune", *options, *NEVER, "--out", tmp_path / "unbroken")
    run = tmp_path / "broken"
    process = start(run, *options, *OFTEN)
    wait_for(run / "checkpoint.safetensors", process)
    process.kill()
    process.communicate()
    assert not (run / "model.safetensors").exists()

    killed_at = (run / "checkpoint.safetensors").stat().st_mtime_ns
    process = start(run, "--resume")
    wait_for(run / "checkpoint.safetensors", process, killed_at)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"To go on, to the same result: stssad-fast tune --out {run} --resume" in err
    assert "Traceback" not in err
    assert not (run / "model.safetensors").exists()

    cli.accepted("tune", "--out", run, "--resume", *NEVER)
    assert cli.same(run, tmp_path / "unbroken")
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_one_process_at_a_time(cli, tmp_path):
    process = start(tmp_path / "run", *cli.options, "--iterations", "500")
    wait_for(tmp_path / "run/config.json", process)
    cli.refused("tune", "--out", tmp_path / "run", "--resume", match="another process is at work")
    process.kill()
    process.communicate()


def test_several_processes_of_torchrun(cli, tmp_path):
    # A round patch has no angle: where its gradient is 0, rounding would turn it.
    options = [*cli.options[:-1], 'starts=[{"size": 0.01, "aspect": 1.5, "angle": 20}]', *STEPS]
    cli.accepted("tune", *options, "--out", tmp_path / "one")
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m"]
    run = tmp_path / "two"
    process = start(run, *options, *OFTEN, under=torchrun)
    wait_for(run / "checkpoint.safetensors", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert out.count("5 training and 10 test pictures") == 1
    assert err.count("Stopped; what was done is kept.") == 1, err
    assert not (run / "model.safetensors").exists()

    process = start(run, "--resume", under=torchrun)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("Report: ") == 1
    assert json.loads((run / "config.json").read_text())["parameters"]["distributed"]
    # Rounding grows from step to step; tests/tuning/test_distributed.py compares in float64.
    mine, others = (
        STSSAD.load(folder / "model.safetensors").history_["validation_loss"][:3]
        for folder in (run, tmp_path / "one")
    )
    assert np.allclose(mine, others, rtol=1e-4), (mine, others)

    cli.refused("tune", "--out", run, match="holds another run")
    assert "nothing was done again" in cli.accepted("tune", "--out", run, "--resume").output


def test_ctrl_c_while_it_is_still_importing():
    code = (
        "import sys, stssad_fast\n"
        "class Stop:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'stssad_fast.cli.app':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from stssad_fast.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "Stopped before anything was begun.\n")
