"""CIFAR-10's python batches: pickles, read so that they can do nothing but hold pictures."""

import os
import pickle
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stssad_fast.datasets.labelled import Labelled
from stssad_fast.errors import InputError


def read_cifar10(folder: str | os.PathLike[str]) -> tuple[Labelled, Labelled]:
    """Reads the unpacked `cifar-10-batches-py`: `data_batch_1` to `_5`, and `test_batch`.

    Pickles can run any code when they are opened. Here they may ask for uint8 arrays and nothing
    else; one that asks for more is refused before it gets it.

    Returns:
        Train and test set, images uint8 (N, 3, 32, 32).

    Raises:
        InputError: a file is missing, damaged, asks for anything but arrays, or is no such batch.
    """
    folder = Path(folder)
    batches = [_read_batch(folder / f"data_batch_{number}") for number in range(1, 6)]
    train = Labelled(
        torch.cat([batch.images for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )
    return train, _read_batch(folder / "test_batch")


def _read_batch(path: Path) -> Labelled:
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()  # Python 2 wrote its keys as bytes
    except InputError as error:
        raise InputError(f"{path} {error}") from error
    except FileNotFoundError as error:
        raise InputError(
            f"{path} does not exist. Check the folder; it should be cifar-10-batches-py, unpacked."
        ) from error
    # A damaged pickle makes the unpickler raise nearly anything.
    except Exception as error:
        raise InputError(f"{path} cannot be read ({error}). Download it again.") from error
    entries = content if isinstance(content, dict) else {}
    data = entries.get(b"data", entries.get("data"))
    labels = entries.get(b"labels", entries.get("labels"))
    if (
        not isinstance(data, _Array)
        or data.values.shape[1:] != (3072,)
        or not isinstance(labels, list)
        or not all(isinstance(label, int) for label in labels)
        or len(labels) != len(data.values)
    ):
        raise InputError(
            f"{path} is no batch of CIFAR-10: expected data of uint8 (N, 3072) and N labels. "
            "Download it again."
        )
    images = torch.from_numpy(data.values).reshape(-1, 3, 32, 32)
    return Labelled(images, np.array(labels, np.int64))


class _DType:
    """Stands in for numpy.dtype while a pickle is read; nothing but uint8 gets through."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        if name not in ("u1", b"u1", "uint8", b"uint8"):
            raise InputError(f"asks for an array of {name!r}, expected uint8. Download it again.")

    def __setstate__(self, state: object) -> None:
        """Ignores what NumPy would set: a forged state can crash the interpreter."""


class _Array:
    """Stands in for numpy.ndarray, and is filled from bytes alone."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _DType, bool, bytes]) -> None:
        _, shape, _, fortran, data = state
        values = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")
        self.values = np.array(values, order="C")  # torch wants it writable


_ALLOWED: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,  # named only as an argument of the former
    ("numpy", "dtype"): _DType,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise InputError(
                f"asks for {module}.{name}, which no CIFAR-10 batch needs; it may be malicious and "
                "was not opened. Download it again from a source you trust."
            ) from None
