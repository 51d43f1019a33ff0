"""The Triton kernels themselves, interpreted; the matrix of the ops has a row for them."""

import pytest
import torch

from ..ops.backends import INTERPRETED

if INTERPRETED.skip:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def in_use():
    with INTERPRETED.use():
        yield


@pytest.fixture(autouse=True)
def unwritten_is_nan():
    """What a kernel does not write is NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all() and torch.ones(2).new_empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
