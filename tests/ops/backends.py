"""The rows of the test matrix: every implementation of the ops. A new one joins by its row here."""

import contextlib
import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from stssad_fast.ops import extension, reference, triton_kernels
from stssad_fast.ops._operators import differentiable, fold_batch
from stssad_fast.ops.batch_norm import _batch_norm
from stssad_fast.ops.batch_norm import register as register_batch_norm
from stssad_fast.ops.cutdiff import _cutdiff
from stssad_fast.ops.mean_distance_loss import _batched, _mean_distance_loss, _memo
from stssad_fast.ops.rotate import _rotate

OPS = ("cutdiff", "rotate", "mean_distance_loss")
PICTURE_OPS = OPS[:2]
NATIVE = dict(zip(OPS, (_cutdiff, _rotate, _mean_distance_loss), strict=True))
NATIVE["batch_norm"] = _batch_norm  # it has tests of its own, not a place in the matrix
LIBRARIES = []  # operators end when their library goes


class Backend(NamedTuple):
    """One implementation of the ops, or of some: tests of the others do not run on it."""

    name: str
    ops: dict[str, Callable[..., Tensor]]  # differentiable; they take arguments as operators do
    operators: Any  # torch.ops.NAMESPACE
    device: str = "cpu"
    # Kernels promise the same bits for any number of threads, and 1e-6 for float32 pictures of any
    # size and patches of any shape, because they place pixels in float64. The reference adds up as
    # ATen does, and places pixels in float32 (1e-5 on 256 pixels): its row in the narrow dtypes
    # has small pictures alone.
    kernel: bool = True
    slow: bool = False  # then tests marked ``large`` do not run on it, and others try less
    skip: str | None = None
    use: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext

    def op(self, name: str) -> Callable[..., Tensor]:
        return self.ops[name]

    def _from_the_cpu(self, name: str, inputs: tuple[Tensor, ...]) -> Tensor:
        return self.ops[name](*(value.to(self.device) for value in inputs)).cpu()

    def cutdiff(self, *inputs: Tensor) -> Tensor:
        return self._from_the_cpu("cutdiff", inputs)

    def rotate(self, *inputs: Tensor) -> Tensor:
        return self._from_the_cpu("rotate", inputs)

    def mean_distance_loss(self, *inputs: Tensor) -> Tensor:
        return self._from_the_cpu("mean_distance_loss", inputs)

    def forward(self, name: str) -> torch._ops.OpOverload:
        return getattr(self.operators, name).default

    def backward(self, name: str) -> torch._ops.OpOverload:
        return getattr(self.operators, f"{name}_backward").default


def _registered(name: str, *ops: str) -> tuple[dict[str, Callable[..., Tensor]], Any]:
    """The registration of the ops once more, where no kernel of the package takes precedence."""
    library = torch.library.Library(name, "DEF")
    LIBRARIES.append(library)
    arguments = {
        "cutdiff": (["image", "shape", "center"], fold_batch, None, ["mean", "std"]),
        "rotate": (["image", "angle"], fold_batch, None, ["mean", "std"]),
        "mean_distance_loss": (["train", "augmented", "test"], _batched, _memo),
    }

    def register(op: str) -> Callable[..., Tensor]:
        names, *rest = arguments[op]
        definition = getattr(reference, op), getattr(reference, f"{op}_backward")
        return differentiable(op, names, *definition, *rest, library=library)

    made = {op: register(op) for op in ops if op in arguments}
    if "batch_norm" in ops:
        made["batch_norm"] = register_batch_norm(library)
    return made, getattr(torch.ops, name)


def _reference() -> Backend:
    return Backend("reference", *_registered("stssad_fast_reference", *NATIVE), kernel=False)


def _native() -> list[Backend]:
    """The extension on the CPU, once for each instruction set that this machine has."""
    row = Backend("native", NATIVE, torch.ops.stssad_fast)
    if not extension.load():
        missing = f"native extension {extension.why_not()}"
        if os.environ.get("STSSAD_FAST_REQUIRE_NATIVE") == "1":
            return [row._replace(use=lambda: pytest.fail(missing))]
        return [row._replace(skip=missing)]
    module = importlib.import_module("stssad_fast._C")

    @contextlib.contextmanager
    def at(level):
        before = module.simd_level()
        module.set_simd_level(level)
        assert module.simd_level() == level
        yield
        module.set_simd_level(before)

    return [
        row._replace(name=f"native {level}", use=lambda level=level: at(level))
        for level in module.simd_levels()
    ]


def _triton() -> Backend:
    """The Triton kernels, for the CPU: Triton interprets them, see tests/conftest.py."""
    ops = _registered("stssad_fast_triton", "cutdiff", "mean_distance_loss", "batch_norm")
    row = Backend("triton interpreter", *ops, slow=True)
    if find_spec("triton") is None:  # it is there on Linux only
        return row._replace(skip="Triton is missing")
    if torch.cuda.is_available():
        return row._replace(skip="Triton interprets nothing where it may compile")
    triton_kernels.register(LIBRARIES[-1], "CPU")
    # The interpreter computes with NumPy, which tells what a GPU does silently.
    return row._replace(use=lambda: np.errstate(over="ignore", invalid="ignore"))


def _cuda() -> Backend:
    """The package's operators on a GPU: Triton, and CUDA C++ for rotation."""
    row = Backend("cuda", NATIVE, torch.ops.stssad_fast, device="cuda")
    if not torch.cuda.is_available():
        return row._replace(skip="there is no GPU")
    return row._replace(ops={op: function for op, function in NATIVE.items() if has_cuda(op)})


def has_cuda(op: str) -> bool:
    """Whether the operators have kernels of their own there; else the reference answers."""
    names = f"stssad_fast::{op}", f"stssad_fast::{op}_backward"
    return all(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA") for name in names)


INTERPRETED = _triton()
CUDA = _cuda()
# Without a GPU, tests/ops/test_cuda.py alone says that its row is missing.
BACKENDS = [_reference(), *_native(), INTERPRETED, *([] if CUDA.skip else [CUDA])]
