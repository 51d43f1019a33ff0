"""setup.py: what STSSAD_FAST_BUILD means, and that a missing tool is told and not suffered."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def setup(monkeypatch):
    """setup.py as a module of functions; it runs nothing on import."""
    monkeypatch.delenv("STSSAD_FAST_BUILD", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location("stssad_fast_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def without_torch(monkeypatch):
    version = importlib.metadata.version

    def missing(name):
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)


@pytest.mark.parametrize(
    ("value", "choice"),
    [
        ("", "auto"),
        (" ", "auto"),
        ("auto", "auto"),
        ("CPU", "cpu"),
        ("cuda", "cuda"),
        (" off ", "off"),
    ],
)
def test_the_variable_is_read(setup, monkeypatch, value, choice):
    monkeypatch.setenv("STSSAD_FAST_BUILD", value)
    assert setup.requested() == choice


def test_auto_is_the_default(setup):
    assert setup.requested() == "auto"


def test_an_unknown_value_is_an_error(setup, monkeypatch):
    monkeypatch.setenv("STSSAD_FAST_BUILD", "gpu")
    with pytest.raises(setup.BuildError, match="'gpu' is not one of auto, cpu, cuda, off"):
        setup.requested()


def test_off_builds_nothing_and_complains_of_nothing(setup):
    assert setup.plan("off") == ("off", None)


def test_auto_without_torch_is_pure_python(setup, without_torch, capsys):
    backend, reason = setup.plan("auto")
    assert backend == "off"
    setup.notice(backend, reason)
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "native operators off: torch is not installed" in printed
    assert "--no-build-isolation" in printed  # the way to turn it on


@pytest.mark.parametrize("choice", ["cpu", "cuda"])
def test_a_backend_asked_for_by_name_is_an_error_without_torch(setup, without_torch, choice):
    with pytest.raises(setup.BuildError, match=f"{choice} cannot be done: torch is not installed"):
        setup.plan(choice)


@pytest.mark.parametrize(
    ("version", "old"),
    [("2.9.1", True), ("2.10.0", False), ("2.13.0+cpu", False), ("3.0.0a0", False)],
)
def test_an_old_torch_is_named(setup, monkeypatch, version, old):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert setup.torch_missing() == (f"torch {version} is older than 2.10" if old else None)


def test_a_missing_compiler_is_named(setup, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    assert setup.plan("auto")[0] == "off"
    with pytest.raises(setup.BuildError, match="no-such-compiler -O1 was not found"):
        setup.plan("cpu")


@pytest.fixture
def cuda(setup, monkeypatch):
    """As on a machine that can build everything."""
    import torch.utils.cpp_extension

    monkeypatch.setattr(setup, "cpu_missing", lambda: None)
    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", "/cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(shutil, "which", lambda name: name)


@pytest.mark.parametrize(
    ("choice", "backend"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu"), ("off", "off")]
)
def test_cuda_is_built_where_it_can_be(setup, cuda, choice, backend):
    assert setup.plan(choice) == (backend, None)


@pytest.mark.parametrize("missing", ["nvcc", "home", "torch"])
def test_cuda_names_what_is_missing(setup, cuda, monkeypatch, missing, capsys):
    import torch.utils.cpp_extension

    if missing == "nvcc":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif missing == "home":
        monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", None)
    else:
        monkeypatch.setattr(torch.version, "cuda", None)
    words = "was built without CUDA" if missing == "torch" else "there is no nvcc"
    with pytest.raises(setup.BuildError, match=f"cuda cannot be done: .*{words}"):
        setup.plan("cuda")
    backend, reason = setup.plan("auto")
    assert backend == "cpu" and words in reason
    setup.notice(backend, reason)
    assert f"CUDA operators off: {reason}" in capsys.readouterr().err


def test_the_extension_of_each_backend(setup, cuda, monkeypatch):
    import torch.utils.cpp_extension

    monkeypatch.setattr(torch.utils.cpp_extension, "library_paths", lambda *_, **__: [])
    monkeypatch.setattr(torch.utils.cpp_extension, "include_paths", lambda *_, **__: [])
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    with_cuda, without = setup.extension("cuda"), setup.extension("cpu")
    assert set(with_cuda.sources) - set(without.sources) == {"csrc/cuda/rotate.cu"}
    assert "torch_cuda" in with_cuda.libraries and "torch_cuda" not in without.libraries
    assert ("USE_CUDA", None) in with_cuda.define_macros
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "7.5"  # whoever names GPUs gets those
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    setup.extension("cuda")
    assert os.environ.pop("TORCH_CUDA_ARCH_LIST") == "8.0;9.0+PTX"


def test_the_command_ends_with_one_sentence(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "setup.py"), "--version"],
        env={"STSSAD_FAST_BUILD": "gpu"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "STSSAD_FAST_BUILD='gpu' is not one of" in result.stderr


@pytest.mark.parametrize(
    ("command", "stays"),
    [
        (["editable_wheel"], False),
        (["build_ext", "--inplace"], False),
        (["bdist_wheel"], True),
        (["dist_info"], True),
    ],
)
def test_what_an_earlier_build_in_place_left(setup, monkeypatch, tmp_path, command, stays):
    """It would be loaded, although this build makes none."""
    package = tmp_path / "stssad_fast"
    package.mkdir()
    old, other = package / "_C.cpython-311-x86_64-linux-gnu.so", package / "other.so"
    for file in (old, other):
        file.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STSSAD_FAST_BUILD", "off")
    monkeypatch.setattr(sys, "argv", ["setup.py", *command])
    monkeypatch.setattr(setup, "setup", lambda **_: None)
    setup.main()
    assert old.exists() == stays and other.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the compiler is another one there")
def test_a_wheel_without_an_extension_is_for_any_machine(setup, tmp_path):
    if setup.torch_missing():
        pytest.skip("without torch no extension is tried")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("csrc", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "stssad_fast").mkdir()
    (tmp_path / "stssad_fast" / "__init__.py").touch()
    result = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "bdist_wheel"],
        env={**os.environ, "CC": "false", "CXX": "false", "STSSAD_FAST_BUILD": "auto"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "native operators off: the compiler failed" in result.stderr
    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"stssad_fast/__init__.py", "stssad_fast/kernels/__init__.py"} <= set(names)


@pytest.mark.parametrize(
    ("flags", "found"), [(None, ["-g0"]), ("-O1 -fno-gnu-tm", ["-g0"]), ("-O1 -g1", [])]
)
def test_debug_information_where_it_is_asked_for(setup, monkeypatch, flags, found):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CFLAGS", raising=False)
    if flags is not None:
        monkeypatch.setenv("CFLAGS", flags)
    compiled = setup.extension("cpu").extra_compile_args["cxx"]
    assert [flag for flag in compiled if flag.startswith("-g")] == found


def test_kernels_are_installed_inside_the_package():
    import stssad_fast.kernels

    assert stssad_fast.kernels.__doc__


def test_every_dependency_has_its_line():
    told = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for requirement in importlib.metadata.requires("stssad-fast") or []:
        name = re.split(r"[^A-Za-z0-9_.-]", requirement)[0]
        assert f"| `{name}` |" in told, name


@pytest.mark.parametrize(
    ("version", "flags"), [("2.11.0+cu130", ["-std=c++20"]), ("2.13.0+cpu", []), ("3.0", [])]
)
def test_an_older_torch_is_told_the_standard(setup, monkeypatch, version, flags):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(sys, "platform", "linux")
    found = setup.extension("cpu").extra_compile_args["cxx"]
    assert [flag for flag in found if flag.startswith("-std")] == flags
