from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture() -> Callable[..., Path]:
    """Writes a small picture of one value and returns its path; folders are made as needed."""

    def write(path: Path, value: int = 100, size: tuple[int, int] = (12, 10), mode: str = "L"):
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = value if mode in ("L", "1") else (value,) * len(mode)
        Image.new(mode, size, colour).save(path)
        return path

    return write


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
