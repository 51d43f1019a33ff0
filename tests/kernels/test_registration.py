"""How the kernels come behind the operators, and that nothing needs them."""

import os
import subprocess
import sys

import pytest
import torch

from stssad_fast.ops import triton_kernels

from ..ops.backends import INTERPRETED

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


def test_can_be_switched_off():
    code = "from stssad_fast.ops import triton_kernels as t; print(t.load(), t.why_not())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "STSSAD_FAST_TRITON": "0"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "False switched off by STSSAD_FAST_TRITON=0", done.stderr


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch was built with CUDA")
def test_says_why_they_are_not_in_use():
    assert not triton_kernels.load()
    assert "without CUDA" in triton_kernels.why_not()


@pytest.mark.parametrize("op", INTERPRETED.ops)
def test_the_row_of_the_matrix_is_theirs(op):
    for operator in (INTERPRETED.forward(op), INTERPRETED.backward(op)):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CPU")
