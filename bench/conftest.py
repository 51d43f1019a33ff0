"""Options and metadata of `pytest bench`; no names of hosts, users or folders are recorded."""

import platform
import re
from importlib import metadata, util
from pathlib import Path

import torch

from stssad_fast.ops import extension


def pytest_addoption(parser):
    parser.addoption("--threads", type=int, default=2, help="threads of PyTorch (default: 2)")


def pytest_configure(config):
    torch.set_num_threads(config.getoption("--threads"))


def pytest_report_header(config):
    return f"native extension: {extension.status()}; {torch.get_num_threads()} threads"


def pytest_benchmark_generate_machine_info(config):
    native = None
    if build := extension.build_info():
        from stssad_fast import _C

        level = getattr(_C, "simd_level", None)  # older commits lack it
        native = {**build, "simd": level and level()}
    return {
        "cpu": processor(),
        "system": platform.system(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_simd": torch.backends.cpu.get_cpu_capability(),
        "kornia": metadata.version("kornia") if util.find_spec("kornia") else None,
        "native": native,
    }


def pytest_benchmark_update_commit_info(config, commit_info):
    for key in set(commit_info) - {"id", "time", "dirty"}:
        del commit_info[key]


def processor():
    """Return the model of the CPU."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor()
