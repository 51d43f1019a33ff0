"""IDX files, the format of MNIST and Fashion-MNIST."""

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stssad_fast.datasets.labelled import Labelled
from stssad_fast.errors import InputError

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Reads an IDX file, gzipped or not (the content decides), into an array of its shape.

    The format: two zero bytes, one for the type, one for the rank, the sizes as big-endian uint32,
    and the values, big-endian in row-major order.

    Returns:
        A writable array in the machine's byte order: uint8, int8, int16, int32, float32 or float64.

    Raises:
        InputError: the file is missing, no IDX file, or shorter or longer than its header says.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{path} cannot be read ({reason}). Check or download it again."
        ) from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _DTYPES:
        raise InputError(
            f"{path} is no IDX file: it begins with {data[:4].hex(' ') or 'nothing'}, expected two "
            "zero bytes, a type and a rank. Check or download it again."
        )
    dtype, rank = np.dtype(_DTYPES[data[2]]), data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise InputError(f"{path} ends within its header. Download it again.")
    shape = tuple(int(side) for side in np.frombuffer(data, ">u4", rank, 4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InputError(
            f"{path} is {len(data)} bytes long, expected {expected} for the shape {shape} in its "
            "header. Download it again."
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def read_mnist(folder: str | os.PathLike[str]) -> tuple[Labelled, Labelled]:
    """Reads MNIST, Fashion-MNIST or another set in the same four files.

    Args:
        folder: holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same two of
            `t10k`, each with or without `.gz`.

    Returns:
        Train and test set, images uint8 (N, 1, 28, 28).

    Raises:
        InputError: a file is missing, damaged, or does not fit the other.
    """
    return _read_part(Path(folder), "train"), _read_part(Path(folder), "t10k")


def _read_part(folder: Path, part: str) -> Labelled:
    images_path = _find(folder, f"{part}-images-idx3-ubyte")
    images = read_idx(images_path)
    labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte"))
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != images.shape[:1]:
        raise InputError(
            f"{images_path} holds {images.dtype} of shape {images.shape} and its labels have shape "
            f"{labels.shape}, expected uint8 (N, H, W) and (N,). Check that the files belong "
            "together."
        )
    return Labelled(torch.from_numpy(images)[:, None], labels.astype(np.int64))


def _find(folder: Path, stem: str) -> Path:
    # Some copies of the set write a dot before idx.
    names = [stem, f"{stem}.gz", stem.replace("-idx", ".idx"), stem.replace("-idx", ".idx") + ".gz"]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} has no file {stem}, with or without .gz. Check the folder.")
