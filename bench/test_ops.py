"""Speed of the ops on the CPU: `make bench`, or `python -m pytest bench/test_ops.py -k cutdiff`.

One group per op, size and pass; its columns are

    ours       the public function
    reference  stssad_fast.ops.reference, differentiated by autograd
    eager      the fastest plain PyTorch formulation we found (baselines.py)
    compile    torch.compile of the formulation that is fastest compiled; compiling is not timed
    checkpoint the same with the help of torch.utils.checkpoint, where that helps
    kornia     where it has the op
    floor      a copy of the bytes that must move, each counted once: `clone()` of the picture for
               a forward (picture in, result out); half as much again with backward (incoming
               gradient in); of half the embeddings, or all, for the loss, whose result is a number

"forward" runs under no_grad. "backward" is forward and backward, given a random gradient, to the
hyperparameters alone (CutDiff's shape; the angle), where a case says so to the picture alone, for
the loss to all three sets.

A column is timed only if its result and gradients agree with the float64 reference, for the loss
also where all embeddings lie about 1e4 away from 0 (to 1e-4). The columns of
a group are timed in turns, round by round, so that whatever slows the machine down slows all of
them; pytest-benchmark then replays these times. Memory comes from the C library's allocator as it
is, as for its users: whoever makes many large temporaries often gets fresh pages for them, a
microsecond or two each on a virtual machine. Options: --threads, --benchmark-min-rounds,
--benchmark-max-time (seconds per column).
"""

import ctypes
import gc
import math
import re
import statistics
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import stssad_fast
from bench import baselines

# Largest error of a result, absolute (the pictures lie in [0, 1]), and of a gradient, in units of
# its largest entry. A rotation reads at coordinates up to 256, whose rounding shows in the result.
RESULT = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-8}
# The loss is a quotient of sums over many rows.
RESULT_OF = {
    "rotate": {torch.float64: 1e-12, torch.float32: 5e-5, torch.bfloat16: 2**-8},
    "mean_distance_loss": {torch.float32: 1e-5},
}
GRADIENT = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-4}

COLUMNS = ("ours", "reference", "eager", "compile", "floor")
KORNIA = ("kornia",) if find_spec("kornia") else ()


@dataclass(frozen=True)
class Case:
    op: str
    size: tuple[int, ...]  # of the picture, or rows, rows, rows and dimensions
    note: str = ""
    each: bool = False  # hyperparameters per picture
    picture: bool = False  # the gradient of the picture instead of theirs
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.contiguous_format
    columns: tuple[str, ...] = COLUMNS

    @property
    def name(self):
        size = "x".join(map(str, self.size))
        return "-".join([self.op, size, *self.note.split()])

    @property
    def wanted(self):
        """Which arguments receive a gradient."""
        if self.op == "mean_distance_loss":
            return (0, 1, 2)
        return (0,) if self.picture else (1,)

    def arguments(self, device="cpu"):
        """The arguments, and the gradient that comes in."""
        on = {"generator": torch.Generator(device).manual_seed(0), "device": device}
        if self.op == "mean_distance_loss":
            *rows, dimensions = self.size
            sets = [torch.randn(n, dimensions, **on).relu() for n in rows]
            return sets, torch.tensor(1.5, device=device)
        batch = self.size[0]
        image = torch.rand(self.size, **on) * 0.998 + 0.001
        grad = torch.randn(self.size, **on)
        image, grad = (v.to(self.dtype, memory_format=self.layout) for v in (image, grad))
        wide = torch.promote_types(self.dtype, torch.float32)
        if self.op == "rotate":
            angle = torch.rand(batch, **on) * 360
            # 17 degrees: no source coordinate is so close to a whole pixel, where the gradient
            # jumps, that rounding decides on which side it lies.
            return [image, (angle if self.each else angle.new_tensor(17.0)).to(wide)], grad
        center = torch.rand(batch, 2, **on).to(wide)
        spread = torch.rand(batch, **on) + 0.5 if self.each else center.new_ones(())
        shape = stssad_fast.patch_shape(0.01 * spread, 1.5 * spread, 30.0 * spread).to(wide)
        return [image, shape, center], grad

    def function(self, column):
        if column == "ours":
            return getattr(stssad_fast, self.op)
        if column == "checkpoint":
            return torch.compile(baselines.cutdiff_checkpoint, dynamic=False)
        if column != "compile":
            return getattr(baselines, f"{self.op}_{column}")
        eager = getattr(baselines, f"{self.op}_eager")
        fusible = getattr(baselines, f"{self.op}_fusible", eager)
        return torch.compile(fusible, dynamic=False)


MAIN = (32, 3, 256, 256)
CASES = [
    Case("cutdiff", MAIN, columns=(*COLUMNS, "checkpoint")),
    Case("cutdiff", MAIN, "shape per picture", each=True, columns=(*COLUMNS, "checkpoint")),
    Case("cutdiff", MAIN, "channels-last", layout=torch.channels_last, columns=("ours", "eager")),
    Case("cutdiff", MAIN, "float64", dtype=torch.float64, columns=("ours", "eager")),
    Case("cutdiff", MAIN, "bfloat16", dtype=torch.bfloat16, columns=("ours", "eager")),
    Case("cutdiff", (1, 1, 8, 8)),
    *(
        Case("cutdiff", (8, 3, side, side), "sweep", columns=("ours", "eager", "floor"))
        for side in (32, 64, 128, 256, 512, 1024)
    ),
    Case("rotate", MAIN, columns=(*COLUMNS, *KORNIA)),
    Case("rotate", MAIN, "channels-last", layout=torch.channels_last, columns=("ours", "eager")),
    Case("rotate", (256, 3, 32, 32), "angle per picture", each=True, columns=(*COLUMNS, *KORNIA)),
    *(
        Case("rotate", size, note, each=each, picture=True, columns=("ours", "eager"))
        for size, note, each in (
            (MAIN, "to the picture", False),
            ((256, 3, 32, 32), "angle per picture, to the picture", True),
        )
    ),
    Case("mean_distance_loss", (256, 256, 160, 512)),
]


@dataclass
class Result:
    problem: str = ""
    seconds: list[float] = field(default_factory=list)
    memory: int = 0


def measure(case, mode, columns, rounds, budget):
    """Check, warm up and time the columns of a group in turns."""
    torch._dynamo.reset()
    arguments, grad = case.arguments()
    results = {column: Result() for column in columns}
    runs = {
        c: runner(case, mode, case.function(c), arguments, grad) for c in columns if c != "floor"
    }
    wide = [value.double() for value in arguments]
    with torch.set_grad_enabled(mode == "backward"):
        expected = runner(case, mode, case.function("reference"), wide, grad.double())()
        for column in list(runs):
            try:
                results[column].problem = difference(case, runs[column](), expected)
            except Exception as error:
                results[column].problem = f"{type(error).__name__}: {error}"
            if results[column].problem:
                del runs[column]
        del wide, expected
        if case.op == "mean_distance_loss" and mode == "forward":
            far = [value + 1e4 for value in arguments]
            right = case.function("reference")(*(value.double() for value in far))
            for column in list(runs):
                error = abs(case.function(column)(*far) - right).item()
                if not error <= 1e-4:
                    results[column].problem = f"at a mean of 1e4 it is off by {error:.1e}"
                    del runs[column]
        if "floor" in columns:
            runs["floor"] = floor(case, mode, arguments)
        if mode == "forward":
            for column, run in runs.items():
                results[column].memory = extra_memory(run)
        once = {c: statistics.median(clock(run) for _ in range(5)) for c, run in runs.items()}
        repeats = {c: math.ceil(1e-3 / seconds) for c, seconds in once.items()}
        turn = sum(once[c] * repeats[c] for c in runs)
        gc.collect()
        gc.disable()
        try:
            for _ in range(max(rounds, min(int(budget * len(runs) / turn), 200))):
                for column, run in runs.items():
                    results[column].seconds.append(clock(run, repeats[column]))
        finally:
            gc.enable()
    return results


def runner(case, mode, function, arguments, grad):
    """A call without arguments: what is timed, and what is checked."""
    if mode == "forward":
        return lambda: (function(*arguments),)
    leaves = [
        value.detach().requires_grad_(index in case.wanted) for index, value in enumerate(arguments)
    ]
    wanted = [leaves[index] for index in case.wanted]

    def run():
        result = function(*leaves)
        return result, *torch.autograd.grad(result, wanted, grad)

    return run


def floor(case, mode, arguments):
    """Copy as many bytes as must move; a copy moves each of its bytes twice."""
    if case.op == "mean_distance_loss":
        moved = {"forward": 1, "backward": 2}[mode] * sum(value.nbytes for value in arguments)
        return torch.ones(moved // 2, dtype=torch.uint8).clone
    image = arguments[0]
    if mode == "forward":
        return image.clone
    half = image.flatten()[: image.numel() // 2]
    room = torch.empty_like(half)  # only the result has memory of its own, as the op's has

    def run():
        room.copy_(half)
        return image.clone()

    return run


def difference(case, found, expected):
    """What is wrong with a result and gradients; empty if nothing is."""
    for index, (value, right) in enumerate(zip(found, expected, strict=True)):
        if index == 0:
            limit = RESULT_OF.get(case.op, RESULT)[case.dtype]
        else:
            limit = GRADIENT[case.dtype] * right.abs().max().item()
        error = (value.double() - right).abs().max().item()
        if not error <= limit:
            what = f"gradient {index}" if index else "result"
            return f"{what} is off by {error:.1e}, more than {limit:.1e}"
    return ""


def extra_memory(run):
    """Largest number of bytes a call holds beyond what was there before, its result included.

    The larger of two accounts: what PyTorch's allocator hands out (exact, but blind to other
    allocations), and how far the resident set rises (Linux; all there is, give or take 0.5 MB).
    """
    return max(allocated(run), resident_rise(run))


def allocated(run):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = run()
    del result
    held = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def resident_rise(run):
    status = Path("/proc/self/status")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or a temporary hides in pages that were never given back
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes the present size
        before = re.search(r"VmRSS:\s*(\d+)", status.read_text())[1]
        run()
        after = re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]
    except (OSError, AttributeError, TypeError):
        return 0
    return (int(after) - int(before)) * 1024


def clock(run, repeats=1):
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


class Replay:
    """A clock that shows durations measured before."""

    now = 0.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


replay = Replay()
last = {}


@pytest.mark.filterwarnings("default", "ignore:Dynamo detected a call to a .functools.lru_cache")
@pytest.mark.benchmark(timer=replay)
@pytest.mark.parametrize(
    ("case", "mode", "column"),
    [
        pytest.param(case, mode, column, id=f"{case.name}-{mode}-{column}")
        for case in CASES
        for mode in (("backward",) if case.picture else ("forward", "backward"))
        for column in case.columns
    ],
)
def test_speed(case, mode, column, benchmark, request):
    if (case, mode) not in last:
        last.clear()
        parameters = [item.callspec.params for item in request.session.items]
        last[case, mode] = measure(
            case,
            mode,
            [p["column"] for p in parameters if (p["case"], p["mode"]) == (case, mode)],
            request.config.getoption("benchmark_min_rounds"),
            float(request.config.getoption("benchmark_max_time")),
        )
    result = last[case, mode][column]
    assert not result.problem, result.problem
    seconds = iter(result.seconds)
    benchmark.group = f"{case.name}-{mode}"
    benchmark.extra_info.update(
        op=case.op, size=case.size, note=case.note, mode=mode, column=column, memory=result.memory
    )
    benchmark.pedantic(
        replay.advance, setup=lambda: ((next(seconds),), {}), rounds=len(result.seconds)
    )
