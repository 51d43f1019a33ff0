"""Tables as Markdown and CSV; that of an experiment with the paper's figures beside ours."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from stssad_fast.experiments.paper import PaperTable
from stssad_fast.experiments.scores import NONE, Cell, Summary


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Attributes:
        name: of its place on the page, letters and "-".
        title, caption: what stands above it.
        header, rows: its cells; ``**`` around one makes it bold.
    """

    name: str
    title: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self, heading: bool = True) -> str:
        """The table in Markdown, under its title if ``heading``."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        title = f"## {self.title}" if heading else ""
        return "\n\n".join(part for part in (title, self.caption, text) if part) + "\n"


def p_text(p_value: float | None) -> str:
    """A p-value with four decimals."""
    if p_value is None:
        return NONE
    return "< 0.0001" if p_value < 5e-5 else f"{p_value:.4f}"


def paper_mean(summary: Summary, paper: PaperTable | None, method: str) -> float | None:
    """The paper's mean of `method`; None if it lacks one.

    Over the summary's tasks if the paper has all of them, else over the paper's if the summary has
    all of those.
    """
    if paper is None:
        return None
    tasks = paper.tasks if set(paper.tasks) < set(summary.tasks) else summary.tasks
    if not all((task, method) in paper.auc for task in tasks):
        return None
    return float(np.mean([paper.auc[task, method] for task in tasks]))


def paper_p_value(summary: Summary, paper: PaperTable | None, method: str) -> float | None:
    """The paper's p-value of `method`, over its tasks; None unless the summary has all of them."""
    if paper is None or not set(paper.tasks) <= set(summary.tasks):
        return None
    return paper.p_values.get(method)


def caption(summary: Summary, paper: PaperTable | None = None) -> str:
    """What the numbers of the table are, and how many runs it lacks."""
    expected = len(summary.tasks) * len(summary.methods) * len(summary.seeds)
    several = len(summary.seeds) > 1
    sentences = [
        f"AUC on the test pictures, {'mean ± standard deviation' if several else 'one run'}"
        f"{f' over {len(summary.seeds)} seeds' if several else ''}; the best of a row is bold.",
        f"{len(summary.runs)} of {expected} runs are in the table."
        if len(summary.runs) == expected
        else f"Only {len(summary.runs)} of {expected} runs are in the table: [n/m] marks a number "
        f"from n runs instead of m, {NONE} one without any; it is bold only if all of its row lack "
        "some.",
    ]
    if summary.comparisons:
        sentences.append(
            f"p-value: one-sided paired Wilcoxon signed-rank test that {summary.ours} is better "
            "than the method, over all pairs of runs of one task and seed."
        )
    if paper is not None:
        more = set(paper.tasks) < set(summary.tasks)
        sentences.append(
            "In parentheses: what the paper prints for the same tasks"
            + (
                f"; its means and p-values are over its {len(paper.tasks)} tasks alone." * more
                or "."
            )
        )
    return " ".join(sentences)


def markdown(summary: Summary, paper: PaperTable | None = None) -> str:
    """The table in Markdown, its caption above it.

    Args:
        summary: What to show.
        paper: The paper's table, to be set in parentheses behind our numbers.
    """

    def strong(cell: Cell, best: bool, printed: float | None) -> str:
        text = f"**{cell}**" if best else str(cell)
        return text if printed is None else f"{text} ({printed:.3f})"

    rows = [["Task", *summary.methods], ["---", *["---:"] * len(summary.methods)]]
    for task in summary.tasks:
        best = summary.best(task)
        rows.append(
            [
                task,
                *(
                    strong(
                        summary.cells[task, m],
                        m in best,
                        paper.auc.get((task, m)) if paper else None,
                    )
                    for m in summary.methods
                ),
            ]
        )
    best = summary.best()
    rows.append(
        [
            "mean",
            *(
                strong(summary.means[m], m in best, paper_mean(summary, paper, m))
                for m in summary.methods
            ),
        ]
    )
    if summary.comparisons:
        p_values, pairs = ["p-value"], ["pairs"]
        for method in summary.methods:
            comparison = summary.comparisons.get(method)
            printed = paper_p_value(summary, paper, method)
            p_values.append(
                "ours"
                if comparison is None
                else p_text(comparison.p_value)
                + (f" ({p_text(printed)})" if printed is not None else "")
            )
            pairs.append("" if comparison is None else str(comparison.pairs))
        rows += [p_values, pairs]
    lines = ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
    return "\n".join([caption(summary, paper), "", *lines]) + "\n"


def runs_csv(summary: Summary) -> str:
    """One line per task, method and seed; the AUC of a run that is missing is empty."""
    return csv_text(
        ["task", "method", "seed", "auc"],
        (
            [task, method, seed, summary.runs.get((task, method, seed))]
            for task in summary.tasks
            for method in summary.methods
            for seed in summary.seeds
        ),
    )


def summary_csv(summary: Summary, paper: PaperTable | None = None) -> str:
    """One line per task and method, then (task "mean") one per method, with its p-value."""
    lines: list[list[object]] = []
    for task in summary.tasks:
        for method in summary.methods:
            cell = summary.cells[task, method]
            printed = paper.auc.get((task, method)) if paper else None
            lines.append([task, method, cell.mean, cell.std, cell.runs, cell.expected, printed])
    for method in summary.methods:
        cell, comparison = summary.means[method], summary.comparisons.get(method)
        line = ["mean", method, cell.mean, None, cell.runs, cell.expected]
        line.append(paper_mean(summary, paper, method))
        lines.append([*line, *((comparison.p_value, comparison.pairs) if comparison else ())])
    header = ["task", "method", "mean", "std", "runs", "expected", "paper", "p_value", "pairs"]
    return csv_text(header, ([*line, *[None] * (len(header) - len(line))] for line in lines))


def _plain(text: str) -> str:
    """Text that does not end a cell of a Markdown table."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def csv_text(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Rows as CSV, ``header`` first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
