"""Pictures by rows: a tensor has all of them in memory, the others are read when asked for."""

import copy
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stssad_fast.datasets.images import MIN_SIDE, read_image, with_channels
from stssad_fast.datasets.validate import as_images
from stssad_fast.errors import InputError

BATCH = 256
"""Pictures that are held at once when all of them are gone through."""

READERS = min(4, os.cpu_count() or 1)
"""Threads that decode files; decoders release the GIL."""


class Pictures(Protocol):
    """What fitting and scoring need: a tensor (N, C, H, W) has it, and memory is not the limit.

    A class of your own has ``shape`` (N, C, H, W), a length, and gives for rows, an array of whole
    numbers (n,), a tensor or array (n, C, H, W) of a kind that `as_images` takes. Several
    threads may ask at once.
    """

    @property
    def shape(self) -> Sequence[int]:
        """(N, C, H, W)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: Any, /) -> Tensor:
        """The pictures of these rows, float32 (n, C, H, W) in [0, 1]; (C, H, W) for one number."""


class _Lazy:
    """Rows of any kind that tensors take, brought down to an array of whole numbers."""

    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> Tensor:
        if isinstance(rows, Tensor):
            rows = rows.cpu().numpy()
        wanted = np.arange(len(self))[rows]
        found = self._read(np.atleast_1d(wanted))
        return found if np.ndim(wanted) else found[0]

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        raise NotImplementedError


class PictureFiles(_Lazy):
    """Pictures that stay in their files; `read_folder` makes it of a folder that is too large.

    Args:
        paths: N files that can be read.
        shape: (C, H, W) of every picture, once it is read.
        resized: whether a picture of another size is resized; else it is refused.

    Raises:
        InputError: on reading, a file is no longer there, or not what it was.
    """

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int, int], resized: bool) -> None:
        self.paths, self.resized = list(paths), resized
        self.shape = (len(self.paths), *shape)
        self._as = shape[0]

    def with_channels(self, channels: int) -> "PictureFiles":
        """The same pictures, grey (1) or RGB (3)."""
        other = copy.copy(self)
        other.shape = (len(self), channels, *self.shape[2:])
        return other

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        paths = [self.paths[row] for row in rows]
        if not paths:
            return torch.empty(0, *self.shape[1:])
        with ThreadPoolExecutor(READERS) as pool:
            return torch.stack(list(pool.map(self._one, paths)))

    def _one(self, path: Path) -> Tensor:
        channels, height, width = self.shape[1:]
        try:
            image = read_image(
                path, channels=self._as, image_size=(height, width) if self.resized else None
            )
        except InputError as error:
            raise InputError(
                f"{error} It could be read before: put it back as it was, and go on from the "
                "checkpoint if there is one."
            ) from error
        if image.shape[1:] != (height, width):
            raise InputError(
                f"{path} is {image.shape[1]} x {image.shape[2]} pixels, and was {height} x {width} "
                "before. Put it back as it was, and go on from the checkpoint if there is one."
            )
        return with_channels(image, channels)


class ConvertedPictures(_Lazy):
    """Rows of an array that is never copied as a whole, or of a class of your own.

    Args:
        source: (N, H, W) or (N, C, H, W), as `as_images` takes it; a `numpy.memmap`, say.
        name: what a message calls it.
        min_side: fewest pixels along each side.

    Raises:
        InputError: at once or on reading, as `as_images` does.
    """

    def __init__(self, source: Any, name: str = "images", min_side: int = MIN_SIDE) -> None:
        self._source = source
        self._convert = partial(as_images, name=name, min_side=min_side, min_count=0)
        try:
            first = self._convert(source[np.arange(min(1, len(source)))])
            shape = tuple(source.shape)
        except (TypeError, AttributeError, KeyError) as error:
            raise InputError(
                f"{name} is a {type(source).__name__}, expected a NumPy array or a tensor of shape "
                "(N, C, H, W), a folder, a list of files, or an object with shape, length and "
                f"rows ({error}). Stack the pictures first."
            ) from error
        self.shape = (len(source), *first.shape[1:])
        if len(first) and shape not in (self.shape, (self.shape[0], *self.shape[2:])):
            raise InputError(f"{name} has shape {shape}, but gives pictures {self.shape[1:]}.")

    def __getstate__(self) -> dict[str, Any]:
        source = self._source
        if not isinstance(source, np.memmap) or source.filename is None:
            return vars(self)
        # A memmap would be pickled with all its values; where they are is enough.
        whole = source
        while isinstance(whole.base, np.memmap):
            whole = whole.base
        start = source.ctypes.data - whole.ctypes.data + whole.offset
        where = str(source.filename), start, source.dtype, source.shape, source.strides
        return vars(self) | {"_source": None, "_where": where}

    def __setstate__(self, state: dict[str, Any]) -> None:
        where = state.pop("_where", None)
        vars(self).update(state)
        if where:
            path, start, dtype, shape, strides = where
            file = np.memmap(path, np.uint8, "r")
            self._source = np.ndarray(shape, dtype, file, start, strides)

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        images = self._convert(self._source[rows])
        if images.shape != (len(rows), *self.shape[1:]):
            raise InputError(
                f"{type(self._source).__name__} gives pictures of shape {tuple(images.shape)} for "
                f"{len(rows)} rows, expected {(len(rows), *self.shape[1:])}."
            )
        return images


class ReadAhead:
    """Reads rows, those that were announced in the background.

    What is announced is a guess: only if the rows asked for next are the same is it used.

    Args:
        pictures: to read from.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self._worker: ThreadPoolExecutor | None = None
        self._rows: Tensor | None = None
        self._future: Future[Tensor] | None = None

    def announce(self, rows: Tensor) -> None:
        """Begin to read ``rows`` (n,), unless they lie in memory anyhow."""
        if isinstance(self.pictures, Tensor):
            return
        if self._future is not None:
            self._future.cancel()
        self._worker = self._worker or ThreadPoolExecutor(1)
        self._rows, self._future = rows, self._worker.submit(self.pictures.__getitem__, rows)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The pictures of ``rows`` (n,)."""
        future, self._future = self._future, None
        if future is None:
            return self.pictures[rows]
        if self._rows is not None and torch.equal(self._rows, rows):
            return future.result()
        if not future.cancel():
            future.exception()  # two at once would fight for the disk
        return self.pictures[rows]


def batches(pictures: Pictures, size: int = BATCH) -> Iterator[Tensor]:
    """All pictures in their order, ``size`` at a time; the next are read while these are used."""
    if isinstance(pictures, Tensor):
        yield from pictures.split(size)
        return
    ahead = ReadAhead(pictures)
    parts = torch.arange(len(pictures)).split(size)
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        images = ahead[part]
        if following is not None:
            ahead.announce(following)
        yield images


def mean_and_std(pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of all pixels, float32; a batch at a time, in float64.

    To normalise by: the deviation is at least 1e-3.
    """
    channels = pictures.shape[1]
    count, mean, squares = 0, torch.zeros(channels).double(), torch.zeros(channels).double()
    for images in batches(pictures, 32):
        pixels = images.transpose(0, 1).flatten(1).cpu().double()  # (C, n)
        many = pixels.shape[1]
        own = pixels.mean(1)
        # Chan, Golub, LeVeque: the squares about the common mean, without cancellation.
        squares += (pixels - own[:, None]).square().sum(1)
        squares += (own - mean).square() * (count * many / (count + many))
        mean += (own - mean) * (many / (count + many))
        count += many
    return mean.float(), (squares / max(count - 1, 1)).sqrt().float().clamp_min(1e-3)
