"""The Triton kernels behind operators of their own, for the CPU: Triton interprets them."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from stssad_fast.ops import reference, triton_kernels
from stssad_fast.ops._operators import differentiable, fold_batch
from stssad_fast.ops.mean_distance_loss import _batched, _memo

# Triton is there on Linux only, and interprets nothing where it may compile: see tests/conftest.py.
if find_spec("triton") is None or torch.cuda.is_available():
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def interpreted():
    """The differentiable functions over the operators of ``stssad_fast_triton``."""
    library = torch.library.Library("stssad_fast_triton", "DEF")
    functions = SimpleNamespace(
        cutdiff=differentiable(
            "cutdiff",
            ["image", "shape", "center"],
            reference.cutdiff,
            reference.cutdiff_backward,
            fold_batch,
            library=library,
        ),
        mean_distance_loss=differentiable(
            "mean_distance_loss",
            ["train", "augmented", "test"],
            reference.mean_distance_loss,
            reference.mean_distance_loss_backward,
            _batched,
            _memo,
            library=library,
        ),
        library=library,  # unloads its operators when it is collected
    )
    triton_kernels.register(library, "CPU")
    return functions


@pytest.fixture(autouse=True)
def unwritten_is_nan():
    """What a kernel does not write is NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all() and torch.ones(2).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
