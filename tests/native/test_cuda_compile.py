"""csrc/cuda compiles for GPUs that are not there, and spills no register."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch.utils.cpp_extension as cpp_extension

SOURCES = Path(__file__).parents[2] / "csrc"
ARCHITECTURES = ("80", "90")
SCALARS = {"float": "float", "double": "double", "Half": "float", "BFloat16": "float"}
# What a thread may use: 64 leave four blocks of 256 threads to a multiprocessor, 80 three, 128 two.
REGISTERS = {
    "write_pixels": {"float": 64, "double": 80},
    "sum_slopes": {"float": 80, "double": 128},
    "gather_readers": {"float": 64, "double": 80},
    "sum_parts": {"float": 64, "double": 64},
}
REPORT = re.compile(
    r"Compiling entry function '(?P<symbol>\w+)' for 'sm_(?P<architecture>\d+)'\n.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def nvcc() -> str | None:
    home = cpp_extension.CUDA_HOME
    return shutil.which(f"{home}/bin/nvcc") if home else shutil.which("nvcc")


def kernel_of(symbol: str) -> tuple[str, str]:
    """Name and the scalar of the pictures, from a mangled instance of a kernel."""
    codes = {"f": "float", "d": "double", "N3c104HalfE": "Half", "N3c108BFloat16E": "BFloat16"}
    found = re.search(rf"({'|'.join(REGISTERS)})I({'|'.join(codes)})", symbol)
    assert found, symbol
    return found[1], codes[found[2]]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What ptxas tells of each kernel, scalar and architecture."""
    compiler = nvcc()
    if compiler is None:
        pytest.skip("there is no nvcc")
    command = [compiler, "-std=c++20", "-O3", "-c", str(SOURCES / "cuda" / "rotate.cu")]
    command += ["-o", str(tmp_path_factory.mktemp("cuda") / "rotate.o"), "-Xptxas", "-v"]
    command += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    command += ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{SOURCES}"]
    command += [f"-I{path}" for path in cpp_extension.include_paths()]
    command += cpp_extension.COMMON_NVCC_FLAGS
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "warning" not in done.stderr, done.stderr
    return {
        (*kernel_of(found["symbol"]), found["architecture"]): {
            name: int(found[name]) for name in ("stores", "loads", "registers")
        }
        for found in REPORT.finditer(done.stdout + done.stderr)
    }


def test_every_kernel_compiles(report):
    names = {(name, scalar) for name in REGISTERS for scalar in SCALARS}
    names -= {("sum_parts", "Half"), ("sum_parts", "BFloat16")}  # it adds up what is double
    assert set(report) == {(*name, a) for name in names for a in ARCHITECTURES}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernel", REGISTERS)
def test_registers(report, record_property, kernel, architecture):
    for (name, scalar, a), used in report.items():
        if (name, a) == (kernel, architecture):
            record_property(f"{name}<{scalar}> sm_{a}", used["registers"])
            assert used["stores"] == used["loads"] == 0, (scalar, used)
            assert used["registers"] <= REGISTERS[name][SCALARS[scalar]], (scalar, used)
