"""Scores for any number of picture files, a batch at a time."""

import csv
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from stssad_fast.cli.runs import CONFIG, MODEL, predicted, printable
from stssad_fast.datasets import list_pictures, read_image
from stssad_fast.errors import InputError
from stssad_fast.estimator import STSSAD

BATCH = 256


def load_model(run: Path, device: str) -> STSSAD:
    """The model of a run folder, or in a file.

    Raises:
        InputError: there is none, or the run has not been finished.
    """
    if run.is_dir():
        if not (run / MODEL).exists():
            advice = (
                f"the run is not finished; go on with stssad-fast tune --out {run} --resume"
                if (run / CONFIG).exists()
                else "expected the folder of a run, or a model file"
            )
            raise InputError(f"{run} holds no {MODEL}: {advice}")
        run = run / MODEL
    return STSSAD.load(run, device)


def find(files: Sequence[Path], on_error: str) -> list[Path]:
    """The files themselves, and for each folder the pictures below it.

    Raises:
        InputError: a folder holds no pictures; a file is missing, unless that is to be skipped.
    """
    found: list[Path] = []
    for path in files:
        if path.is_dir():
            found += list_pictures(path)
        elif on_error == "raise" and not path.exists():
            raise InputError(f"{path} does not exist. Check the name.")
        else:
            found.append(path)
    return found


def score(
    model: STSSAD,
    files: Sequence[Path],
    stream: TextIO,
    *,
    on_error: str,
    skipped: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> int:
    """Write a CSV of ``path,score,predicted`` in the order of ``files``, batch by batch.

    Args:
        model: fitted.
        files: pictures of any size; they are made as the model needs them.
        stream: gets the CSV.
        on_error: "raise" ends at the first picture that cannot be read, "skip" leaves it out.
        skipped: called with a sentence about each picture left out.
        progress: called with (pictures done, pictures in all) after each batch.

    Returns:
        The number of pictures scored.

    Raises:
        InputError: a picture cannot be read.
    """
    channels, height, width = model.image_shape_

    def read(path: Path) -> Tensor | InputError:
        try:
            return read_image(path, channels=channels, image_size=(height, width))
        except InputError as error:
            return error

    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", "score", "predicted"])
    scored = 0
    with ThreadPoolExecutor(4) as pool:
        for begin in range(0, len(files), BATCH):
            batch = files[begin : begin + BATCH]
            paths, images = [], []
            for path, image in zip(batch, pool.map(read, batch), strict=True):
                if isinstance(image, Tensor):
                    paths.append(path)
                    images.append(image)
                elif on_error == "raise":
                    raise image
                else:
                    skipped(str(image))
            if images:
                for path, value in zip(
                    paths, model.anomaly_scores(torch.stack(images)).tolist(), strict=True
                ):
                    writer.writerow(
                        [printable(path), repr(value), predicted(value, model.threshold_)]
                    )
                stream.flush()
            scored += len(images)
            progress(begin + len(batch), len(files))
    return scored
