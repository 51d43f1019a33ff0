"""Compile every Triton kernel for one GPU architecture, without that GPU.

    python tests/kernels/compile_offline.py 90

It calls the host functions with tensors on the CPU and compiles what they would launch: the same
specialisation, block sizes and warps as on the GPU. It prints JSON: for each kernel and call, the
registers of a thread, bytes of stack (spilled registers live there) and of shared memory.
TRITON_INTERPRET must not be set; an interpreted kernel is not compiled.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
import triton
from stssad_fast.kernels import cutdiff as cutdiff_kernels
from stssad_fast.kernels import mean_distance as loss_kernels
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
    return {
        "registers": numbers["REG"],
        "stack": numbers["STACK"] + numbers["LOCAL"],
        "shared": kernel.metadata.shared,
        "warps": kernel.metadata.num_warps,
    }


def compile_instead_of_launching(architecture, found):
    """Let every launch append its resources to ``found``."""
    target = GPUTarget("cuda", architecture, 32)
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: target,
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
        )
    )
    run = JITFunction.run

    def compile_only(self, *args, **options):
        kernel = run(self, *args, **{**options, "warmup": True})
        found.append({"kernel": self.__name__, **resources(kernel)})
        return kernel

    JITFunction.run = compile_only


def cutdiff_calls():
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
        shape, center = torch.ones(1, 3, dtype=arithmetic), torch.ones(64, 2, dtype=arithmetic)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            image = torch.empty(64, 3, 128, 256, dtype=dtype).to(memory_format=memory_format)
            name = f"{dtype} {memory_format}".replace("torch.", "")
            yield f"cutdiff {name}", cutdiff_kernels.cutdiff, (image, shape, center)
            for needed in ([True] * 3, [False, True, False], [True, False, False]):
                yield (
                    f"cutdiff_backward {name} {''.join('iSC'[i] for i in range(3) if needed[i])}",
                    cutdiff_kernels.cutdiff_backward,
                    (image, image, shape, center, needed),
                )


def loss_calls():
    for dtype in (torch.float32, torch.float64):
        for rows, dimensions in ((256, 512), (4096, 2048)):  # one chunk, and more
            train, test = torch.empty(rows, dimensions, dtype=dtype), torch.empty(160, dimensions)
            sets = (train, train, test.to(dtype))
            name = f"{dtype} {rows} x {dimensions}".replace("torch.", "")
            yield f"mean_distance_loss {name}", loss_kernels.mean_distance_loss, sets
            memo = torch.empty(8 * dimensions + 4, dtype=dtype)
            yield (
                f"mean_distance_loss_backward {name}",
                loss_kernels.mean_distance_loss_backward,
                (torch.empty((), dtype=dtype), memo, *sets, [True] * 3),
            )


def main():
    found = []
    compile_instead_of_launching(int(sys.argv[1]), found)
    report = []
    for name, function, arguments in (*cutdiff_calls(), *loss_calls()):
        found.clear()
        function(*arguments)
        report += [{"call": name, **entry} for entry in found]
    json.dump(report, sys.stdout, indent=1)


if __name__ == "__main__":
    assert "TRITON_INTERPRET" not in os.environ
    main()
