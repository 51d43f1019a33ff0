"""From the folder of an experiment to its tables, figures and page."""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stssad_fast.checkpoint import write_text
from stssad_fast.errors import InputError
from stssad_fast.experiments import outcomes, paper
from stssad_fast.experiments.jobs import Job
from stssad_fast.experiments.methods import METHODS, starts
from stssad_fast.experiments.outcomes import Fit, chosen_auc, measured
from stssad_fast.experiments.problems import is_svhn
from stssad_fast.experiments.recovered import recovered, recovered_table
from stssad_fast.experiments.scores import CHANCE, Score, Summary, summarize
from stssad_fast.experiments.store import Record, Store
from stssad_fast.experiments.tables import markdown, runs_csv, summary_csv
from stssad_fast.folders import entries
from stssad_fast.report.experiment import ExperimentPage, Failure, write_page
from stssad_fast.report.learned import learned_plots, problem_of
from stssad_fast.report.plot import Plot, save_plots
from stssad_fast.tuning.selection import Rule

Selection = Literal[Rule, "ensemble"]

PAGE, TABLE, ABLATION, FIGURES = "index.html", "table.md", "ablation.md", "figures"
LEARNED = "learned.md"

TITLES = {
    "defects": "Defects, tuned with CutDiff",
    "semantic": "Classes, tuned with a rotation",
    "demonstrative": "Anomalies that CutDiff made",
}
PAPERS = {"defects": paper.DEFECTS, "semantic": paper.SEMANTIC}


def write_results(
    name: str,
    out: Path,
    jobs: Sequence[Job],
    store: Store,
    selection: Selection,
    tasks: Sequence[str] | None = None,
) -> Path:
    """Write what a run has come to so far: tables, figures and the page.

    Args:
        name: "defects", "semantic" or "demonstrative".
        out: folder of the run.
        jobs: its plan.
        store: what is known of them.
        selection: the rule that chooses among starts, or "ensemble" for all of them together.
        tasks: rows to show; None: all. A job that serves several tasks may know others, too.

    Returns:
        The page.

    Raises:
        InputError: a file cannot be written, or pictures for the figures are not there.
    """
    records = [store.done[job.key] for job in jobs if job.key in store.done]
    count = _starts(jobs)
    expected = _expected(jobs, tasks)
    together = partial(_together, {job.key: job for job in jobs}, store)
    judge = together if selection == "ensemble" else partial(chosen_auc, rule=selection)
    summary = summarize(outcomes.scores(records, count, judge), **expected)
    printed = _printed(name, jobs)
    write_text(out / TABLE, markdown(summary, printed) + "\n")
    write_text(out / "runs.csv", runs_csv(summary))
    write_text(out / "summary.csv", summary_csv(summary, printed))
    chosen = outcomes.ablation(records, count, together)
    if chosen:
        write_text(out / ABLATION, markdown(_ablation(chosen, expected)) + "\n")
    else:
        (out / ABLATION).unlink(missing_ok=True)
    rule: Rule = "score_shift" if selection == "ensemble" else selection
    fits = outcomes.fits(records, count)
    grids = [recovered_table(recovered(fits, rule))] if name == "demonstrative" else []
    for grid in grids:
        write_text(out / LEARNED, grid.markdown(heading=False))
    return write_run(
        out,
        TITLES[name],
        jobs,
        store,
        summary=summary,
        paper=printed,
        figures=learned_plots(name, jobs, store, fits, rule),
        settings=_settings(jobs, selection),
        grids=grids,
    )


def write_run(out: Path, title: str, jobs: Sequence[Job], store: Store, **content: Any) -> Path:
    """Write the page of a run, with ``content``, more fields of it, and its figures as files."""
    records = [store.done[job.key] for job in jobs if job.key in store.done]
    failed = [store.failed[job.key] for job in jobs if job.key in store.failed]
    page = ExperimentPage(
        title,
        command(),
        len(records),
        len(jobs) - len(records) - len(failed),
        [Failure(record.label, record.reason or "") for record in failed],
        machine=machine(),
        versions=ran(records),
        dates=dates(records),
        seconds=sum(record.seconds for record in records),
        **content,
    )
    plots = page.plots()
    save_plots(out / FIGURES, plots)
    for name in _shown(out / PAGE) - {plot.name for plot in plots}:  # of an earlier, larger plan
        for kind in ("svg", "png"):
            (out / FIGURES / f"{name}.{kind}").unlink(missing_ok=True)
    return write_page(out / PAGE, page)


def _shown(page: Path) -> set[str]:
    """Names of the figures of a page that was written earlier; none without one."""
    try:
        return set(re.findall(r'id="figure-([\w-]+)"', page.read_text(encoding="utf-8")))
    except (FileNotFoundError, UnicodeDecodeError):
        return set()


def write_figures(
    out: Path, title: str, figures: Sequence[Plot], notes: Sequence[str] = ()
) -> Path:
    """Write a page that has figures alone, and the figures as files.

    Raises:
        InputError: a file cannot be written, or the folder holds something else than such a page.
    """
    written = [PAGE, *(f"{FIGURES}/{figure.name}.png" for figure in figures)]
    if others := _others(out, written):
        raise InputError(
            f"{out} holds files that are not of this page ({others[0]}); choose a new folder as "
            "--out"
        )
    page = ExperimentPage(title, command(), 1, figures=figures, notes=notes, machine=machine())
    try:
        save_plots(out / FIGURES, figures)
    except OSError as error:
        raise InputError(
            f"cannot write to {out}: {error.strerror}; choose another --out"
        ) from error
    return write_page(out / PAGE, page)


def _others(folder: Path, written: Sequence[str]) -> list[str]:
    """What a folder holds besides what was written there; all of it if that is not complete."""
    ours = {PAGE, FIGURES} if all((folder / name).exists() for name in written) else set()
    return [name for name in entries(folder) if name not in ours]


def saved_figures(run: Path) -> list[Plot]:
    """What the runs' pages show of learned augmentations, from their files.

    Raises:
        InputError: the folder has none.
    """
    found = [run / FIGURES / f"{name}.png" for name in ("learned", "embeddings")]
    if not any(path.exists() for path in found):
        raise InputError(
            f"{run} has no figures of learned augmentations; expected the --out of defects or "
            "semantic, with ST-SSAD among its methods"
        )
    name = run.resolve().name
    return [
        Plot(f"{path.stem}-{name}", f"{path.stem.capitalize()}: {name}", "", path.read_bytes())
        for path in found
        if path.exists()
    ]


def command() -> str:
    """What was typed, in one line."""
    return shlex.join(["stssad-fast", *sys.argv[1:]])


def machine() -> dict[str, str]:
    """What this process runs on."""
    return {"system": f"{platform.system()} {platform.machine()}", "processor": _processor()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or "unknown"


def _starts(jobs: Sequence[Job]) -> int:
    tuned = [job for job in jobs if METHODS[job.config["method"]].kind == "tuned"]
    return len(starts(tuned[0].config["parameters"])) if tuned else 1


def _printed(name: str, jobs: Sequence[Job]) -> paper.PaperTable | None:
    """The paper's table, unless it is of other pictures: 2/6 is a task of many sets of digits."""
    if name == "semantic" and not all(is_svhn(job.sources["data"]) for job in jobs):
        return None
    table, tasks = PAPERS.get(name), _expected(jobs, None)["tasks"]
    return table if table and set(tasks) & set(table.tasks) else None


def _expected(jobs: Sequence[Job], tasks: Sequence[str] | None) -> dict[str, Any]:
    """Rows, columns and seeds of the plan, in its order."""
    known = dict.fromkeys(task for job in jobs for task in job.config["tasks"].values())
    return {
        "tasks": [task for task in known if tasks is None or task in tasks],
        "methods": list(dict.fromkeys(job.config["method"] for job in jobs)),
        "seeds": list(dict.fromkeys(job.config["seed"] for job in jobs)),
    }


def _ablation(chosen: Sequence[Score], expected: dict[str, Any]) -> Summary:
    methods = list(dict.fromkeys(score.method for score in chosen))
    return summarize(chosen, **{**expected, "methods": methods, "ours": methods[0]})


def _together(jobs: Mapping[str, Job], store: Store, fit: Fit) -> float | None:
    """AUC of all starts of a fit together; None where their scores are not in the folder.

    Nor can it be told from scores that are too large for the single precision they are kept in.
    """
    records = [record for record in fit.records if measured(record)["auc"] is not None]
    if not records:
        return CHANCE
    (name,) = records[0].config["tests"]
    try:
        scores = [store.arrays(record.key)[f"scores/{name}"] for record in records]
    except (InputError, KeyError):
        return None
    if not all(np.isfinite(each).all() for each in scores):
        return None
    labels = problem_of(jobs[records[0].key]).tests[name].labels
    return outcomes.ensemble_auc(fit, scores, labels)


def _settings(jobs: Sequence[Job], selection: Selection) -> dict[str, object]:
    def named(job: Job) -> dict[str, object]:
        method = METHODS[job.config["method"]]
        own = job.config["parameters"].items()
        return {f"{method.kind}: {k}": v for k, v in own if k not in method.parameters}

    return {"selection": selection, **shared_settings(jobs, named)}


def shared_settings(
    jobs: Sequence[Job], named: Callable[[Job], Mapping[str, object]]
) -> dict[str, str]:
    """Options of the pictures, and what ``named`` gives; where jobs differ, all that they have."""
    found: dict[str, dict[str, None]] = {}
    for job in jobs:
        options = {f"pictures: {k}": v for k, v in job.config["data"]["options"].items()}
        for key, value in (options | dict(named(job))).items():
            found.setdefault(key, {})[str(value)] = None
    return {key: ", ".join(values) for key, values in found.items()}


def ran(records: Sequence[Record]) -> dict[str, str]:
    """Versions of what computed the records, by name."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name in ("stssad_fast", "torch", "python"):
            found.setdefault(name, set()).add(str(record.about.get(name)))
    return {name: ", ".join(sorted(each)) for name, each in found.items()}


def dates(records: Sequence[Record]) -> str:
    """First and last day of the records, as it should be read; empty without any."""
    days = sorted({record.when[:10] for record in records})
    return "" if not days else days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
