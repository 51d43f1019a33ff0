"""The commands ``experiment NAME``: what is asked for becomes a plan, and its run a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

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
    tell,
)
from stssad_fast.cli.experiment import app as app
from stssad_fast.cli.tune import assigned
from stssad_fast.errors import InputError
from stssad_fast.experiments import methods as known
from stssad_fast.experiments import plans, settings
from stssad_fast.experiments.gallery import gallery as draw_gallery
from stssad_fast.experiments.gallery import gallery_picture
from stssad_fast.experiments.jobs import Job
from stssad_fast.experiments.lemma import loss_grid
from stssad_fast.report import results
from stssad_fast.report.paper_figures import gallery as gallery_figure
from stssad_fast.report.paper_figures import lemma as lemma_figure
from stssad_fast.report.plot import Plot
from stssad_fast.report.results import saved_figures, write_figures, write_results

Methods = Annotated[
    str | None,
    typer.Option(
        help=f"Columns, separated by commas, of {', '.join(known.METHODS)}.",
        show_default="those of the paper's table",
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(help="Rows to do, separated by commas, as the table names them. Default: all."),
]
Preset = Annotated[
    Literal["small", "paper"],
    typer.Option(
        help="Sizes of pictures, network and training: for a CPU, or the paper's (Appendix C)."
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help=f"A pretrained network in place of the ResNet: {', '.join(known.BACKBONES)}; needs "
        "the extra stssad-fast[pretrained]."
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A parameter of STSSAD, in JSON, for all methods that have it; may be repeated.",
    ),
]
Selection = Annotated[
    results.Selection | None,
    typer.Option(
        help="Which start is kept, or all of them together; changes the tables, no job. "
        "[default: score_shift, with --preset paper score_variance]",
        show_default=False,
    ),
]


def _read(experiment: str, name: str, help: str, least: int) -> Any:
    """An option on what is read, whose absence is None: the preset tells then."""
    small, paper = (settings.PICTURES[experiment][preset][name] for preset in ("small", "paper"))
    return typer.Option(help=help, min=least, show_default=f"{small}, with --preset paper {paper}")


@app.command(
    epilog="""Examples:

```
stssad-fast experiment defects --data mvtec --out runs/defects
stssad-fast experiment defects --data mvtec/cable --methods RD-CD,ST-SSAD --seeds 3 --out runs/cable
stssad-fast experiment defects --data mvtec/cable --data mvtec/carpet --data mvtec/grid \\
    --data mvtec/tile --preset paper --ray auto --gpus-per-job 0.25 --out runs/paper
```
"""
)
def defects(
    data: Annotated[
        list[Path],
        typer.Option(
            help="A category in MVTec AD's layout, or a folder of several; may be repeated."
        ),
    ],
    out: Out,
    methods: Methods = None,
    tasks: Tasks = None,
    seeds: Seeds = 5,
    preset: Preset = "small",
    image_size: Annotated[int | None, _read("defects", "image_size", "Side in pixels.", 16)] = None,
    channels: Annotated[int | None, _read("defects", "channels", "1: grey; 3: RGB.", 1)] = None,
    backbone: Backbone = None,
    assignments: Assignments = None,
    selection: Selection = None,
    jobs: Jobs = None,
    ray: RayAddress = None,
    gpus_per_job: GpusPerJob = 0.0,
    cpus_per_job: CpusPerJob = 1,
    quiet: Quiet = False,
) -> None:
    """Table 1: defects of surfaces and objects, tuned with CutDiff.

    Every subfolder of test/ but good is a task. AUC of every method over the seeds, with p-values.
    """
    if channels not in (None, 1, 3):
        raise InputError(f"--channels is {channels}, expected 1 or 3")
    read = _pictures("defects", preset, image_size=image_size, channels=channels)
    parts = plans.defects(data, **read)
    shared = _parameters("defects", preset, assignments, backbone)
    planned = plans.plan(parts, _names(methods, plans.DEFECTS), range(seeds), shared, _list(tasks))
    rule = _rule(selection, preset)
    how = How(jobs, ray, gpus_per_job, cpus_per_job, quiet)
    _perform("defects", out, planned, rule, _list(tasks), how)


@app.command(
    epilog="""Examples:

```
stssad-fast experiment semantic --out runs/digits
stssad-fast experiment semantic --data svhn --preset paper --out runs/svhn
stssad-fast experiment semantic --data fashion.npz --normal 2,6 --image-size 28 --out runs/fashion
```
"""
)
def semantic(
    out: Out,
    data: Annotated[
        str,
        typer.Option(
            help="Folder with the files of MNIST, Fashion-MNIST, SVHN or CIFAR-10, an .npz file "
            "with train_images, train_labels, test_images and test_labels, or digits: the small "
            "ones that come with scikit-learn."
        ),
    ] = "digits",
    normal: Annotated[
        str, typer.Option(help="Classes that are normal, each in tasks of its own.")
    ] = "2,6",
    methods: Methods = None,
    tasks: Tasks = None,
    seeds: Seeds = 5,
    preset: Preset = "small",
    image_size: Annotated[
        int | None, _read("semantic", "image_size", "Side in pixels.", 16)
    ] = None,
    train_limit: Annotated[
        int | None, _read("semantic", "train_limit", "Training pictures, at most.", 2)
    ] = None,
    test_limit: Annotated[
        int | None, _read("semantic", "test_limit", "Test pictures of a class, at most.", 2)
    ] = None,
    assignments: Assignments = None,
    selection: Selection = None,
    jobs: Jobs = None,
    ray: RayAddress = None,
    gpus_per_job: GpusPerJob = 0.0,
    cpus_per_job: CpusPerJob = 1,
    quiet: Quiet = False,
) -> None:
    """Table 2: one class is normal, another one anomalous; tuned with a rotation."""
    try:
        classes = [int(text) for text in normal.split(",")]
    except ValueError as error:
        raise InputError(f"--normal is {normal!r}, expected class numbers like 2,6") from error
    limits = {"train_limit": train_limit, "test_limit": test_limit}
    read = _pictures("semantic", preset, image_size=image_size, **limits)
    parts = plans.semantic(data, classes, **read)
    shared = _parameters("semantic", preset, assignments)
    planned = plans.plan(parts, _names(methods, plans.SEMANTIC), range(seeds), shared, _list(tasks))
    rule = _rule(selection, preset)
    how = How(jobs, ray, gpus_per_job, cpus_per_job, quiet)
    _perform("semantic", out, planned, rule, _list(tasks), how)


@app.command(
    epilog="""Examples:

```
stssad-fast experiment demonstrative --out runs/made
stssad-fast experiment demonstrative --data mvtec/carpet --preset paper --out runs/carpet
```
"""
)
def demonstrative(
    out: Out,
    data: Annotated[
        str,
        typer.Option(
            help="A category in MVTec AD's layout, whose good pictures are used, or a surface that "
            "comes with scikit-image: brick, grass, gravel."
        ),
    ] = "gravel",
    tasks: Tasks = None,
    seeds: Seeds = 5,
    preset: Preset = "small",
    image_size: Annotated[
        int | None, _read("demonstrative", "image_size", "Side in pixels.", 16)
    ] = None,
    train_limit: Annotated[
        int | None, _read("demonstrative", "train_limit", "Training pictures, at most.", 2)
    ] = None,
    test_limit: Annotated[
        int | None,
        _read("demonstrative", "test_limit", "Test pictures, good ones and as many anomalous.", 2),
    ] = None,
    assignments: Assignments = None,
    selection: Selection = None,
    jobs: Jobs = None,
    ray: RayAddress = None,
    gpus_per_job: GpusPerJob = 0.0,
    cpus_per_job: CpusPerJob = 1,
    quiet: Quiet = False,
) -> None:
    """Fig. 3: CutDiff makes 25 kinds of anomalies, and its size and aspect are to be found."""
    limits = {"train_limit": train_limit, "test_limit": test_limit}
    read = _pictures("demonstrative", preset, image_size=image_size, **limits)
    parts = plans.demonstrative(data, **read)
    shared = _parameters("demonstrative", preset, assignments)
    planned = plans.plan(parts, [known.OURS], range(seeds), shared, _list(tasks))
    rule = _rule(selection, preset)
    how = How(jobs, ray, gpus_per_job, cpus_per_job, quiet)
    _perform("demonstrative", out, planned, rule, _list(tasks), how)


@app.command(epilog="Example: `stssad-fast experiment lemma --out runs/lemma`")
def lemma(
    out: Out,
    points: Annotated[
        int, typer.Option(min=5, max=401, help="Points along each axis of the grid.")
    ] = 41,
) -> None:
    """Fig. 7: the validation loss of four points, least where the sets are aligned."""
    grid = loss_grid(points)
    u1, u2, least = grid.minimum
    sentence = (
        f"L_val is least, {least:.6f}, at u1 = {u1:g}, u2 = {u2:g}; the negative gradient leads "
        f"towards (0, 0) from {grid.inward:.2%} of the other points."
    )
    plot = Plot(
        "lemma",
        "L_val of four points",
        "Z_trn = {0}, Z_aug = {2}, Z_test = {u1, 2 + u2}; arrows: the negative gradient. The sets "
        "are aligned at (0, 0). At (1, -1) both test points lie halfway, and the gradient is 0.",
        lemma_figure(grid),
    )
    page = write_figures(out, "The validation loss of four points (Fig. 7)", [plot], [sentence])
    terminal().print(sentence, soft_wrap=True)
    tell(page)


@app.command(
    epilog="""Examples:

```
stssad-fast experiment gallery --out runs/gallery
stssad-fast experiment gallery --image tile.png --runs runs/defects --runs runs/digits \\
    --out runs/gallery
```
"""
)
def gallery(
    out: Out,
    image: Annotated[
        Path | None, typer.Option(help="A picture. Default: bricks, from scikit-image.")
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(help="Runs of defects or semantic, for the augmentations that they learned."),
    ] = None,
) -> None:
    """Fig. 5, 6, 8: CutPaste, CutOut and CutDiff over sizes, and what runs have learned."""
    plot = Plot(
        "gallery",
        "CutPaste, CutOut and CutDiff over sizes",
        "The same centre in every picture; CutDiff alone has a soft edge, and so a derivative.",
        gallery_figure(draw_gallery(gallery_picture(image))),
    )
    names = [run.resolve().name for run in runs or []]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(
            f"two of the runs are called {twice[0]}, so their figures would be; rename a folder, "
            "or give each once"
        )
    learned = [figure for run in runs or [] for figure in saved_figures(run)]
    tell(write_figures(out, "Augmentations (Fig. 5, 6 and 8)", [plot, *learned]))


def _parameters(
    name: str, preset: str, assignments: Sequence[str] | None, backbone: str | None = None
) -> dict[str, dict[str, Any]]:
    if backbone is not None and backbone not in known.BACKBONES:
        raise InputError(f"--backbone is {backbone}, expected one of {', '.join(known.BACKBONES)}")
    return settings.parameters(
        name, preset, assigned(assignments or [], {}, settings.KNOWN), backbone
    )


def _pictures(name: str, preset: str, **given: int | None) -> dict[str, Any]:
    """What is read: as the preset says, unless it was given."""
    found = {key: value for key, value in given.items() if value is not None}
    return settings.PICTURES[name][preset] | found


def _perform(
    name: str,
    out: Path,
    jobs: Sequence[Job],
    selection: results.Selection,
    tasks: Sequence[str] | None,
    how: How,
) -> None:
    """:func:`perform` with the tables of an experiment; a folder has one kind of pictures."""
    readers = {job.config["data"]["reader"] for job in jobs}
    perform(
        jobs,
        out,
        known.work,
        how,
        lambda config: config.get("data", {}).get("reader") in readers,
        lambda store: write_results(name, out, jobs, store, selection, tasks),
    )


def _rule(selection: results.Selection | None, preset: str) -> results.Selection:
    return selection or ("score_variance" if preset == "paper" else "score_shift")


def _names(given: str | None, default: Sequence[str]) -> list[str]:
    return _list(given) or list(default)


def _list(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]
