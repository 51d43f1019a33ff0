"""The packages, and the optional native extension ``stssad_fast._C``.

The environment variable STSSAD_FAST_BUILD says what to build:

    auto   (default) what this machine can; what it cannot is left out, with a line that says so
    cpu    the C++ operators; an error where they cannot be built
    cuda   the C++ and the CUDA operators; an error where they cannot be built
    off    pure Python

Everything else about the project is in pyproject.toml.
"""

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

TARGET = (2, 10)  # the oldest torch whose stable ABI has all that csrc/ uses
CHOICES = ("auto", "cpu", "cuda", "off")
# No -march (one wheel for all machines; csrc/cpu/simd.h). Nobody reads floating-point exceptions or
# errno, and without them more loops become vectors.
CXX_FLAGS = (
    []
    if sys.platform == "win32"
    else ["-O3", "-fvisibility=hidden", "-fno-trapping-math", "-fno-math-errno"]
)
# The GPUs of data centres since 2020; newer ones compile the PTX when they first see it.
CUDA_ARCHITECTURES = "8.0;9.0+PTX"


class BuildError(Exception):
    """A backend was asked for by name and cannot be built."""


def requested() -> str:
    """Return the build that STSSAD_FAST_BUILD asks for."""
    choice = os.environ.get("STSSAD_FAST_BUILD", "").strip().lower() or "auto"
    if choice not in CHOICES:
        raise BuildError(f"STSSAD_FAST_BUILD={choice!r} is not one of {', '.join(CHOICES)}")
    return choice


def torch_version() -> tuple[int, ...]:
    """Return major and minor version of the torch that is installed."""
    return tuple(int(part) for part in importlib.metadata.version("torch").split(".")[:2])


def torch_missing() -> str | None:
    """Say why the torch of this environment cannot build the extension; None if it can."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "torch is not installed where pip builds (pip isolates builds unless told not to)"
    if torch_version() < TARGET:
        return f"torch {version} is older than {TARGET[0]}.{TARGET[1]}"
    try:
        import torch.utils.cpp_extension  # noqa: F401
    except Exception as error:
        return f"torch {version} does not import ({type(error).__name__}: {error})"
    return None


def cpu_missing() -> str | None:
    """Say why the C++ operators cannot be built here; None if they can."""
    if reason := torch_missing():
        return reason
    compiler = os.environ.get("CXX") or ("cl" if sys.platform == "win32" else "c++")
    if shutil.which(compiler.split()[0]) is None:
        return f"there is no C++ compiler ({compiler} was not found; CXX can name one)"
    return None


def cuda_missing() -> str | None:
    """Say why the CUDA operators cannot be built here; None if they can."""
    if reason := cpu_missing():
        return reason
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    if CUDA_HOME is None or shutil.which(f"{CUDA_HOME}/bin/nvcc") is None:
        return "there is no nvcc (CUDA_HOME can say where the CUDA toolkit is)"
    return None


def plan(choice: str) -> tuple[str, str | None]:
    """Return the best backend to build, and the reason if ``auto`` leaves a better one off."""
    if choice == "off":
        return "off", None
    reason = cpu_missing() if choice == "cpu" else cuda_missing()
    if reason is None:
        return ("cpu" if choice == "cpu" else "cuda"), None
    if choice != "auto":
        raise BuildError(f"STSSAD_FAST_BUILD={choice} cannot be done: {reason}")
    return ("off" if cpu_missing() else "cpu"), reason


def notice(backend: str, reason: str) -> None:
    """Say in one line what is off when the backend is all there is, and how to turn it on."""
    line = " ".join(reason.split())
    what = "CUDA" if backend == "cpu" else "native"
    how = "To turn them on, mend that and run: pip install --no-build-isolation ."
    print(f"stssad-fast: {what} operators off: {line}. {how}", file=sys.stderr)


def extension(backend: str) -> Any:
    """Return the native extension with the C++ operators and, for "cuda", the CUDA operators."""
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    sources = [Path("csrc/bindings.cpp"), *sorted(Path("csrc/cpu").glob("*.cpp"))]
    macros: list[tuple[str, str | None]] = [
        ("TORCH_TARGET_VERSION", f"0x{TARGET[0]:02x}{TARGET[1]:02x}000000000000"),
        ("STSSAD_FAST_FLAGS", f'"{" ".join(CXX_FLAGS)}"'),
    ]
    if backend == "cuda":
        sources += sorted(Path("csrc/cuda").glob("*.cu"))
        macros += [("USE_CUDA", None)]  # torch's headers then declare what has to do with streams
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
    kind = CUDAExtension if backend == "cuda" else CppExtension
    # Python's own flags ask for debug information, six sevenths of the library; CFLAGS still can.
    asked = any(flag.startswith("-g") for flag in os.environ.get("CFLAGS", "").split())
    debug = [] if asked or sys.platform == "win32" else ["-g0"]
    # The sources are C++20, which torch 2.13 adds by itself; 2.11 adds C++17.
    standard = ["-std=c++20"] if torch_version() < (2, 13) and sys.platform != "win32" else []
    return kind(
        "stssad_fast._C",
        [path.as_posix() for path in sources],
        include_dirs=[str(Path("csrc").resolve())],
        depends=[path.as_posix() for path in sorted(Path("csrc").rglob("*.h"))],
        define_macros=macros,
        extra_compile_args={"cxx": [*CXX_FLAGS, *debug, *standard], "nvcc": ["-O3", *standard]},
    )


def native(choice: str, backend: str) -> dict[str, Any]:
    """Return the arguments of ``setup`` that build the native extension."""
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        """Under ``auto``, a failing compiler leaves operators out instead of failing."""

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:
                if choice != "auto" or backend != "cuda":
                    raise
                notice("cpu", f"the compiler failed ({error})")
                vars(self.extensions[0]).update(vars(extension("cpu")))
                super().build_extensions()

        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                if choice != "auto":
                    raise
                self.extensions: list[Any] = []
                self.distribution.ext_modules = []
                wheel = self.distribution.get_command_obj("bdist_wheel", create=False)
                if wheel is not None:  # for any machine, though it expected an extension
                    wheel.root_is_pure = True
                notice("off", f"the compiler failed ({error})")

    return {"ext_modules": [extension(backend)], "cmdclass": {"build_ext": Build}}


def forget() -> None:
    """Remove the extension that was built in place: an old one must not pass for this build's."""
    for suffix in ("so", "pyd"):
        for old in Path("stssad_fast").glob(f"_C.*{suffix}"):
            old.unlink()


def main() -> None:
    """Decide what to build, and hand over to setuptools."""
    try:
        choice = requested()
        backend, reason = plan(choice)
    except BuildError as error:
        raise SystemExit(f"stssad-fast: {error}") from None
    if {"editable_wheel", "--inplace"} & set(sys.argv):
        forget()
    if reason and not {"egg_info", "dist_info"} & set(sys.argv):  # pip asks those first
        notice(backend, reason)
    kernels = ["kernels", *(f"kernels.{name}" for name in find_packages("kernels"))]
    setup(
        packages=[
            *find_packages(include=["stssad_fast", "stssad_fast.*"]),
            *(f"stssad_fast.{name}" for name in kernels),
        ],
        package_dir={"stssad_fast.kernels": "kernels"},
        **(native(choice, backend) if backend != "off" else {}),
    )


if __name__ == "__main__":
    main()
