"""Build, test, sanitize and time the GPU kernels on a bare machine: `make gpu-proof`.

    python bench/gpu_proof.py               # ten minutes; results in $OUT, or in runs/gpu-proof
    python bench/gpu_proof.py --rehearse    # the same stages on a CPU, in small

It needs torch with CUDA, Triton, nvcc and pytest; compute-sanitizer and ncu where they are to say
something. It installs nothing, needs no network, and works on a copy of the tree in build/. Each
task has a limit; one that fails or hangs leaves its log and does not keep the others from running.
$PYTHONPATH may name a folder of more packages: with kornia its column and the catalogue's tests
run, too, with safetensors and tifffile those of a step as a CUDA graph.
The exit status is 0 if all did what they should. $COMMIT names the commit where git does not.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build/gpu-proof"
TREE, LOGS = WORK / "tree", WORK / "logs"
SOURCES = ("csrc", "kernels", "stssad_fast", "tests", "bench", "setup.py")
RESULTS, TABLE, SUMMARY = "ops-gpu.json", "table.md", "summary.json"
FILES = ("build.log", "tests.log", "sanitizer.log", "bench.log", "ncu.log")
LARGEST = 8_000_000  # bytes of a log that is kept: its begin and its end
MINUTES, LAST = 9.5, 40  # of all; seconds that the table and a profile may take
SHARDS = "GPU_PROOF_SHARD"
# Seconds after its limit that a task is told to stop, and how: pytest, interrupted, says what has
# failed so far.
STOPS, GIVE_UP = ((0, signal.SIGINT), (4, signal.SIGTERM), (6, signal.SIGKILL)), 9

PYTHON = (sys.executable, "-u")
PYTEST = (*PYTHON, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider")
ABOUT = """
import torch
print("torch", torch.__version__, "CUDA", torch.version.cuda, torch.cuda.is_available())
from stssad_fast.ops import extension, triton_kernels
print("native extension:", extension.status())
print("Triton kernels:", triton_kernels.why_not() or "registered")
"""
# What compute-sanitizer runs: every dtype, shared and per-picture hyperparameters, all gradients.
VALUES = "(test_{0} or test_every or test_only or test_large)"
MATRIX, BATCH_NORM = "tests/ops/test_matrix_values.py", "tests/ops/test_batch_norm.py"
# Tests of other parts that need a GPU: a step as a CUDA graph, the catalogue (it needs kornia).
OTHERS = ("-k", "a_graph_computes or on_a_gpu", "tests/tuning/test_lean.py", "tests/augment")
# The names of our kernels, but for those that only add up parts.
PROFILED = "regex:_forward|_backward|write_pixels|sum_slopes|gather_readers|_squares|_units"


class Task(NamedTuple):
    """One command, and the file among FILES that its output goes to."""

    name: str
    command: tuple[str, ...]
    seconds: float  # at most
    log: str
    required: bool = True
    environment: Mapping[str, str] = MappingProxyType({})
    passes: tuple[int, ...] = (0,)


def pytest_collection_modifyitems(items):
    """As a plugin (-p bench.gpu_proof), keep one of several shares of the tests."""
    share, _, shares = os.environ[SHARDS].partition("/")
    items[:] = [i for i in items if zlib.crc32(i.nodeid.encode()) % int(shares) == int(share)]


def build(rehearsal):
    choice = "cpu" if rehearsal else "cuda"
    return [
        Task(
            "build",
            (*PYTHON, "setup.py", "build_ext", "--inplace"),
            240,
            "build.log",
            environment={"STSSAD_FAST_BUILD": choice, "LIBRARY_PATH": str(WORK / "lib")},
        )
    ]


def about(rehearsal):
    code = ABOUT if rehearsal else f"{ABOUT}assert torch.cuda.is_available()"  # tests would skip
    tasks = [Task("import", (*PYTHON, "-c", code), 60, "build.log")]
    for tool in () if rehearsal else (("nvidia-smi",), ("nvcc", "--version"), ("ncu", "--version")):
        tasks.append(Task(tool[0], tool, 30, "build.log", required=False))
    return tasks


def checks(rehearsal):
    """Tests in shares, the sanitizers, and what the bench is going to compile."""
    row = "native and portable" if rehearsal else "cuda"
    shares = 2 if rehearsal else 10
    where = MATRIX if rehearsal else "tests/ops"
    tests = [
        Task(
            f"tests {share + 1}/{shares}",
            (*PYTEST, "-p", "bench.gpu_proof", "-k", row, where),
            245,  # a share compiles up to 450 Triton kernels
            "tests.log",
            environment={SHARDS: f"{share}/{shares}"},
            passes=(0, 5),  # 5: a share without tests
        )
        for share in range(shares)
    ]

    def sanitizer(tool, op, *options, where=MATRIX, chosen=VALUES, required=True, **environment):
        prefix = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *options)
        command = (*PYTEST, where, "-k", f"{row} and {op} and {chosen.format(op)}")
        command = command if rehearsal else (*prefix, *command)
        return Task(f"{tool} {op}", command, 245, "sanitizer.log", required, environment)

    # Each tensor with bounds of its own; what libraries ask the driver in vain is no error.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    quiet = ("--report-api-errors", "no")
    memcheck = partial(sanitizer, "memcheck", **alone)
    triton = [
        memcheck("cutdiff", *quiet),
        memcheck("mean_distance_loss", *quiet, required=False),
        memcheck(
            "batch_norm",
            *quiet,
            where=BATCH_NORM,
            chosen="(test_equals or test_only)",
            required=False,
        ),
    ]
    return [
        *tests,
        Task("other tests", (*PYTEST, *OTHERS), 210, "tests.log", required=False, passes=(0, 5)),
        memcheck("rotate", *quiet),
        sanitizer("racecheck", "rotate", "--kernel-name", "kns=stssad_fast"),
        *([] if rehearsal else triton),
        bench("check", WORK / "check.json", 210, rehearsal, "--rounds", "0", required=False),
    ]


def bench(name, out, seconds, rehearsal, *options, required=True):
    command = (*PYTHON, "-m", "bench.gpu", "--out", str(out), *options)
    if rehearsal:
        command = (*command, "--device", "cpu", "--tiny")
        environment = {"TORCH_COMPILE_DISABLE": "1"}
    else:
        environment = {"OMP_NUM_THREADS": "8"}
    return Task(name, command, seconds, "bench.log", required, environment)


def profile(rehearsal, seconds):
    command = (*PYTHON, "-m", "bench.gpu", "--out", os.devnull, "--once")
    if rehearsal:
        command = (*command, "--device", "cpu", "--tiny")
    else:
        sections = [f"--section={s}" for s in ("SpeedOfLight", "MemoryWorkloadAnalysis")]
        options = ("--clock-control", "none", "--kernel-name", PROFILED, "--launch-count", "16")
        command = ("ncu", *options, *sections, *command)
    return Task("ncu", command, seconds, "ncu.log", required=False)


class Proof:
    """Runs tasks, and keeps what became of them."""

    def __init__(self, out, seconds):
        self.out, self.begin, self.end = out, time.monotonic(), time.monotonic() + seconds
        self.done = []
        shutil.rmtree(WORK, ignore_errors=True)
        LOGS.mkdir(parents=True)
        out.mkdir(parents=True, exist_ok=True)
        for name in (*FILES, RESULTS, TABLE, SUMMARY):
            (out / name).unlink(missing_ok=True)

    def left(self):
        return self.end - time.monotonic()

    def run(self, tasks, reserve=0.0):
        """Run tasks side by side, leaving ``reserve`` seconds to those that follow."""
        begin, most = time.monotonic(), self.left() - reserve
        running = {task.name: (task, self.start(task)) for task in tasks}
        try:
            self.wait(running, begin, most)
        finally:  # interrupted, it leaves nothing behind
            for _, process in running.values():
                if process:
                    end(process, signal.SIGKILL)
            self.save()

    def wait(self, running, begin, most):
        """Until all are done, or out of time and stopped."""
        stops = dict.fromkeys(running, 0)
        while running:
            time.sleep(0.05)
            seconds = time.monotonic() - begin
            for name, (task, process) in list(running.items()):
                over = seconds - min(task.seconds, max(5.0, most))
                if process is None:
                    code = "not found"
                elif process.poll() is not None or over > GIVE_UP:
                    code = "time" if stops[name] else process.returncode
                    end(process, signal.SIGKILL)  # what it has left behind
                else:
                    if stops[name] < len(STOPS) and over > STOPS[stops[name]][0]:
                        end(process, STOPS[stops[name]][1])
                        stops[name] += 1
                    continue
                del running[name]
                self.note(task, code, seconds)

    def note(self, task, code, seconds):
        done = {"task": task.name, "ok": code in task.passes, "required": task.required}
        done |= {"exit": code, "seconds": round(seconds, 1), "log": task.log}
        self.done.append(done)
        print(self.line(done), flush=True)

    def start(self, task):
        environment = {
            **toolkit(),
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(TREE), os.environ.get("PYTHONPATH")))),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "STSSAD_FAST_REQUIRE_NATIVE": "1",
            "OMP_NUM_THREADS": "1",
            "TRITON_CACHE_DIR": str(WORK / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(WORK / "inductor"),
            **task.environment,
        }
        with log_of(task.name).open("wb") as log:
            log.write(f"$ {' '.join(task.command)}\n".encode())
            log.flush()
            try:
                return subprocess.Popen(
                    task.command,
                    cwd=TREE,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                log.write(f"{error}\n".encode())
                return None

    def line(self, done):
        words = "ok" if done["ok"] else "FAILED" if done["required"] else "failed, not required"
        words += " (out of time)" if done["exit"] == "time" else ""
        return f"{done['task']:17} {done['seconds']:6.1f} s  {words}"

    def passed(self):
        return all(done["ok"] or not done["required"] for done in self.done)

    def save(self):
        """Write logs and summary, also of a run that is cut off later."""
        for name in FILES:
            texts = [log_of(done["task"]).read_bytes() for done in self.done if done["log"] == name]
            if texts:
                (self.out / name).write_bytes(shortened(b"\n".join(texts)))
        summary = {
            "passed": self.passed(),
            "seconds": round(time.monotonic() - self.begin, 1),
            "tasks": self.done,
        }
        (self.out / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")


def log_of(name):
    return LOGS / (name.replace(" ", "-").replace("/", "-of-") + ".log")


def shortened(text):
    if len(text) <= LARGEST:
        return text
    return text[: LARGEST // 4] + b"\n[...]\n" + text[-(LARGEST // 4 * 3) :]


def end(process, how):
    """Send a signal to a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)


def toolkit():
    """CUDA_HOME; torch would take the folder above an nvcc on the PATH, also that of a link."""
    found = shutil.which("nvcc")
    places = [Path("/usr/local/cuda"), *Path("/usr/local").glob("cuda-*")]
    if found:
        places.insert(0, Path(found).resolve().parents[1])
    for place in places:
        if (place / "bin/nvcc").exists() and (place / "include/cuda_runtime.h").exists():
            return {"CUDA_HOME": str(place)}
    return {}


def link_runtime():
    """Offer the linker torch's own libcudart, should the toolkit lack it (LIBRARY_PATH)."""
    (WORK / "lib").mkdir()
    for folder in sys.path:
        for library in Path(folder).glob("nvidia/*/lib/libcudart.so.*"):
            (WORK / "lib/libcudart.so").unlink(missing_ok=True)
            (WORK / "lib/libcudart.so").symlink_to(library)


def copy_sources():
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "kernels")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            skip = ignored if name == "stssad_fast" else shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, TREE / name, ignore=skip)
        else:
            TREE.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, TREE / name)
    for name in ("tests", "bench"):  # a package of that name in site-packages would come first
        (TREE / name / "__init__.py").touch()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, in small")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    arguments = parser.parse_args()
    rehearsal = arguments.rehearse
    for how in (signal.SIGINT, signal.SIGTERM):  # a background job ignores the one
        signal.signal(how, signal.default_int_handler)
    out = Path(os.environ.get("OUT") or ROOT / "runs/gpu-proof").resolve()
    proof = Proof(out, 60 * arguments.minutes)
    copy_sources()
    link_runtime()
    proof.run(build(rehearsal))
    # Not before: setuptools would read it, and be too old for some of it.
    shutil.copy2(ROOT / "pyproject.toml", TREE)
    shutil.copytree(ROOT / "kernels", TREE / "stssad_fast/kernels")  # what an installation does
    proof.run(about(rehearsal))
    proof.run(checks(rehearsal), reserve=min(230.0, proof.left() / 2))
    seconds = proof.left() - LAST
    options = ("--seconds", f"{0.8 * seconds:.0f}", *(("--rounds", "3") if rehearsal else ()))
    proof.run([bench("bench", out / RESULTS, seconds, rehearsal, *options)])
    command = (*PYTHON, "-m", "bench.gpu_table", str(out / RESULTS), "--out", str(out / TABLE))
    proof.run([Task("table", command, 20, "bench.log")])
    if proof.left() > LAST / 2:
        proof.run([profile(rehearsal, proof.left() - 5)])
    for done in proof.done:
        if not done["ok"]:
            text = log_of(done["task"]).read_text(errors="replace")
            print(f"\n{done['task']}:\n" + "\n".join(text.splitlines()[-12:]))
    if (out / TABLE).exists():
        print("\n" + (out / TABLE).read_text())
    print(*map(proof.line, proof.done), sep="\n")
    print("passed" if proof.passed() else "FAILED", f"in {time.monotonic() - proof.begin:.0f} s")
    return not proof.passed()


if __name__ == "__main__":
    sys.exit(main())
