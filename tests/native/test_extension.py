"""The compiled extension: it loads or tells why it does not, and it computes CutDiff."""

import itertools
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import stssad_fast.ops  # noqa: F401  declares the operators that the extension implements
from stssad_fast.ops import extension

REQUIRED = os.environ.get("STSSAD_FAST_REQUIRE_NATIVE") == "1"

needs_native = pytest.mark.skipif(
    not extension.load() and not REQUIRED, reason=f"native extension {extension.why_not()}"
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPE = [0.21, -0.13, 0.09]
CENTER = [0.4, 0.7]


def formula(image: Tensor, shape: Tensor, center: Tensor) -> Tensor:
    """CutDiff as it is written down, in float64 and without care for its edges."""
    x, (l11, l21, l22), (m1, m2) = image.double(), shape.double().T, center.double().T
    rows, columns = (torch.arange(1, n + 1, dtype=torch.float64) / n for n in x.shape[-2:])
    w1 = (rows[:, None] - m1[:, None, None]) / l11[:, None, None]
    w2 = (columns - m2[:, None, None] - l21[:, None, None] * w1) / l22[:, None, None]
    return (x - torch.exp(-(w1**2) - w2**2)[:, None]).clamp(0, 1)


def native(image: Tensor, shape: Tensor, center: Tensor) -> Tensor:
    return torch.ops.stssad_fast.cutdiff(image, shape, center)


def arguments(size, dtype=torch.float32, rows=(1, 1), seed=0):
    generator = torch.Generator().manual_seed(seed)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    image = torch.rand(size, generator=generator, dtype=torch.float64).to(dtype)
    shape = torch.tensor(SHAPE, dtype=arithmetic) * torch.linspace(1, 2, rows[0])[:, None]
    center = torch.tensor(CENTER, dtype=arithmetic) * torch.linspace(1, 0.5, rows[1])[:, None]
    return image, shape.to(arithmetic), center.to(arithmetic)


@needs_native
def test_is_loaded_and_registered():
    assert extension.load(), extension.why_not()
    assert extension.why_not() is None
    assert torch._C._dispatch_has_kernel_for_dispatch_key("stssad_fast::cutdiff", "CPU")


@needs_native
def test_build_info():
    info = extension.build_info()
    assert info is not None
    assert set(info) == {"torch", "target", "compiler", "flags"}
    assert info["target"] == "2.10"
    assert info["torch"] in extension.status()


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "size", [(3, 2, 5, 7), (1, 1, 1, 1), (2, 3, 33, 17), (4, 1, 64, 64)], ids=str
)
def test_equals_the_formula(size, dtype, assert_close):
    for rows in itertools.product((1, size[0]), repeat=2):
        args = arguments(size, dtype, rows)
        out = native(*args)
        assert out.dtype == dtype
        assert_close(out, formula(*args))


@needs_native
@pytest.mark.parametrize("size", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)], ids=str)
def test_empty(size):
    assert native(*arguments(size)).shape == size


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_singular_shape_has_no_patch(dtype):
    image = arguments((1, 1, 8, 8), dtype)[0]
    center = torch.tensor([[0.5, 0.5]], dtype=dtype)  # on pixel (3, 3): d = 0 there, whatever L
    edge = torch.tensor(torch.finfo(dtype).tiny, dtype=torch.float64) ** 0.25
    for value in (0.0, edge, -edge, float("nan")):
        for position in (0, 2):
            shape = torch.tensor([SHAPE], dtype=dtype)
            shape[0, position] = value
            assert torch.equal(native(image, shape, center), image)
    shape = torch.tensor([[1.1 * edge, 0.0, 1.1 * edge]], dtype=dtype)
    assert native(image, shape, center)[0, 0, 3, 3] == 0  # just regular: one pixel is cut


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_shapes_never_give_nan(dtype):
    image, _, center = arguments((1, 1, 6, 6), dtype)
    large = torch.finfo(dtype).max / 4
    values = (0.0, 1e-9, -1e-3, 1.0, 1e9, large, -large)
    for shape in itertools.product(values, repeat=3):
        out = native(image, torch.tensor([shape], dtype=dtype), center)
        assert torch.isfinite(out).all(), shape


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_patch_below_the_smallest_normal_number(dtype):
    tiny = torch.finfo(dtype).tiny
    image = torch.full((1, 1, 1, 1), 4 * tiny, dtype=dtype)
    shape = torch.eye(1, 3, dtype=dtype)
    shape[0, 2] = 1  # L = identity, and the only pixel lies at (1, 1)
    for excess, expected in [(-0.1, 4 - math.exp(0.1)), (0.1, 4.0)]:
        distance = math.sqrt(-math.log(tiny) + excess)
        for center in ([1 + distance, 1.0], [1.0, 1 - distance]):
            out = native(image, shape, torch.tensor([center], dtype=dtype)).item() / tiny
            assert out == pytest.approx(expected, rel=1e-3)


@needs_native
def test_the_number_of_threads_changes_no_bit():
    args = arguments((8, 3, 96, 96), rows=(8, 8))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = native(*args)
        torch.set_num_threads(4)
        together = native(*args)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, together)
    assert torch.equal(alone, native(*args))


def run_python(code: str, **variables: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


QUESTION = "from stssad_fast.ops import extension as e; print(e.load(), e.build_info(), e.status())"


def test_can_be_switched_off():
    answer = run_python(QUESTION, STSSAD_FAST_NATIVE="0")
    assert answer == "False None switched off by STSSAD_FAST_NATIVE=0"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("None", "not built; "),
        (
            "importlib.machinery.ModuleSpec('_C', None)",
            "built, but it did not load (ImportError: x y)",
        ),
    ],
)
def test_tells_why_it_is_absent(spec, words):
    # Everything else stays importable: a missing or broken extension is no error.
    code = f"""
import importlib, importlib.machinery, importlib.util
find, load = importlib.util.find_spec, importlib.import_module
def broken(name, *rest):
    if name == "stssad_fast._C":
        raise ImportError("x\\ny")
    return load(name, *rest)
def found(name, *rest):
    return {spec} if name == "stssad_fast._C" else find(name, *rest)
importlib.util.find_spec = found
importlib.import_module = broken
{QUESTION}
"""
    assert run_python(code, STSSAD_FAST_NATIVE="1").startswith(f"False None {words}")
