"""The rows of the test matrix: every implementation of the ops. A new one joins by its row here."""

import contextlib
import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from stssad_fast.ops import extension, reference
from stssad_fast.ops._operators import differentiable, fold_batch
from stssad_fast.ops.cutdiff import _cutdiff
from stssad_fast.ops.mean_distance_loss import _batched, _mean_distance_loss, _memo
from stssad_fast.ops.rotate import _rotate

OPS = ("cutdiff", "rotate", "mean_distance_loss")
PICTURE_OPS = OPS[:2]
NATIVE = dict(zip(OPS, (_cutdiff, _rotate, _mean_distance_loss), strict=True))
LIBRARY = torch.library.Library("stssad_fast_reference", "DEF")  # ends its operators when it goes


class Backend(NamedTuple):
    """One implementation of the three ops."""

    name: str
    ops: dict[str, Callable[..., Tensor]]  # differentiable; they take arguments as operators do
    operators: Any  # torch.ops.NAMESPACE
    device: str = "cpu"
    # Kernels promise the same bits for any number of threads, and 1e-6 for float32 pictures of any
    # size and patches of any shape, because they place pixels in float64. The reference adds up as
    # ATen does, and places pixels in float32 (1e-5 on 256 pixels): its row in the narrow dtypes
    # has small pictures alone.
    kernel: bool = True
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


def _reference() -> Backend:
    """The registration of the ops once more, where no kernel can take precedence."""

    def register(name: str, arguments: list[str], *rest: Any) -> Callable[..., Tensor]:
        definition = getattr(reference, name), getattr(reference, f"{name}_backward")
        return differentiable(name, arguments, *definition, *rest, library=LIBRARY)

    return Backend(
        "reference",
        {
            "cutdiff": register("cutdiff", ["image", "shape", "center"], fold_batch),
            "rotate": register("rotate", ["image", "angle"], fold_batch),
            "mean_distance_loss": register(
                "mean_distance_loss", ["train", "augmented", "test"], _batched, _memo
            ),
        },
        torch.ops.stssad_fast_reference,
        kernel=False,
    )


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


BACKENDS = [_reference(), *_native()]
