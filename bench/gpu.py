"""Speed of the ops on a GPU: `make gpu-proof`, or `python -m bench.gpu --out results.json`.

The columns are those of test_ops.py, without the reference, and torchvision where it has the op.
"floor" copies as many bytes as must move: what a pass reads and what it writes, each once, with
no pixel that the result does not depend on (CutDiff's shape: those that the patch reaches; a
rotation: those it reads).

    forward    under no_grad
    backward   forward and backward; to the hyperparameter, for the loss to all three sets
    gradient   the backward alone, over a graph that is kept

A column is timed only if its result and gradients agree with the float64 reference. Calls take
turns on as many copies of the inputs as the L2 cache cannot hold, and events are recorded around
so many calls that the GPU does not wait for the first; where the calls themselves take longer than
the GPU, that is what is measured, and small sizes are captured and replayed as a CUDA graph too
("replay"). Columns are timed in turns, round by round; numbers are medians, in seconds.
"""

import argparse
import gc
import importlib.util
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch._functorch.config

from bench import tables
from bench.test_ops import KORNIA, Case, difference, runner
from stssad_fast.ops import extension, reference
from tests.ops.cases import far_from_kinks

TORCHVISION = ("torchvision",) if importlib.util.find_spec("torchvision") else ()
OURS = ("ours", "eager", "floor")
ALL = ("ours", "eager", "compile", "floor")
ROTATE = (*ALL, *TORCHVISION, *KORNIA)

MAIN, SMALL = (256, 3, 256, 256), (64, 3, 32, 32)
PAPER, MANY = (256, 256, 160, 512), (40_000, 40_000, 20_000, 2048)
PASSES, BOTH = ("forward", "gradient"), ("backward",)
BF16, LAST = torch.bfloat16, torch.channels_last
EACH = {"cutdiff": "shape per picture", "rotate": "angle per picture"}
# The most important first: time may run out.
CASES = [
    (Case("cutdiff", MAIN, columns=ALL), PASSES),
    (Case("rotate", MAIN, columns=ROTATE), PASSES),
    (Case("mean_distance_loss", PAPER, columns=ALL), BOTH),
    (Case("cutdiff", SMALL, columns=ALL), BOTH),
    (Case("rotate", SMALL, columns=ROTATE), BOTH),
    (Case("cutdiff", MAIN, "bfloat16", dtype=BF16, columns=ALL), PASSES),
    (Case("rotate", MAIN, "bfloat16", dtype=BF16, columns=ROTATE), PASSES),
    (Case("mean_distance_loss", MANY, columns=OURS), PASSES),
    *((Case(op, MAIN, EACH[op], each=True, columns=OURS), PASSES) for op in EACH),
    *((Case(op, MAIN, "channels-last", layout=LAST, columns=OURS), PASSES) for op in EACH),
]
REPLAYED = (PAPER, SMALL)
TINY = {MAIN: (3, 3, 17, 18), SMALL: (2, 3, 8, 8), PAPER: (6, 5, 4, 7), MANY: (70, 60, 50, 9)}

BEGIN = "GPU_BENCH_BEGIN"  # when it began, also of one that starts anew on a broken GPU
COPIES = 128  # at most, of the inputs
ROUNDS, SECONDS = 30, 5e-3  # of a column; at least ten calls in a round


def groups():
    """Case, mode and columns of what is timed together."""
    for case, modes in CASES:
        for mode in modes:
            one_number = mode == "forward" and not case.each  # all that torchvision does
            yield case, mode, [c for c in case.columns if c != "torchvision" or one_number]


def as_operators_take(case, arguments):
    """The arguments with one hyperparameter for all pictures as a batch of one."""
    image, hyperparameter, *center = arguments
    return image, hyperparameter.reshape(-1, 3) if center else hyperparameter.reshape(-1), *center


def must_move(case, mode, arguments):
    """Bytes that a pass cannot but read or write; see above."""
    if mode == "backward":
        return sum(must_move(case, one, arguments) for one in PASSES)
    if case.op == "mean_distance_loss":
        return (1 if mode == "forward" else 2) * sum(value.nbytes for value in arguments)
    image, *rest = as_operators_take(case, arguments)
    height, width = image.shape[-2:]
    if case.op == "cutdiff":
        reached = reference._patch(*rest, height, width)[0] > 0
        passes = 2 if mode == "forward" else 2 * reached.double().mean().item()
    else:
        y, x = reference._sampling(rest[0].double(), height, width)[:2]
        read = (y > -1) & (y < height) & (x > -1) & (x < width)
        share = read.double().mean().item()
        passes = 1 + share if mode == "forward" else 2 * share
    return int(passes * image.nbytes)


def copies_of(case, device):
    """Arguments and incoming gradient, in as many places as the cache cannot hold."""
    arguments, grad = case.arguments(device)
    if case.op != "mean_distance_loss":
        grad.mul_(far_from_kinks(case.op, as_operators_take(case, arguments)))
    size = sum(value.nbytes for value in arguments) + grad.nbytes
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else 0
    count = min(max(2, math.ceil(8 * cache / size)), COPIES)
    return [([v.clone() for v in arguments], grad.clone()) for _ in range(count)]


def calls(case, mode, column, sets):
    """A call without arguments for each of the copies."""
    function = case.function(column)
    if column == "torchvision":
        sets = [([image, angle.item()], grad) for (image, angle), grad in sets]
    if mode != "gradient":
        return [runner(case, mode, function, *one) for one in sets]

    def gradient(arguments, grad):
        leaves = [v.detach().requires_grad_(i in case.wanted) for i, v in enumerate(arguments)]
        wanted = [leaves[index] for index in case.wanted]
        result = function(*leaves)
        return lambda: (result, *torch.autograd.grad(result, wanted, grad, retain_graph=True))

    return [gradient(*one) for one in sets]


def floor(size, count, device):
    """Copies of ``size`` bytes, each from and to another place."""
    random = torch.Generator(device).manual_seed(0)
    pairs = []
    for _ in range(count):
        source = torch.randint(256, (size,), generator=random, device=device, dtype=torch.uint8)
        pairs.append((source, torch.empty_like(source)))
    return [lambda pair=pair: pair[1].copy_(pair[0]) for pair in pairs]


def clock(runs, count, device):
    """Seconds of a call, over ``count`` of them."""
    order = itertools.islice(itertools.cycle(runs), count)
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for run in order:
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / count
    start = time.perf_counter()
    for run in order:
        run()
    return (time.perf_counter() - start) / count


def graph_of(runs):
    """A function that replays a CUDA graph of one call on each of the copies."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for run in runs[:3]:
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    return graph.replay


def timed(runs, rounds, device):
    """Seconds of a call for each column, once a round."""
    once = {
        column: clock(each, 10, device) for column, each in runs.items()
    }  # the caches are warm then
    once = {column: clock(each, 10, device) for column, each in runs.items()}
    counts = {column: max(10, math.ceil(SECONDS / seconds)) for column, seconds in once.items()}
    found = {column: [] for column in runs}
    for _ in range(rounds):
        for column, each in runs.items():
            found[column].append(clock(each, counts[column], device))
    return found


def statistics_of(seconds):
    low, median, high = statistics.quantiles(seconds, n=4)
    numbers = {"median": median, "iqr": high - low, "min": min(seconds)}
    return {key: float(f"{value:.4g}") for key, value in numbers.items()}


def told(error):
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def checked(case, mode, columns, sets):
    """The calls of each column, or what is wrong with it."""
    arguments, grad = sets[0]
    wide = [value.double() for value in arguments]
    both = "forward" if mode == "forward" else "backward"
    expected = runner(case, both, case.function("reference"), wide, grad.double())()
    runs, problems = {}, {}
    for column in columns:
        if column == "floor":
            continue
        try:
            runs[column] = calls(case, mode, column, sets)
            if problem := difference(case, runs[column][0](), expected):
                problems[column] = problem
        except Exception as error:
            problems[column] = told(error)
        if column in problems:
            runs.pop(column, None)
    return runs, problems


def measure(case, mode, columns, rounds, device):
    """Check and time the columns of a group; ``rounds`` of 0 check only."""
    torch._dynamo.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    sets = copies_of(case, device)
    with torch.set_grad_enabled(mode != "forward"):
        runs, problems = checked(case, mode, columns, sets)
        results = {column: {"problem": problem} for column, problem in problems.items()}
        if not rounds:
            return results | {column: {} for column in runs}
        moved = must_move(case, mode, sets[0][0])
        if "floor" in columns:
            runs["floor"] = floor(moved // 2, len(sets), device)
        gc.collect()
        gc.disable()
        try:
            for column, seconds in timed(runs, rounds, device).items():
                results[column] = {**statistics_of(seconds), "rounds": rounds}
                if column == "floor":
                    results[column]["bytes"] = moved
            if device == "cuda" and case.size in REPLAYED:
                for column, each in runs.items():
                    try:
                        replay = graph_of(each)
                        seconds = timed({column: [replay]}, rounds, device)[column]
                        results[column]["replay"] = statistics_of([s / len(each) for s in seconds])[
                            "median"
                        ]
                    except Exception as error:
                        results[column]["replay_problem"] = told(error)
        finally:
            gc.enable()
    return results


def smi(*fields):
    """What nvidia-smi says of the first GPU; None where it says nothing."""
    command = ["nvidia-smi", "-i", "0", "--format=csv,noheader", f"--query-gpu={','.join(fields)}"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return text.strip() or None


def machine(device):
    """Of what the numbers are; no names of hosts, users or folders."""
    triton = importlib.util.find_spec("triton") and importlib.import_module("triton").__version__
    found = {
        "gpu": None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton,
        "python": platform.python_version(),
        "native": extension.build_info(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "l2": properties.L2_cache_size,
            "memory": properties.total_memory,
            "driver": smi("driver_version"),
            "clocks": smi("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
        }
    return found


def git(*arguments):
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def broken(device):
    """Whether the GPU takes no more work from this process: after an invalid access, say, or where
    the allocator still waits for a capture that failed."""
    try:
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
    except RuntimeError:
        return True
    return False


def copy_rate(device):
    """Bytes a second that a copy of a large buffer moves, read and written."""
    size = 2**30 if device == "cuda" else 2**20
    return 2 * size / statistics.median(timed({"": floor(size, 2, device)}, 10, device)[""])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="other sizes, to rehearse")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="0: check only")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no group after")
    parser.add_argument("--resume", action="store_true", help="go on where --out ends")
    parser.add_argument("--once", action="store_true", help="call ours, for a profiler")
    arguments = parser.parse_args()
    device, start = arguments.device, float(os.environ.setdefault(BEGIN, str(time.time())))
    torch._functorch.config.donated_buffer = False  # "gradient" keeps the graph
    if arguments.once:
        return once(device, arguments.tiny)
    if arguments.resume:
        data = json.loads(arguments.out.read_text())
    else:
        rate = copy_rate(device) if arguments.rounds else None  # first: then the clocks are up
        data = {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": os.environ.get("COMMIT") or git("describe", "--always", "--dirty") or None,
            "machine": machine(device),
            "copy_bytes_per_second": rate,
            "skipped": [],
            "results": [],
        }
    before = tables.grouped(data)
    for nominal, mode, columns in groups():
        name = f"{nominal.name}-{mode}"
        if (nominal.op, tables.place(vars(nominal)), mode) in before:
            continue
        if time.time() - start > arguments.seconds:
            data["skipped"].append(name)
            continue
        case = tiny(nominal) if arguments.tiny else nominal
        begin = time.monotonic()
        try:
            results = measure(case, mode, columns, arguments.rounds, device)
        except Exception as error:  # the other groups may fare better
            results = {"ours": {"problem": told(error)}}
        for column, result in results.items():
            entry = {"op": nominal.op, "size": nominal.size, "mode": mode, "column": column}
            note = {"note": nominal.note} if nominal.note else {}
            data["results"].append({**entry, **note, **result})
            if problem := result.get("problem"):
                print(f"{name} {column}: {problem}", flush=True)
        ours = results.get("ours", {}).get("median", math.nan)
        print(f"{name}: {ours:.3g} s; took {time.monotonic() - begin:.1f} s", flush=True)
        tables.save(data, arguments.out)
        if broken(device):
            rest = [a for a in sys.argv[1:] if a != "--resume"]
            os.execv(sys.executable, [sys.executable, "-um", "bench.gpu", *rest, "--resume"])
    tables.save(data, arguments.out)
    failed = any(r["column"] == "ours" and "problem" in r for r in data["results"])
    return bool(failed or data["skipped"])


def tiny(case):
    return Case(**{**vars(case), "size": TINY[case.size]})


def once(device, small):
    """Call every kernel of ours at the first three cases."""
    for case, _ in CASES[:3]:
        case = tiny(case) if small else case
        run = calls(case, "backward", "ours", [case.arguments(device)])[0]
        run()
        if case.op != "mean_distance_loss":  # and the image's gradient
            leaves = [value.requires_grad_() for value in case.arguments(device)[0]]
            case.function("ours")(*leaves).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
    return 0


if __name__ == "__main__":
    sys.exit(main())
