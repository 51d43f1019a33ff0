"""Compile every Triton kernel for GPU architectures, without a GPU.

    python tests/kernels/compile_offline.py 80 90 100 > bench/results/triton_resources.jsonl

It calls the host functions with tensors on the CPU and compiles what they would launch: the same
specialisation, block sizes and warps as on the GPU. It prints a line of JSON for each kernel of
each call: the registers of a thread, bytes of stack (spilled registers live there), of shared
memory and of the widest load from global memory. TRITON_INTERPRET must not be set: an interpreted
kernel is not compiled.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from stssad_fast.kernels import batch_norm, cutdiff, mean_distance
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def resources(kernel):
    """What the compiled code asks of a multiprocessor."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    numbers = {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", text)}
    loads = re.findall(r"ld\.global[.\w:]*?(?:\.v(\d))?\.b(\d+)", kernel.asm["ptx"])
    return {
        "registers": numbers["REG"],
        "stack": numbers["STACK"] + numbers["LOCAL"],
        "shared": kernel.metadata.shared,
        "warps": kernel.metadata.num_warps,
        "widest_load": max(int(n or 1) * int(bits) // 8 for n, bits in loads),
    }


def compile_instead_of_launching(found):
    """Let every launch append what it would launch to ``found``; return how to choose a GPU."""
    run = JITFunction.run

    def compile_only(self, *args, **options):
        kernel = run(self, *args, **{**options, "warmup": True})
        module = self.__module__.rpartition(".")[2]
        found.append({"kernel": f"{module}.{self.__name__}", **resources(kernel)})
        return kernel

    def choose(architecture):
        triton.runtime.driver.set_active(
            SimpleNamespace(
                get_current_target=lambda: GPUTarget("cuda", architecture, 32),
                get_current_device=lambda: architecture,  # compiled kernels are kept by device
                get_current_stream=lambda device: 0,
            )
        )

    JITFunction.run = compile_only
    return choose


def cutdiff_calls(size, dtype, layout, needed, normalized=False):
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    image = torch.empty(size, dtype=dtype).to(memory_format=layout)
    shape, center = torch.empty(1, 3, dtype=arithmetic), torch.empty(size[0], 2).to(arithmetic)
    constants = (shape.new_empty(size[1]),) * 2 if normalized else ()
    name = f"{size} {dtype} {layout}{' normalized' * normalized}".replace("torch.", "")
    yield f"cutdiff {name}", cutdiff.cutdiff, (image, shape, center, *constants)
    wanted = "+".join(n for n, w in zip(("image", "shape", "center"), needed, strict=True) if w)
    arguments = (image, image, shape, center, list(needed), *constants)
    yield f"cutdiff_backward {name} {wanted}", cutdiff.cutdiff_backward, arguments


def loss_calls(counts, dimensions, dtype):
    sets = [torch.empty(n, dimensions, dtype=dtype) for n in counts]
    name = f"{counts} x {dimensions} {dtype}".replace("torch.", "")
    yield f"mean_distance_loss {name}", mean_distance.mean_distance_loss, sets
    arguments = (torch.empty((), dtype=dtype), sets[0].new_empty(8 * dimensions + 4), *sets)
    function = mean_distance.mean_distance_loss_backward
    yield f"mean_distance_loss_backward {name}", function, (*arguments, [True] * 3)


def batch_norm_calls(size, dtype, layout):
    x = torch.empty(size, dtype=dtype).to(memory_format=layout)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    gamma, mean = (torch.empty(size[1], dtype=t) for t in (arithmetic, torch.float64))
    name = f"{size} {dtype} {layout}".replace("torch.", "")
    yield f"batch_norm {name}", batch_norm.batch_norm, (x, gamma, gamma, x, True, 1e-5)
    given = (x, x, gamma, x, mean, mean, 1e-5)
    yield f"batch_norm_backward {name}", batch_norm.batch_norm_backward, (*given, [True] * 4)
    function = batch_norm.batch_norm_double_backward
    arguments = (x, gamma, gamma, x, *given, [True] * 3)
    yield f"batch_norm_double_backward {name}", function, arguments


def calls(architecture):
    """Name, function and arguments of what is compiled: every kernel for every dtype.

    For one architecture, also what a size or a layout changes.
    """
    size, contiguous, last = (64, 3, 128, 256), torch.contiguous_format, torch.channels_last
    every, a, image = (True, True, True), (False, True, False), (True, False, False)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        yield from cutdiff_calls(size, dtype, contiguous, every)
        yield from batch_norm_calls((64, 64, 32, 32), dtype, contiguous)
        yield from batch_norm_calls((64, 64, 32, 32), dtype, last)
    for dtype in (torch.float32, torch.float64):
        yield from loss_calls((256, 256, 160), 512, dtype)
        yield from loss_calls((4096, 4096, 4096), 2048, dtype)
    if architecture == 90:
        yield from cutdiff_calls(size, torch.float32, contiguous, a)
        yield from cutdiff_calls(size, torch.bfloat16, contiguous, a)
        yield from cutdiff_calls(size, torch.float32, last, a)
        yield from cutdiff_calls(size, torch.bfloat16, last, image)
        yield from cutdiff_calls(size, torch.bfloat16, contiguous, every, normalized=True)
        yield from cutdiff_calls(size, torch.float64, contiguous, every, normalized=True)
        yield from cutdiff_calls(size, torch.float32, last, every, normalized=True)
        yield from cutdiff_calls((64, 3, 32, 32), torch.float32, contiguous, every)
        yield from cutdiff_calls((5, 3, 33, 35), torch.float32, contiguous, every)
        yield from cutdiff_calls((1, 1, 1, 1), torch.float32, contiguous, every)
        yield from loss_calls((1, 1, 1), 1, torch.float32)
        yield from batch_norm_calls((2, 3, 5, 7), torch.float32, contiguous)
        yield from batch_norm_calls((2, 3, 5, 7), torch.float32, last)
        yield from batch_norm_calls((2, 3, 1, 1), torch.float32, contiguous)


def main():
    found = []
    choose = compile_instead_of_launching(found)
    for architecture in sys.argv[1:]:
        choose(int(architecture))
        for name, function, arguments in calls(int(architecture)):
            found.clear()
            function(*arguments)
            for entry in found:
                print(json.dumps({"sm": int(architecture), "call": name, **entry}))


if __name__ == "__main__":
    main()
