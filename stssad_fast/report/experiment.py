"""One HTML page about an experiment, finished or not: its table, its figures and how it was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stssad_fast.checkpoint import write_text
from stssad_fast.devices import versions
from stssad_fast.experiments.paper import PaperTable
from stssad_fast.experiments.scores import NONE, Summary
from stssad_fast.experiments.tables import Grid, caption, p_text, paper_mean, paper_p_value
from stssad_fast.report.page import environment
from stssad_fast.report.plot import Plot
from stssad_fast.report.table_figures import auc_dots, differences


@dataclass(frozen=True)
class Failure:
    """A job that failed.

    Attributes:
        label: The job, as people call it.
        reason: What went wrong.
    """

    label: str
    reason: str


@dataclass(frozen=True)
class ExperimentPage:
    """What the page says.

    Attributes:
        title: Heading.
        command: What was typed to run it.
        done, left: Numbers of jobs that are done and that are still to do; the failed ones are
            `len(failures)`.
        failures: Jobs that failed.
        summary: The table; None for an experiment without one.
        paper: The paper's table, to be set beside it.
        figures: Further figures, in order; their names start with a letter and differ.
        settings: What the experiment was set to, by name.
        machine: What it ran on, e.g. processor, memory, operating system.
        versions: Versions of what ran. Default: those of this process.
        dates: First and last day of the runs, or nothing, as it should be read.
        seconds: Time that the jobs took together.
        notes: Sentences to print under the heading.
        grids: Further tables, in order, above the figures.
        footer: Sentence at the end of the page.
    """

    title: str
    command: str
    done: int
    left: int = 0
    failures: Sequence[Failure] = ()
    summary: Summary | None = None
    paper: PaperTable | None = None
    figures: Sequence[Plot] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)
    dates: str = ""
    seconds: float | None = None
    notes: Sequence[str] = ()
    grids: Sequence[Grid] = ()
    footer: str = (
        "ST-SSAD tunes augmentations without labels; labels serve only to measure the AUC of what "
        "came of it."
    )

    def plots(self) -> list[Plot]:
        """All figures of the page: those of the table, then the further ones."""
        summary = self.summary
        if summary is None or not summary.runs:
            return list(self.figures)
        compared = (
            f"The bar is {summary.ours}'s mean on the same task; orange: the method is ahead of "
            "it. "
            if summary.comparisons
            else ""
        )
        plots = [
            Plot(
                "auc",
                "Every task and method",
                "AUC on the test pictures: large dots are means over the seeds, small ones single "
                f"runs. {compared}Dashed: chance.",
                auc_dots(summary),
            )
        ]
        if any(c.pairs for c in summary.comparisons.values()):
            plots.append(
                Plot(
                    "differences",
                    f"How far {summary.ours} is ahead",
                    "Each circle is a task, the bar the median task. p-value: one-sided paired "
                    f"Wilcoxon signed-rank test that {summary.ours} is better, over all pairs of "
                    "runs of one task and seed.",
                    differences(summary),
                )
            )
        return [*plots, *self.figures]


def write_page(path: str | Path, page: ExperimentPage) -> Path:
    """Write `page` as a single self-contained HTML file, which appears complete or not at all.

    Raises:
        InputError: The file cannot be written.
        ValueError: Two figures have the same name.
    """
    plots = page.plots()
    names = [plot.name for plot in plots]
    if len(set(names)) != len(names):
        raise ValueError(f"figures must differ in their names, got {', '.join(names)}")
    total = page.done + page.left + len(page.failures)
    html = (
        environment()
        .get_template("experiment.html.j2")
        .render(
            page=page,
            total=total,
            rows=_rows(page.summary, page.paper) if page.summary is not None else [],
            p_values=_p_values(page.summary, page.paper) if page.summary is not None else [],
            caption=caption(page.summary, page.paper) if page.summary is not None else "",
            plots=plots,
        )
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, html)
    return path


@dataclass(frozen=True)
class _Number:
    mean: str
    std: str
    lacking: str
    paper: str
    best: bool


def _rows(summary: Summary, paper: PaperTable | None) -> list[tuple[str, list[_Number]]]:
    """(task, its numbers), and "mean" last."""
    rows = []
    for task in [*summary.tasks, None]:
        best, numbers = summary.best(task), []
        for method in summary.methods:
            cell = summary.means[method] if task is None else summary.cells[task, method]
            if task is None:
                printed = paper_mean(summary, paper, method)
            else:
                printed = paper.auc.get((task, method)) if paper else None
            numbers.append(
                _Number(
                    NONE if cell.mean is None else f"{cell.mean:.3f}",
                    "" if cell.std is None else f"±{cell.std:.3f}",
                    "" if cell.runs == cell.expected else f"[{cell.runs}/{cell.expected}]",
                    "" if printed is None else f"({printed:.3f})",
                    method in best,
                )
            )
        rows.append(("mean" if task is None else task, numbers))
    return rows


def _p_values(summary: Summary, paper: PaperTable | None) -> list[tuple[str, str, str]]:
    """(ours, the paper's, pairs) of every method, empty where there is none."""
    cells = []
    for method in summary.methods:
        comparison = summary.comparisons.get(method)
        printed = paper_p_value(summary, paper, method)
        cells.append(
            (
                "" if comparison is None else p_text(comparison.p_value),
                "" if printed is None else f"({p_text(printed)})",
                "" if comparison is None else str(comparison.pairs),
            )
        )
    return cells
