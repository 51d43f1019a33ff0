"""Every kernel compiles for GPUs that are not there, within what their multiprocessors have."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_offline.py")
KERNELS = {
    "batch_norm._moments",
    "batch_norm._statistics",
    "batch_norm._forward",
    "batch_norm._backward_sums",
    "batch_norm._backward",
    "batch_norm._double_sums",
    "batch_norm._double",
    "cutdiff._forward",
    "cutdiff._backward",
    "cutdiff._gather",
    "mean_distance._sums",
    "mean_distance._squares",
    "mean_distance._units",
    "mean_distance._backward",
}
# Two blocks of threads, or two thirds of one's most, fit a multiprocessor with 65536 registers.
REGISTERS = {4: 168, 8: 128, 16: 128}


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_compile_offline(architecture, tmp_path):
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, SCRIPT, str(architecture)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {entry["kernel"] for entry in found} == KERNELS
    for entry in found:
        assert entry["sm"] == architecture
        assert entry["stack"] == 0, entry  # nothing is spilled
        assert entry["registers"] <= REGISTERS[entry["warps"]], entry
        assert entry["shared"] <= 8192, entry
        if "(64, 3, 128, 256)" in entry["call"] and entry["kernel"] != "cutdiff._gather":
            assert entry["widest_load"] == 16, entry
    for dtype in ("float32", "bfloat16", "float16", "float64"):
        for kernel in KERNELS:
            if not kernel.startswith("mean_distance") or dtype in ("float32", "float64"):
                assert any(e["kernel"] == kernel and dtype in e["call"] for e in found), kernel
