"""The command ``study``: which augmentation finds which anomalies, over a whole catalogue."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import typer

from stssad_fast.augment import catalogue
from stssad_fast.augment.catalogue import Named
from stssad_fast.cli.console import Quiet
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
from stssad_fast.experiments import recommending
from stssad_fast.experiments import study as studies
from stssad_fast.experiments.hyperparameters import DETECTOR as VARIED
from stssad_fast.experiments.jobs import Job
from stssad_fast.experiments.methods import BACKBONES
from stssad_fast.experiments.plans import Part
from stssad_fast.experiments.problems import DIGITS, labelled
from stssad_fast.experiments.study import Comparison
from stssad_fast.experiments.testbeds import GENERATORS, IDENTITY, SWEEP, testbeds
from stssad_fast.recommendation import CANDIDATES
from stssad_fast.report.study import write_study

PARTS = ("testbeds", "sweep", "hyperparameters", "mmd", "recommend")


def study(
    out: Out,
    data: Annotated[
        str,
        typer.Option(
            help="Folder with the files of MNIST, Fashion-MNIST, SVHN or CIFAR-10, an .npz file "
            "with train_images, train_labels, test_images and test_labels, or digits: the small "
            "ones that come with scikit-learn."
        ),
    ] = DIGITS,
    parts: Annotated[
        str,
        typer.Option(
            help="What to do, separated by commas. testbeds: every augmentation, against anomalies "
            "that --generators make and against every other class (Table 1, Fig. 2 to 8); sweep: "
            "CutOut of nine sizes against anomalies by CutOut (Fig. 4a); hyperparameters: DAE with "
            "every augmentation under 16 settings (Fig. 4b), 16 times as many jobs as DAE has in "
            "testbeds; mmd: distances of pictures, without training (Table 2); recommend: whether "
            "what the command recommend ranks first, without labels, is best."
        ),
    ] = "testbeds",
    normal: Annotated[
        str | None,
        typer.Option(help="Classes that are normal, each by itself.", show_default="all"),
    ] = None,
    detectors: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(
        studies.DETECTORS
    ),
    augmentations: Annotated[
        str | None,
        typer.Option(
            help="Separated by commas, each with settings if need be: cutout,noise:std=0.2. Those "
            "without one, AE and DeepSVDD, are always there.",
            show_default="all of the catalogue",
        ),
    ] = None,
    generators: Annotated[
        str, typer.Option(help="What makes the anomalies of the controlled testbed.")
    ] = ",".join(GENERATORS),
    seeds: Seeds = 1,
    preset: Annotated[
        Literal["small", "paper"],
        typer.Option(help="Sizes of networks and training: for a CPU, or the paper's."),
    ] = "small",
    image_size: Annotated[int, typer.Option(help="Side in pixels.", min=16)] = 16,
    train_limit: Annotated[int, typer.Option(help="Training pictures, at most.", min=2)] = 500,
    test_limit: Annotated[int, typer.Option(help="Test pictures of a class.", min=2)] = 200,
    encoder: Annotated[
        str,
        typer.Option(help=f"Network of the distances: {', '.join(BACKBONES)}."),
    ] = "efficientnet_lite0",
    jobs: Jobs = None,
    ray: RayAddress = None,
    gpus_per_job: GpusPerJob = 0.0,
    cpus_per_job: CpusPerJob = 1,
    quiet: Quiet = False,
) -> None:
    """The study "Data Augmentation is a Hyperparameter": detectors × augmentations × anomalies.

    Every detector is trained with every augmentation on one class, and finds anomalies made by
    known augmentations, or pictures of other classes. The page has AUCs, what each augmentation is
    worth beside AE and DeepSVDD, single cases, and the study's findings in the run's numbers. A run
    may be widened: what is done is not done again.
    """
    chosen = _parts(parts)
    classes = _classes(data, normal)
    every = [Named.parse(text) for text in _list(augmentations) or catalogue.NAMES]
    every = [IDENTITY, *(augmentation for augmentation in every if augmentation != IDENTITY)]
    places = testbeds(data, classes, image_size, train_limit, test_limit, _list(generators))
    comparisons = [Comparison(places, _list(detectors), every)] if "testbeds" in chosen else []
    if "sweep" in chosen:
        if "cutout" not in _list(generators):
            raise InputError("the sweep is of anomalies by CutOut; add cutout to --generators")
        comparisons.append(_sweep(places, _list(detectors)))
    if "hyperparameters" in chosen:
        varied = studies.HYPERPARAMETERS[preset]
        comparisons.append(Comparison(places, [VARIED], every, varied))
    planned: list[Job] = []
    if comparisons:
        planned += studies.plan(comparisons, range(seeds), studies.PRESETS[preset])
    if "mmd" in chosen:
        planned += studies.plan_distances(places, every, encoder)
    if "recommend" in chosen:
        candidates = CANDIDATES if augmentations is None else every[1:]
        planned += recommending.plan(places, candidates, range(seeds), {})
    perform(
        planned,
        out,
        studies.work,
        How(jobs, ray, gpus_per_job, cpus_per_job, quiet),
        lambda config: bool({"detector", "encoder", "candidate"} & set(config)),
        lambda store: write_study(out, planned, store),
    )


def _sweep(made: Sequence[Part], detectors: Sequence[str]) -> Comparison:
    """CutOut-c for every c, with the first detector that has a vanilla form."""
    able = [name for name in detectors if getattr(studies.DETECTORS.get(name), "vanilla", None)]
    if not able:
        raise InputError(
            "the sweep compares with AE or DeepSVDD; add DAE or DeepSAD to --detectors"
        )
    squares = [Named("cutout", {"size": size}) for size in SWEEP]
    return Comparison(made, able[:1], [IDENTITY, *squares])


def _parts(text: str) -> list[str]:
    chosen = _list(text)
    if wrong := [part for part in chosen if part not in PARTS] or ([] if chosen else [text]):
        raise InputError(f"--parts has {wrong[0]!r}; choose from {', '.join(PARTS)}")
    return chosen


def _classes(data: str, normal: str | None) -> list[int]:
    if normal is None:
        if data == DIGITS:
            return list(range(10))
        return [int(label) for label in np.unique(labelled(data)[1].labels)]
    try:
        return list(dict.fromkeys(int(part) for part in _list(normal)))
    except ValueError as error:
        raise InputError(f"--normal is {normal!r}, expected class numbers like 2,6") from error


def _list(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
