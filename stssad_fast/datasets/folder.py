"""A folder of pictures becomes a tensor or stays in its files; MVTec AD's layout gives labels."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stssad_fast.datasets.images import SUFFIXES, Size, read_image, with_channels
from stssad_fast.datasets.pictures import BATCH, READERS, PictureFiles, Pictures
from stssad_fast.errors import InputError

GOOD = "good"
"""Name of the folder of normal pictures in MVTec AD's layout."""

MASKS = "ground_truth"
"""Name of the folder of masks in MVTec AD's layout; never read."""

MEMORY = 2.0
"""GiB of decoded pictures above which a set of files is not kept in memory."""


@dataclass(frozen=True)
class ImageSet:
    """Pictures read from a folder, in the order of their paths.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1]: a tensor, or `PictureFiles` if it were too large.
        paths: N files.
        labels: (N,) int64, 0 normal and 1 anomalous; None where the layout does not tell.
        kinds: N names of defect folders, "good" for normal; None where `labels` is.
        skipped: files that could not be read, and why.
    """

    images: Pictures
    paths: list[Path]
    labels: NDArray[np.int64] | None
    kinds: list[str] | None
    skipped: list[tuple[Path, str]]

    def with_channels(self, channels: int) -> "ImageSet":
        """The same set, grey (1) or RGB (3)."""
        images = self.images
        if isinstance(images, PictureFiles):
            return replace(self, images=images.with_channels(channels))
        assert isinstance(images, Tensor)
        return replace(self, images=with_channels(images, channels))


def read_folder(
    path: str | os.PathLike[str],
    *,
    image_size: Size | None,
    split: Literal["train", "test"] | None = None,
    kinds: Sequence[str] | None = None,
    channels: Literal["auto"] | int = "auto",
    on_error: Literal["raise", "skip"] = "raise",
    memory: float = MEMORY,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Reads all pictures below a folder, sorted by their paths relative to it.

    A folder with a subfolder `good` has MVTec AD's layout: its subfolders are kinds, and a picture
    is anomalous unless its kind is `good`. Any other folder is read as it is, without labels.
    Hidden files, files whose names are no picture's, and `ground_truth` folders are passed over;
    links to folders are followed, each folder once.

    Args:
        path: the folder.
        image_size: side or (height, width) to which every picture is resized; None keeps the
            sizes, which must then all be the same.
        split: what the pictures are for. With "train" or "test", `path` may be the root of an
            MVTec AD category, whose subfolder of that name is then read; "train" reads `good`
            alone.
        kinds: the subfolders to read, all if None.
        channels: 1, 3, or "auto": 1 if every file is grey, else 3.
        on_error: "raise" refuses the folder if a picture cannot be read; "skip" leaves such
            pictures out and lists them in `skipped`.
        memory: GiB of float32 pictures up to which they are kept in memory. Of more, each is read
            once to see that it can be, and then again whenever it is needed.
        progress: called with (pictures done, pictures in all) after each.

    Raises:
        InputError: the folder is missing, no folder, or without pictures; a kind does not exist;
            pictures cannot be read (all of them, under "skip") or differ in size.
    """
    if on_error not in ("raise", "skip"):
        raise InputError(f'on_error is {on_error!r}, expected "raise" or "skip".')
    if channels not in ("auto", 1, 3):
        raise InputError(f'channels is {channels!r}, expected 1, 3 or "auto".')
    if not memory >= 0:
        raise InputError(f"memory is {memory}, expected GiB, 0 or more.")
    folder = _choose(Path(path), split)
    kind_names = _kinds(folder, split, kinds)
    roots = [folder] if kind_names is None else [folder / name for name in kind_names]
    found = sorted((p for root in roots for p in _pictures(root)), key=_relative_to(folder))
    if not found:
        raise _no_pictures(folder)

    for root in roots if kinds is not None else ():
        if not any(root in file.parents for file in found):
            raise InputError(f"{root} holds no pictures. Leave it out of kinds.")
    wanted = None if channels == "auto" else channels
    images, paths, skipped = _read_all(found, wanted, image_size, memory, progress)
    if images is None or (skipped and on_error == "raise"):
        raise InputError(_complaint(folder, skipped, len(found), on_error))
    if kind_names is None:
        return ImageSet(images, paths, None, None, skipped)
    kinds_found = [file.relative_to(folder).parts[0] for file in paths]
    labels = np.array([kind != GOOD for kind in kinds_found], np.int64)
    return ImageSet(images, paths, labels, kinds_found, skipped)


def read_files(files: Sequence[str | os.PathLike[str]], *, memory: float = MEMORY) -> Pictures:
    """Reads pictures of one size in the order given, as `read_folder` does those of a folder.

    Raises:
        InputError: a file cannot be read, or the pictures differ in size.
    """
    paths = [Path(file) for file in files]
    images, _, skipped = _read_all(paths, None, None, memory, None)
    if images is None or skipped:
        raise InputError(skipped[0][1])
    return images


def list_pictures(path: str | os.PathLike[str]) -> list[Path]:
    """All picture files below a folder, sorted; what `read_folder` passes over is not among them.

    Raises:
        InputError: the folder is missing, may not be read, or holds no pictures.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"The folder {path} does not exist. Check the path.")
    found = sorted(_pictures(folder), key=_relative_to(folder))
    if not found:
        raise _no_pictures(folder)
    return found


def _no_pictures(folder: Path) -> InputError:
    return InputError(
        f"{folder} holds no pictures; expected files ending in {', '.join(sorted(SUFFIXES))}. "
        "Check the path."
    )


def _choose(path: Path, split: str | None) -> Path:
    """The folder that `split` means: `path` itself, or its subfolder if it is an MVTec root."""
    if not path.exists():
        raise InputError(f"The folder {path} does not exist. Check the path.")
    if not path.is_dir():
        raise InputError(f"{path} is a file, expected a folder of pictures. Name its folder.")
    if split not in (None, "train", "test"):
        raise InputError(f'split is {split!r}, expected "train", "test" or None.')
    if split is not None:
        return path / split if (path / split).is_dir() else path
    if (path / "train").is_dir() and (path / "test").is_dir():
        raise InputError(
            f"{path} holds both a train and a test folder. Name one of them, or set split."
        )
    return path


def _kinds(folder: Path, split: str | None, kinds: Sequence[str] | None) -> list[str] | None:
    """The subfolders to read, or None if the folder's layout is not MVTec AD's."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        _refuse(error)
    available = [entry.name for entry in entries if entry.is_dir() and entry.name != MASKS]
    if kinds is None and GOOD not in available:
        return None
    if kinds is None:
        chosen = [GOOD] if split == "train" else available
    elif isinstance(kinds, str) or not kinds:
        raise InputError(f"kinds is {kinds!r}, expected a list of at least one subfolder's name.")
    else:
        chosen = list(dict.fromkeys(kinds))
    unknown = [name for name in chosen if name not in available]
    if unknown:
        raise InputError(
            f"{folder} has no subfolder {', '.join(unknown)}. "
            f"Choose from: {', '.join(available) or '(it has no subfolders)'}."
        )
    loose = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in SUFFIXES]
    if loose:
        raise InputError(
            f"{folder} holds pictures beside its subfolders ({loose[0].name}), so their kind is "
            f"not known. Move them into {GOOD} or a folder named after the defect."
        )
    return chosen


def _pictures(root: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for where, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        status = os.stat(where)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != MASKS)
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(where, name)


def _refuse(error: OSError) -> NoReturn:
    raise InputError(
        f"The folder {error.filename} may not be read ({error.strerror}). Check its permissions."
    ) from error


def _relative_to(folder: Path) -> Callable[[Path], str]:
    return lambda file: file.relative_to(folder).as_posix()


def _read_all(
    files: list[Path],
    channels: int | None,
    image_size: Size | None,
    memory: float,
    progress: Callable[[int, int], None] | None,
) -> tuple[Pictures | None, list[Path], list[tuple[Path, str]]]:
    """Reads in threads; returns the pictures (None: there are none), their paths, and failures."""
    images: list[Tensor] = []
    shapes: list[torch.Size] = []
    paths: list[Path] = []
    skipped: list[tuple[Path, str]] = []
    kept, pixels, most = True, 0, 1
    read = partial(_read_or_reason, channels=channels, image_size=image_size)
    pool = ThreadPoolExecutor(READERS)
    try:
        for begin in range(0, len(files), BATCH):
            part = files[begin : begin + BATCH]
            for done, (file, result) in enumerate(
                zip(part, pool.map(read, part), strict=True), begin + 1
            ):
                if isinstance(result, Tensor):
                    shapes.append(result.shape)
                    paths.append(file)
                    pixels += result.shape[1] * result.shape[2]
                    most = max(most, result.shape[0])
                    if kept:
                        images.append(result)
                else:
                    skipped.append((file, result))
                if progress is not None:
                    progress(done, len(files))
            # What all will take, if the others are like these.
            if kept and paths and 4 * most * pixels / len(paths) * len(files) > memory * 2**30:
                kept = False
                images.clear()
    finally:  # Ctrl-C need not wait for the pictures not begun
        pool.shutdown(cancel_futures=True)
    if not paths:
        return None, paths, skipped
    for shape, file in zip(shapes, paths, strict=True):
        if shape[1:] != shapes[0][1:]:
            raise InputError(
                f"{file} is {shape[1]} x {shape[2]} pixels and {paths[0]} is {shapes[0][1]} x "
                f"{shapes[0][2]}; pictures of one size are expected where none is given. Set "
                "image_size."
            )
    if kept:
        return torch.stack([with_channels(image, most) for image in images]), paths, skipped
    height, width = shapes[0][1:]
    return PictureFiles(paths, (most, height, width), image_size is not None), paths, skipped


def _read_or_reason(file: Path, channels: int | None, image_size: Size | None) -> Tensor | str:
    try:
        return read_image(file, channels=channels, image_size=image_size)
    except InputError as error:
        return str(error)


def _complaint(folder: Path, bad: list[tuple[Path, str]], total: int, on_error: str) -> str:
    first = bad[0][1]
    if len(bad) == 1 and on_error == "raise":
        return f'{first} Or leave such pictures out with on_error="skip".'
    names = ", ".join(_relative_to(folder)(file) for file, _ in bad[:5])
    more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    advice = ' Or leave them out with on_error="skip".' if on_error == "raise" else ""
    return (
        f"{len(bad)} of {total} pictures in {folder} cannot be read: {names}{more}. {first}{advice}"
    )
