"""How the kernels come behind the operators, and that nothing needs them."""

import subprocess
import sys

import pytest
import torch

from stssad_fast.ops import triton_kernels

WITHOUT = """
import sys
sys.modules["triton"] = None  # importing it fails
import torch, stssad_fast, stssad_fast.kernels
from stssad_fast.ops import triton_kernels
library = torch.library.Library("without_triton", "DEF")
try:
    triton_kernels.register(library, "CUDA")
except ImportError as error:
    print(error)
"""


def test_without_triton():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "triton" in done.stdout


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch was built with CUDA")
def test_says_why_they_are_not_in_use():
    assert not triton_kernels.load()
    assert "without CUDA" in triton_kernels.why_not()


@pytest.mark.parametrize("name", ["cutdiff", "mean_distance_loss"])
def test_registered_properly(name, interpreted):
    inputs = {
        "cutdiff": (torch.rand(2, 3, 4, 5).mT, torch.full((1, 3), 0.4), torch.rand(2, 2)),
        "mean_distance_loss": tuple(torch.rand(n, 3) for n in (2, 3, 4)),
    }[name]
    namespace = torch.ops.stssad_fast_triton
    operator, backward = getattr(namespace, name), getattr(namespace, f"{name}_backward")
    for one in (operator, backward):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(one.default.name(), "CPU")
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(operator, inputs, test_utils=checks)
    result = operator(*inputs)
    gradient = result if name == "cutdiff" else result[0]
    notes = () if name == "cutdiff" else (result[1],)
    for needed in ([True] * 3, [True, False, False], [False, True, False]):
        arguments = (gradient, *notes, *inputs, needed)
        torch.library.opcheck(backward, arguments, test_utils=checks)
