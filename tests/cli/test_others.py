"""demo, info, help, and what shows progress."""

import io
import json
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from stssad_fast.cli import console, demo, info, memory
from stssad_fast.ops import extension, triton_kernels
from stssad_fast.tuning.selection import Progress


def test_demo(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "QUICK", {"width": 1, "warm_up": 0, "iterations": 1})
    out = tmp_path / "demo"
    result = cli.accepted("demo", "--quick", "--out", out)
    assert "Angle found: " in result.stdout
    assert f"Report: {out / 'report.html'}" in result.stdout
    page = (out / "report.html").read_text()
    assert all(case.title in page for case in demo.CASES)
    (out / "report.html").write_text("old")
    (out / "notes.txt").write_text("mine")
    monkeypatch.setattr(demo, "CASES", demo.CASES[:1])
    cli.accepted("demo", "--quick", "--out", out)
    assert (out / "report.html").read_text() != "old"
    assert (out / "notes.txt").read_text() == "mine"
    assert set(json.loads((out / "demo.json").read_text())["cases"]) == {"digits"}


@pytest.mark.parametrize(("angle", "right"), [(170.0, True), (190.0, True), (169.9, False)])
def test_angle_verdict(angle, right):
    found = {"chosen": 0, "starts": [{"final": {"angle": angle}}]}
    verdict, sentence = demo.angle_verdict(found)
    assert verdict is right and ("not within" in sentence) is not right


def test_info(cli, monkeypatch):
    result = cli.accepted("info")
    for word in ("torch", "native extension", "cutdiff", "rotate", "mean_distance_loss", "CUDA"):
        assert word in result.stdout
    monkeypatch.setattr(extension, "why_not", lambda: "not built")
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *_: False)
    reasons = {choice.why for choice in info.choices() if choice.device == "CPU"}
    assert "native extension not built" in reasons


@pytest.mark.parametrize(
    ("why_not", "words"), [("not built", "not built"), (None, "STSSAD_FAST_BUILD=cuda")]
)
def test_info_tells_how_a_gpu_gets_its_kernels(monkeypatch, why_not, words):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *_: False)
    monkeypatch.setattr(extension, "why_not", lambda: why_not)
    monkeypatch.setattr(triton_kernels, "why_not", lambda: "Triton is missing")
    reasons = {choice.op: choice.why for choice in info.choices() if choice.device == "CUDA"}
    assert words in reasons.pop("rotate")
    assert set(reasons.values()) == {"no Triton kernels: Triton is missing"}


def test_version_and_help(cli):
    assert cli.accepted("--version").stdout.startswith("stssad-fast ")
    assert "tune" in cli.accepted().stdout
    for command in ("tune", "score", "demo", "info"):
        assert f"stssad-fast {command}" in cli.accepted(command, "--help").stdout


def steps(start, *, warm_up=2, total=4):
    for step in range(1, total + 1):
        warming = step <= warm_up
        loss = None if warming else 0.5
        yield Progress(
            start, 3, step, total, step == total, warming, loss, loss, {"size": 0.01, "angle": 12.0}
        )


def test_progress_on_a_terminal():
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=80)
    with console.TuningDisplay(terminal) as display:
        for progress in steps(1):
            display(progress)
    shown = stream.getvalue()
    assert "2/3" in shown and "done before" in shown and "12.0°" in shown and "left" in shown


def test_progress_in_lines():
    stream = io.StringIO()
    with console.TuningDisplay(Console(file=stream, width=40), lines_every=0) as display:
        for progress in steps(0):
            display(progress)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[-1].startswith("start 1/3  step 4/4  size 0.01  angle 12.0°  L_trn 0.5  L_val 0.5")


@pytest.mark.parametrize(
    ("ticks", "left"),
    [
        ([(30, 0, 1)], None),
        ([(30, 0, 1), (31, 0, 2)], "28 s"),  # 2 of 4 s, and 2 starts of 2 of 1 s and 2 of 4 s
        ([(30, 0, 1), (30, 1, 1)], None),
        ([(30, 0, 1), (31, 1, 1), (32, 0, 2), (33, 1, 2)], "26 s"),
        ([(30, 0, 1), (31, 1, 1), (32, 0, 4), (34, 1, 3), (35, 2, 1)], "7.5 s"),
    ],
)
def test_time_left_is_of_measured_steps(monkeypatch, ticks, left):
    now = 0.0
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now))
    stream = io.StringIO()
    plan = {start: list(steps(start)) for start in range(3)}
    with console.TuningDisplay(Console(file=stream, width=200), lines_every=0) as display:
        for now, start, step in ticks:  # noqa: B007
            display(plan[start][step - 1])
    shown = stream.getvalue().splitlines()
    assert shown[0].endswith("  time left not known yet")
    assert shown[-1].endswith(f"  about {left} left" if left else "  time left not known yet")


FAULTS = """
import resource
import torch
from stssad_fast.cli.memory import keep_memory

def faults():
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

keep_memory()
before, after = [faults() for _ in range(60)][-2:]  # the first ones fetch a few of them
print(after - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept():
    """Of 64 MiB, more than glibc keeps by itself, at most some pages are fetched again."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS]
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 1000


def test_what_the_environment_says_of_memory_stays(monkeypatch):
    for variable in memory._PARAMETERS:
        monkeypatch.setenv(variable, "131072")
    memory.keep_memory()
    assert {os.environ[variable] for variable in memory._PARAMETERS} == {"131072"}
