"""Two problems on pictures that come with dependencies: digits and rotation, bricks and CutDiff."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from stssad_fast.checkpoint import write_text
from stssad_fast.cli.console import TuningDisplay, summary
from stssad_fast.cli.runs import results
from stssad_fast.datasets import Split, load_digits, load_textures
from stssad_fast.errors import InputError
from stssad_fast.estimator import STSSAD
from stssad_fast.folders import entries
from stssad_fast.report import ReportCase, write_combined

MARK = "demo.json"
REPORT = "report.html"
FORMAT = "stssad_fast demo 1"

ANGLE, TOLERANCE = 180.0, 10.0  # degrees: what turns a 6 into a 9


@dataclass(frozen=True)
class Case:
    """One problem of the demo.

    Attributes:
        name: of its files.
        title, note: for the terminal and the report.
        load: reads the pictures.
        parameters: of :class:`STSSAD`.
    """

    name: str
    title: str
    note: str
    load: Callable[[], Split]
    parameters: dict[str, Any]


# Small pictures and a narrow network: both cases end within three minutes on one core. For the
# digits, smoothed labels keep the second-order gradient alive and the schedule ends the wandering
# of Adam (docs/method.md). On so little work a second thread gains little, and where cores are
# busy it loses much; with one, the result does not depend on their number.
THREADS = 1
CASES = (
    Case(
        "digits",
        "Digits and rotation",
        "Handwritten digits of scikit-learn: 6 is normal, 9 is the unknown anomaly. Nobody tells "
        "the method what the anomalies are; a 6 turned by 180° is a 9, so that is the angle to be "
        "found.",
        lambda: load_digits(6, 9, image_size=24),
        {
            "augmentation": "rotation",
            "width": 4,
            "warm_up": 80,
            "iterations": 80,
            "learning_rate": 0.02,
            "label_smoothing": 0.2,
            "hyper_learning_rate": 0.1,
            "hyper_schedule": "cosine",
        },
    ),
    Case(
        "bricks",
        "Bricks and CutDiff",
        "Crops of a photograph of a brick wall that comes with scikit-image. Holes are drawn into "
        "half of the test crops; the method has to find how large a patch resembles them.",
        lambda: load_textures("brick", kind="hole", image_size=24),
        {
            "augmentation": "cutdiff",
            "width": 4,
            "warm_up": 30,
            "iterations": 60,
            "learning_rate": 0.02,
            "hyper_learning_rate": 0.05,
        },
    ),
)
QUICK: dict[str, Any] = {"warm_up": 2, "iterations": 3}


def run(folder: Path, quick: bool, out: Console, err: Console) -> Path:
    """Tune every case, write models, results and the report, and tell what was found.

    Args:
        folder: of the report; files of an earlier demo are replaced, at the end.
        quick: a few steps only.
        out, err: for the summary and for progress.

    Returns:
        The report.

    Raises:
        InputError: the folder holds something else, or cannot be written to.
    """
    _claim(folder)
    torch.set_num_threads(THREADS)
    pages, found = [], {}
    for number, case in enumerate(CASES, 1):
        out.print(f"{number}/{len(CASES)} {case.title}", style="bold")
        out.print(case.note)
        split = case.load()
        model = STSSAD(**case.parameters | (QUICK if quick else {}), random_state=0)
        with TuningDisplay(err) as display:
            model.fit(split.train_images, split.test_images, callback=display)
        model.save(folder / f"{case.name}.safetensors")
        found[case.name] = results(model, split.test_labels)
        pages.append(
            ReportCase(
                case.title,
                model,
                split.train_images,
                split.test_images,
                split.test_labels,
                split.test_kinds,
                notes=[case.note, *(["Made in a few steps, with --quick."] if quick else [])],
            )
        )
    write_text(folder / MARK, json.dumps({"format": FORMAT, "cases": found}, indent=2) + "\n")
    report = write_combined(folder / REPORT, pages, "Two self-tuned detectors")
    for case in CASES:
        out.print(f"\n{case.title}", style="bold")
        summary(out, found[case.name])
        if case.name == "digits":
            right, sentence = angle_verdict(found[case.name])
            out.print(sentence, style="bold green" if right else "bold red")
    return report


def angle_verdict(found: dict[str, Any]) -> tuple[bool, str]:
    """Whether the angle in the results is the one that turns a 6 into a 9, and a sentence."""
    angle = found["starts"][found["chosen"]]["final"]["angle"]
    expected = f"{ANGLE:.0f}° ± {TOLERANCE:.0f}°"
    if abs(angle - ANGLE) <= TOLERANCE:
        return True, f"Angle found: {angle:.1f}°, within the {expected} that turn a 6 into a 9."
    return False, f"Angle found: {angle:.1f}°, not within the {expected} that turn a 6 into a 9."


def _claim(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = entries(folder)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error}; choose another --out") from error
    if found and MARK not in found:
        raise InputError(f"{folder} holds files that are no demo's ({found[0]}); choose another")
    if not found:
        write_text(folder / MARK, json.dumps({"format": FORMAT}) + "\n")
