"""The exact second-order step beside what else computes it: `make bench-step`.

    python -m bench.step                         # all cases: results/step-cpu.json and the tables
    python -m bench.step --only "width 16"       # some of the cases; prints, writes nothing
    python -m bench.step --profile               # where time and memory of one step go
    python -m bench.step --tables                # the tables again, from the committed results
    python -m bench.step --device cuda           # also 256 px, TF32, 32 px with the CUDA graph

One step: `theta'(a) = theta - lr grad L_trn(theta, a)`, then the gradient of `L_val(theta'(a), a)`
for the augmentation's hyperparameters `a`. The columns:

    ours         bilevel_step with the losses, the detector and the options of the Tuner
    recompute    the same with `recompute=True`
    bfloat16     the same with `precision="bfloat16"`; not exact
    graph        a whole iteration of the Tuner as a CUDA graph (GPU only)
    plain        eager PyTorch: functional_call, autograd.grad with create_graph, one more
                 autograd.grad; torch.nn alone, and the fastest plain augmentations of baselines.py
    higher       its differentiable SGD on the same plain network
    torchopt     likewise
    first order  ours without the second term; not exact
    difference   the second term by a central difference along v, as in DARTS; not exact

All networks have the same weights, after a few steps of training, all steps the same pictures and
patches. An exact column is timed only if, in float64 and on four pictures, its gradient agrees
with the plain one to 1e-9 of the gradient's norm. The error in the table is that of the timed
float32 step against the plain one in float64: where rounding turns a ReLU on or off, the gradient
jumps, for every formulation alike. Columns are timed in turns.
"""

# ruff: noqa: RUF001

import argparse
import datetime
import gc
import importlib.metadata
import importlib.util
import json
import math
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from bench import baselines
from bench.conftest import processor
from bench.tables import ROOT, duration, insert, markdown, save, verdict
from bench.test_ops import allocated, resident_rise
from stssad_fast import CutDiff, Rotation, cutdiff, patch_shape
from stssad_fast.detectors import ResNetDetector
from stssad_fast.ops import extension
from stssad_fast.tuning.hypergradient import bilevel_step
from stssad_fast.tuning.tuner import EAGER_STEPS, Tuner, TunerConfig

EXACT = ("ours", "recompute", "plain", "higher", "torchopt")
OTHERS = ("first order", "difference", "bfloat16")
RESIDENT = ("ours", "recompute", "plain")
PEERS = ("plain", "higher", "torchopt")
TOLERANCE = 1e-9
LEARNING_RATE = 0.02
MARKER = "<!-- step -->\n"
PAGE = ROOT / "docs/performance.md"


@dataclass(frozen=True)
class Case:
    augmentation: str
    width: int
    side: int = 64
    batch: int = 32
    gpu: bool = False
    tf32: bool = False
    columns: tuple[str, ...] = (*EXACT, *OTHERS)

    @property
    def name(self):
        batch = f"batch {self.batch}" + (", TF32" if self.tf32 else "")
        return f"{self.augmentation}, width {self.width}, {self.side} px, {batch}"


MAIN = Case("cutdiff", 64)
CASES = [
    MAIN,
    Case("rotation", 64, columns=("ours", "plain", "first order")),
    Case("cutdiff", 16),
    Case("rotation", 16),
    Case("cutdiff", 64, 256, gpu=True),
    Case("cutdiff", 64, 256, gpu=True, tf32=True),
    Case("rotation", 64, 32, 256, gpu=True, columns=(*EXACT, "graph", *OTHERS)),
]


class PlainBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class PlainNetwork(nn.Module):
    """What ResNetDetector computes, of torch.nn alone; takes its state dict."""

    def __init__(self, channels, width, side):
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        kernel, stride, pad = (7, 2, 3) if side > 64 else (3, 1 if side <= 32 else 2, 1)
        stem = [nn.Conv2d(channels, width, kernel, stride, pad, bias=False), nn.BatchNorm2d(width)]
        pool = [nn.MaxPool2d(3, 2, 1)] if side > 64 else []
        self.stem = nn.Sequential(*stem, nn.ReLU(), *pool)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        blocks = [
            block
            for stage in range(4)
            for block in (
                PlainBlock(sizes[stage], sizes[stage + 1], 2 if stage else 1),
                PlainBlock(sizes[stage + 1], sizes[stage + 1], 1),
            )
        ]
        self.blocks = nn.Sequential(*blocks)
        last = sizes[-1]
        self.head = nn.Sequential(nn.Linear(last, last), nn.ReLU(), nn.Linear(last, 1))

    def forward(self, image):
        x = (image - self.mean[:, None, None]) / self.std[:, None, None]
        z = F.normalize(self.blocks(self.stem(x)).mean((2, 3)), dim=1)
        return z, self.head(z)[:, 0]


class Fixed(CutDiff):
    """CutDiff whose centres are those of a list, in turns."""

    centers = None

    def forward(self, image, *, generator=None):
        if self.centers is None:
            return super().forward(image, generator=generator)
        self.centers.append(self.centers.pop(0))
        return cutdiff(image, self.shape, self.centers[-1])


class Problem:
    """One step of one case, in as many ways as there are columns."""

    def __init__(self, case, device, dtype=torch.float32):
        self.case, self.device, self.dtype = case, device, dtype
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case.tf32
        torch.manual_seed(0)
        # Blurred noise: neighbouring pixels resemble each other, as in pictures.
        coarse = torch.rand(2 * case.batch, 3, case.side // 4, case.side // 4)
        pictures = F.interpolate(coarse, scale_factor=4, mode="bilinear") * 0.998 + 0.001
        self.images, self.test = pictures.chunk(2)
        make = {"cutdiff": partial(Fixed, 0.05, 1.5), "rotation": Rotation}[case.augmentation]
        self.augmentation = make(angle=20.0)
        self.detector = ResNetDetector(3, case.width, case.side)
        tuner = self.make_tuner()
        for _ in range(3):
            tuner.step()
        self.network = PlainNetwork(3, case.width, case.side).train()
        self.network.load_state_dict(self.detector.state_dict())
        self.centers = [torch.rand(case.batch, 2).to(device, dtype) for _ in range(2)]
        self.augmentation.centers = list(self.centers)
        self.images, self.test = self.images.to(device, dtype), self.test.to(device, dtype)
        for module in (self.augmentation, self.detector, self.network):
            module.to(device, dtype)
        self.theta = {k: v.detach().clone() for k, v in self.detector.named_parameters()}
        self.a = {k: v.detach().clone() for k, v in self.augmentation.named_parameters()}
        self.tuner = cache(self.make_tuner)
        for options in ({}, {"recompute": True}, {"precision": "bfloat16"}):
            self.tuner(**options)  # now, for what a tuner holds is not the step's memory

    def make_tuner(self, **options):
        config = TunerConfig(batch_size=self.case.batch, learning_rate=LEARNING_RATE, **options)
        random = torch.Generator(self.images.device).manual_seed(0)
        return Tuner(self.detector, self.augmentation, self.images, self.test, config, random)

    def run(self, column):
        """The hypergradient, one row of numbers."""
        gradient = getattr(self, column.replace(" ", "_"))()
        return torch.cat([part.reshape(-1) for part in gradient])

    # ------------------------------------------------------------------------------- ours

    def ours(self, first_order=False, **options):
        tuner = self.tuner(**options)
        step = bilevel_step(
            tuner._train_loss(self.images),
            tuner._validation_loss(self.images, self.test),
            dict(self.detector.named_parameters()),
            dict(self.augmentation.named_parameters()),
            learning_rate=LEARNING_RATE,
            first_order=first_order,
            recompute=tuner.config.recompute,
        )
        return step.gradient.values()

    def recompute(self):
        return self.ours(recompute=True)

    def bfloat16(self):
        return self.ours(precision="bfloat16")

    def graph(self):
        """An iteration of the Tuner, captured: what is timed is a replay."""
        tuner = self.make_tuner(graph=True, warm_up=0, iterations=10**4)
        for _ in range(EAGER_STEPS + 1):
            tuner.step()
        return tuner.step

    def first_order(self):
        return self.ours(first_order=True)

    # ------------------------------------------------------------------------------ peers

    def augment(self, a, which):
        if self.case.augmentation == "rotation":
            return baselines.rotate_eager(self.images, torch.rad2deg(a["radians"]))
        log_size, log_aspect, radians = a["raw"].unbind()
        shape = patch_shape(log_size.exp(), log_aspect.exp(), torch.rad2deg(radians))
        return baselines.cutdiff_eager(self.images, shape, self.centers[which])

    def train_loss(self, network, a):
        logit = network(torch.cat([self.images, self.augment(a, 0)]))[1]
        truth = torch.zeros_like(logit)
        truth[len(self.images) :] = 1
        return F.binary_cross_entropy_with_logits(logit, truth)

    def validation_loss(self, network, a):
        embedding = network(torch.cat([self.images, self.augment(a, 1), self.test]))[0]
        return baselines.mean_distance_loss_eager(*embedding.chunk(3))

    def leaves(self):
        theta = {k: v.detach().requires_grad_() for k, v in self.theta.items()}
        return theta, {k: v.detach().requires_grad_() for k, v in self.a.items()}

    def at(self, theta):
        buffers = {k: v.clone() for k, v in self.network.named_buffers()}
        return lambda images: functional_call(self.network, (theta, buffers), (images,))

    def plain(self):
        theta, a = self.leaves()
        loss = self.train_loss(self.at(theta), a)
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        stepped = {
            name: value - LEARNING_RATE * gradient
            for (name, value), gradient in zip(theta.items(), gradients, strict=True)
        }
        return torch.autograd.grad(self.validation_loss(self.at(stepped), a), list(a.values()))

    def higher(self):
        import higher

        _, a = self.leaves()
        optimizer = torch.optim.SGD(self.network.parameters(), LEARNING_RATE)
        with higher.innerloop_ctx(self.network, optimizer) as (network, differentiable):
            differentiable.step(self.train_loss(network, a))
            return torch.autograd.grad(self.validation_loss(network, a), list(a.values()))

    def torchopt(self):
        import torchopt

        theta, a = self.leaves()
        optimizer = torchopt.sgd(lr=LEARNING_RATE)
        state = optimizer.init(theta)
        loss = self.train_loss(self.at(theta), a)
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        gradients = dict(zip(theta, gradients, strict=True))
        updates, state = optimizer.update(gradients, state, inplace=False)
        stepped = torchopt.apply_updates(theta, updates, inplace=False)
        return torch.autograd.grad(self.validation_loss(self.at(stepped), a), list(a.values()))

    def difference(self):
        theta, a = self.leaves()
        values, wanted = list(theta.values()), list(a.values())
        gradients = torch.autograd.grad(self.train_loss(self.at(theta), a), values)
        with torch.no_grad():
            moved = [v - LEARNING_RATE * g for v, g in zip(values, gradients, strict=True)]
        stepped = {k: v.requires_grad_() for k, v in zip(theta, moved, strict=True)}
        found = torch.autograd.grad(
            self.validation_loss(self.at(stepped), a), [*wanted, *moved], allow_unused=True
        )
        direct = found[: len(wanted)]
        v = [
            torch.zeros_like(m) if g is None else g
            for m, g in zip(moved, found[len(wanted) :], strict=True)
        ]
        width = 0.01 / torch.cat([part.flatten() for part in v]).norm()
        slopes = []
        for sign in (1, -1):
            shifted = {
                k: t.detach() + sign * width * d for (k, t), d in zip(theta.items(), v, strict=True)
            }
            slopes.append(torch.autograd.grad(self.train_loss(self.at(shifted), a), wanted))
        return [
            d - LEARNING_RATE * (up - down) / (2 * width)
            for d, up, down in zip(direct, *slopes, strict=True)
        ]


def available(column, device):
    if column == "graph":
        return device.type == "cuda"
    return column not in ("higher", "torchopt") or importlib.util.find_spec(column)


def wrong(case, device, columns):
    """What the exact columns do in float64, on a few pictures: column -> relative error."""
    problem = Problem(replace(case, batch=4), device, torch.float64)
    expected = problem.run("plain")
    errors = {}
    for column in columns:
        try:
            errors[column] = relative(problem.run(column), expected)
        except Exception as error:
            print(f"  {column}: {type(error).__name__}: {error}", flush=True)
            errors[column] = math.inf
    return errors


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def measure(case, device, columns, rounds):
    """Check, memory and time of every column of a case: one dict per column."""
    columns = [column for column in columns if available(column, device)]
    errors = wrong(case, device, [c for c in columns if c not in (*OTHERS, "graph")])
    expected = Problem(case, device, torch.float64).run("plain").float()
    problem = Problem(case, device)
    runs, results = {}, {}
    for column in columns:
        if not errors.get(column, 0) <= TOLERANCE:
            print(f"  {column}: off by {errors[column]:.1e} in float64; not timed", flush=True)
            continue
        run = problem.graph() if column == "graph" else partial(problem.run, column)
        found = []
        held, resident = memory(lambda run=run, found=found: found.append(run()), column, device)
        results[column] = {"case": case.name, "column": column, "memory": held}
        results[column]["resident"] = resident
        if column != "graph":
            results[column]["error"] = float(f"{relative(found[0], expected):.2g}")
        runs[column] = run
    times = {column: [] for column in runs}
    gc.collect()
    for _ in range(rounds):
        for column, run in runs.items():
            times[column].append(clock(run, device))
    for column, result in results.items():
        low, median, high = quartiles(times[column])
        result |= {"median": median, "iqr": float(f"{high - low:.3g}"), "rounds": rounds}
        print(
            f"  {column:12} {1e3 * median:8.0f} ms {result['memory'] / 2**20:7.0f} MiB "
            f"error {result.get('error', math.nan):.1e}",
            flush=True,
        )
    return list(results.values())


def quartiles(values):
    found = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return [float(f"{value:.4g}") for value in found]


def clock(run, device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def memory(run, column, device):
    """What a step holds at most beyond what was there: (by the allocator, by the resident set)."""
    if device.type != "cuda":
        return allocated(run), resident_rise(run) if column in RESIDENT else 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before, 0


# ---------------------------------------------------------------------------------- profile

PHASES = ("inner forward", "inner gradient", "outer forward", "outer gradient", "second-order pass")
KINDS = ("convolution, forward", "convolution, backward", "batch norm", "elementwise and other")


def kind(name, above):
    """What an operator belongs to, by its name and those of the operators that call it."""
    names = " ".join([name, *above]).lower()
    if "batch_norm" in names or "batchnorm" in names:
        return "batch norm"
    if "conv" in names:
        return KINDS["backward" in name.lower()]
    return KINDS[3]


def profile_step(case, device):
    """Seconds by kind of operator and phase, and bytes held: (seconds, phase -> peak, at peak)."""
    problem = Problem(case, device)
    problem.run("ours")
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    gradient, forward = torch.autograd.grad, iter(("inner forward", "outer forward"))
    backward = iter(("inner gradient", "outer gradient", "second-order pass"))

    def traced(phases, function):
        def call(*arguments, **options):
            with torch.profiler.record_function(next(phases)):
                result = function(*arguments, **options)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                return result

        return call

    tuner = problem.tuner()
    names = ("_train_loss", "_validation_loss")
    original = [getattr(tuner, name) for name in names]
    for name, make in zip(names, original, strict=True):
        setattr(tuner, name, lambda *images, make=make: traced(forward, make(*images)))
    torch.autograd.grad = traced(backward, gradient)
    try:
        with torch.profiler.profile(activities=activities, profile_memory=True) as record:
            problem.run("ours")
    finally:
        torch.autograd.grad = gradient
        for name, make in zip(names, original, strict=True):
            setattr(tuner, name, make)
    return account(record)


def account(record):
    roots = record.profiler.kineto_results.experimental_event_tree()
    seconds = {phase: dict.fromkeys(KINDS, 0.0) for phase in PHASES}
    changes = []

    def visit(event, phase, above):
        if event.tag.name == "Allocation":
            changes.append((event.start_time_ns, event.extra_fields, phase, above))
            return
        phase = event.name if event.name in PHASES else phase
        inner = sum(c.duration_time_ns for c in event.children if c.tag.name != "Allocation")
        if phase in seconds and event.name not in PHASES:
            seconds[phase][kind(event.name, above)] += max(event.duration_time_ns - inner, 0) / 1e9
        for child in event.children:
            visit(child, phase, [event.name, *above])

    for root in roots:
        visit(root, "", [])
    held, total, peaks, highest, at_peak = {}, 0, dict.fromkeys(PHASES, 0), 0, {}
    for _, fields, phase, above in sorted(changes, key=lambda change: change[0]):
        if fields.alloc_size > 0:
            held[fields.ptr] = fields.alloc_size, phase, kind("", above)
            total += fields.alloc_size
        elif fields.ptr in held:
            total -= held.pop(fields.ptr)[0]
        if phase in peaks:
            peaks[phase] = max(peaks[phase], total)
        if total > highest:
            highest, at_peak = total, dict(held)
    by_phase = {}
    for size, phase, which in at_peak.values():
        by_phase[phase, which] = by_phase.get((phase, which), 0) + size
    return seconds, peaks, by_phase


def profile_table(case, seconds, peaks, at_peak):
    total = sum(sum(parts.values()) for parts in seconds.values())
    rows = [["phase", *KINDS, "together", "most memory held", "of it held at the step's peak"]]
    for phase in PHASES:
        parts = [seconds[phase][k] for k in KINDS]
        mine = sum(size for (p, _), size in at_peak.items() if p == phase)
        rows.append(
            [
                phase,
                *(f"{part / total:.1%}" for part in parts),
                f"{sum(parts) / total:.1%}",
                f"{peaks[phase] / 2**20:.0f} MiB",
                f"{mine / 2**20:.0f} MiB",
            ]
        )
    columns = [sum(seconds[phase][k] for phase in PHASES) for k in KINDS]
    shares = [f"{column / total:.1%}" for column in columns]
    peak = f"{max(peaks.values()) / 2**20:.0f} MiB"
    rows.append(["**all**", *shares, f"{total:.2f} s", peak, ""])
    return f"{case.name}\n\n{markdown(rows)}"


# ----------------------------------------------------------------------------------- tables


def machine(device):
    """Where it was measured; no names of hosts, users or folders."""
    found = {"cpu": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    found |= {"python": platform.python_version(), "native": extension.build_info()}
    for name in ("higher", "torchopt"):
        if importlib.util.find_spec(name):
            found[name] = importlib.metadata.version(name)
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def commit():
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def table(results):
    """One row per column of each case."""
    header = ["step", "column", "time", "/ ours", "memory held", "/ plain", "resident", "error"]
    rows = [header]
    for case in dict.fromkeys(result["case"] for result in results):
        columns = {r["column"]: r for r in results if r["case"] == case}
        for name, result in columns.items():
            time_ratio = result["median"] / columns["ours"]["median"]
            memory_ratio = result["memory"] / columns["plain"]["memory"]
            error = f"{result['error']:.0e}" if "error" in result else ""
            row = [case, name, duration(result["median"]), f"{time_ratio:.2f}×"]
            row += [f"{result['memory'] / 2**20:.0f} MiB", f"{memory_ratio:.2f}×"]
            resident = f"{result['resident'] / 2**20:.0f} MiB" if result["resident"] else ""
            rows.append([*row, resident, error])
    return markdown(rows)


def targets(results):
    """Say of each target whether it was met."""
    columns = {r["column"]: r for r in results if r["case"] == MAIN.name}
    if not {"ours", "recompute", "plain", "first order"} <= columns.keys():
        return f"Targets: not measured ({MAIN.name})."
    peer = min((c for c in PEERS if c in columns), key=lambda c: columns[c]["median"])
    faster = columns[peer]["median"] / columns["ours"]["median"]
    order = columns["ours"]["median"] / columns["first order"]["median"]
    held, recomputed = (
        columns[column]["memory"] / columns["plain"]["memory"] for column in ("ours", "recompute")
    )
    return (
        f"Targets, {MAIN.name}: the fastest exact peer ({peer}) takes {faster:.2f}× as long as "
        f"ours (≥ 1.4×: {verdict(faster >= 1.4)}); ours takes {order:.2f}× as long as our first "
        f"order (≤ 2.0×: {verdict(order <= 2)}); it holds {held:.2f}× the memory of plain eager, "
        f"with `recompute` {recomputed:.2f}× (≤ 0.7×: {verdict(min(held, recomputed) <= 0.7)}). "
        "On a GPU: not measured."
    )


def text(data, only=""):
    where = data["machine"]
    peers = ", ".join(f"{name} {where[name]}" for name in ("higher", "torchopt") if name in where)
    shown = [result for result in data["results"] if only in result["case"]]
    return (
        f"{table(shown)}\n\n{targets(data['results'])}\n\n"
        f"{where.get('gpu', where['cpu'])}, {where['threads']} threads, torch {where['torch']}"
        f"{', ' + peers if peers else ''}, {data['date']}, commit {data['commit']}; medians of "
        f"{min(r['rounds'] for r in data['results'])} rounds or more."
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--columns", nargs="+", help="some of the columns")
    parser.add_argument("--rounds", type=int, help="default: 3, or 7 for small networks")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--batch", type=int, help="another batch size, to try something quickly")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    results = ROOT / f"bench/results/step-{device.type}.json"
    part = bool(arguments.only or arguments.columns or arguments.batch)
    cases = [c for c in CASES if arguments.only in c.name and (device.type == "cuda" or not c.gpu)]
    if arguments.batch:
        cases = [replace(case, batch=arguments.batch) for case in cases]
    if arguments.profile:
        found = profile_table(cases[0], *profile_step(cases[0], device))
        print(found)
        if not part and device.type == "cpu":
            insert(PAGE, found, "<!-- profile -->\n")
        return
    if arguments.tables:
        data = json.loads(results.read_text())
    else:
        data = {"date": datetime.date.today().isoformat(), "commit": commit()}
        data |= {"machine": machine(device), "results": []}
        for case in cases:
            print(case.name, flush=True)
            wanted = arguments.columns or case.columns
            rounds = arguments.rounds or (3 if case.width > 16 and device.type == "cpu" else 7)
            data["results"] += measure(case, device, wanted, rounds)
    if part:
        return
    save(data, results)
    print(text(data))
    if device.type == "cpu":
        insert(ROOT / "README.md", text(data, MAIN.name), MARKER)
        insert(PAGE, text(data), MARKER)


if __name__ == "__main__":
    main()
