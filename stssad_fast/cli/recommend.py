"""The command ``recommend``: which augmentation fits a user's pictures, without labels."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from stssad_fast.augment.catalogue import Named
from stssad_fast.cli.console import Quiet, terminal
from stssad_fast.cli.experiment import (
    CpusPerJob,
    GpusPerJob,
    How,
    Jobs,
    Out,
    RayAddress,
    Seeds,
    perform,
)
from stssad_fast.errors import InputError
from stssad_fast.experiments import problems, recommending
from stssad_fast.recommendation import CANDIDATES, Changing
from stssad_fast.report.recommending import write_recommendation


def recommend(
    train: Annotated[
        Path, typer.Option(help="Folder of normal pictures, or an MVTec AD category.")
    ],
    test: Annotated[
        Path, typer.Option(help="Folder of pictures to find anomalies in; labels are not needed.")
    ],
    out: Out,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Augmentations to compare, separated by commas, each with settings if need be: "
            "rotate,cutout:size=0.2,cutdiff:size=0.01:aspect=4.",
            show_default="all of the catalogue, and sizes of the local ones",
        ),
    ] = None,
    seeds: Seeds = 2,
    image_size: Annotated[int, typer.Option(help="Side in pixels.", min=16)] = 64,
    channels: Annotated[
        int | None, typer.Option(help="1: grey; 3: RGB.", show_default="what the files have")
    ] = None,
    on_error: Annotated[
        Literal["raise", "skip"], typer.Option(help="What to do about unreadable pictures.")
    ] = "raise",
    steps: Annotated[int, typer.Option(help="Updates of each detector.", min=2)] = 200,
    width: Annotated[int, typer.Option(help="Channels of its first stage.", min=1)] = 8,
    jobs: Jobs = None,
    ray: RayAddress = None,
    gpus_per_job: GpusPerJob = 0.0,
    cpus_per_job: CpusPerJob = 1,
    quiet: Quiet = False,
) -> None:
    """Rank augmentations by how well they fit your pictures. No labels.

    For each candidate a detector learns to tell normal pictures from augmented ones; the better the
    augmentation resembles the anomalies, the farther the test set lies from normal pictures that
    were held out. The page shows the evidence.
    """
    if channels not in (None, 1, 3):
        raise InputError(f"--channels is {channels}, expected 1 or 3")
    chosen = list(CANDIDATES)
    if candidates is not None:
        chosen = [Named.parse(text) for text in candidates.split(",") if text.strip()]
        if not chosen:
            raise InputError("--candidates names none; name one, or leave it out to compare all")
        if len({str(each) for each in chosen}) < len(chosen):
            raise InputError("--candidates names one twice; name each once")
    for each in chosen:
        Changing(each)
    part = recommending.folders(train, test, image_size, channels, on_error)
    planned = recommending.plan([part], chosen, range(seeds), {"steps": steps, "width": width})
    for reason in problems.read(part.reader, part.source, part.options).skipped:
        terminal(stderr=True, quiet=quiet).print(Text(f"Skipped: {reason}"), soft_wrap=True)
    perform(
        planned,
        out,
        recommending.work,
        How(jobs, ray, gpus_per_job, cpus_per_job, quiet),
        lambda config: config.get("data", {}).get("reader") == "folders",
        lambda store: write_recommendation(out, planned, store),
    )
