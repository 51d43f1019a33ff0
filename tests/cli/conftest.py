import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from stssad_fast.cli.app import app


class Cli:
    """The command line, called in this process, on a small data set."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"  # in MVTec AD's layout
        self.options = ["--train", self.data, "--test", self.data, "--image-size", 16]
        self.options += ["--width", 4, "--iterations", 3, "--warm-up", 1, "--batch-size", 4]
        self.options += ["--threads", 1, "--set", 'starts=[{"size": 0.01}]']
        for index in range(5):
            self.draw(f"train/good/{index}.png", index)
            self.draw(f"test/good/{index}.png", 10 + index)
            self.draw(f"test/hole/{index}.png", 20 + index, hole=True)

    def draw(self, name: str, seed: int = 0, side: int = 32, hole: bool = False) -> Path:
        pixels = np.random.default_rng(seed).integers(120, 255, (side, side), dtype=np.uint8)
        if hole:
            pixels[8:16, 8:16] = 0
        path = self.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    def invoke(self, *arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def accepted(self, *arguments: object) -> Result:
        result = self.invoke(*arguments)
        assert result.exit_code == 0, (result.output, result.exception)
        return result

    def refused(self, *arguments: object, match: str) -> Result:
        """Exit code 2, and one line on standard error beside what was skipped and done."""
        result = self.invoke(*arguments)
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 2, result.output
        lines = [
            line for line in result.stderr.splitlines() if not line.startswith(("Sk", "start "))
        ]
        assert len(lines) == 1, lines
        assert lines[0].startswith("Error: ")
        assert re.search(match, lines[0]), lines[0]
        return result

    def tune(self, out: Path, *more: object) -> Result:
        return self.accepted("tune", *self.options, "--out", out, *more)

    @staticmethod
    def same(one: Path, other: Path) -> bool:
        """Whether two runs found the same, to the last bit."""
        mine, yours = (load_file(run / "model.safetensors") for run in (one, other))
        return (
            mine.keys() == yours.keys()
            and all(torch.equal(mine[name], yours[name]) for name in mine)
            and (one / "scores.csv").read_bytes() == (other / "scores.csv").read_bytes()
        )

    @staticmethod
    def tree(folder: Path) -> dict[Path, bytes]:
        """Every entry and what is in it."""
        return {p: p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    threads = torch.get_num_threads()
    yield Cli(tmp_path)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cli, Path]:
    """A finished run, to read from only."""
    folder = tmp_path_factory.mktemp("finished")
    cli = Cli(folder)
    threads = torch.get_num_threads()
    cli.tune(folder / "run")
    torch.set_num_threads(threads)
    return cli, folder / "run"
