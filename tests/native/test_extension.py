"""The compiled extension: it loads or tells why it does not, and it registers its kernels."""

import importlib
import os
import subprocess
import sys

import pytest
import torch

import stssad_fast.ops  # noqa: F401  declares the operators that the extension implements
from stssad_fast.ops import extension

REQUIRED = os.environ.get("STSSAD_FAST_REQUIRE_NATIVE") == "1"

needs_native = pytest.mark.skipif(
    not extension.load() and not REQUIRED, reason=f"native extension {extension.why_not()}"
)


@needs_native
def test_is_loaded():
    assert extension.load(), extension.why_not()
    assert extension.why_not() is None


@needs_native
@pytest.mark.parametrize("suffix", ["", "_backward"])
@pytest.mark.parametrize("op", ["cutdiff", "rotate", "mean_distance_loss"])
def test_every_operator_has_a_kernel(op, suffix):
    """Without it the reference would answer, and every test of values would pass."""
    name = f"stssad_fast::{op}{suffix}"
    assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")


@needs_native
def test_simd_levels():
    module = importlib.import_module("stssad_fast._C")
    levels, before = module.simd_levels(), module.simd_level()
    assert levels[0] == "portable"
    assert before in levels
    try:
        for level in levels:
            module.set_simd_level(level)
            assert module.simd_level() == level
        with pytest.raises(
            ValueError, match="SIMD level 'sse9' is not one of this machine's: port"
        ):
            module.set_simd_level("sse9")
        assert module.simd_level() == levels[-1]
    finally:
        module.set_simd_level(before)


@needs_native
def test_build_info():
    info = extension.build_info()
    assert info is not None
    assert set(info) == {"torch", "target", "compiler", "flags"}
    assert info["target"] == "2.10"
    assert info["torch"] in extension.status()


def run_python(code: str, **variables: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


QUESTION = "from stssad_fast.ops import extension as e; print(e.load(), e.build_info(), e.status())"


@needs_native
@pytest.mark.parametrize("wish", ["portable", "", "sse9"])
def test_the_simd_level_is_a_wish(wish):
    """One that cannot be had is told, and costs no call."""
    code = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch, stssad_fast.ops as ops, stssad_fast._C as c
ops.rotate(torch.rand(4, 3, 128, 128), 30.0)
print(c.simd_level(), sum("STSSAD_FAST_SIMD" in str(w.message) for w in caught), *c.simd_levels())
"""
    level, told, *levels = run_python(code, STSSAD_FAST_SIMD=wish).split()
    assert level == (wish if wish in levels else levels[-1])
    assert int(told) == (wish == "sse9")


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
