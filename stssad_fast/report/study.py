"""From the folder of a run of the study to its tables, figures and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stssad_fast.augment.catalogue import Named
from stssad_fast.checkpoint import write_text
from stssad_fast.experiments import study_tables as tables
from stssad_fast.experiments.findings import findings, is_cutout_c
from stssad_fast.experiments.hyperparameters import DETECTOR, varied
from stssad_fast.experiments.jobs import Job
from stssad_fast.experiments.relative import Relative
from stssad_fast.experiments.store import Record, Store
from stssad_fast.experiments.study import DETECTORS
from stssad_fast.experiments.study_results import (
    VANILLA,
    Result,
    augmentations,
    common,
    detectors,
    distance_table,
    generators,
    relatives,
    results,
    task_means,
)
from stssad_fast.experiments.tables import Grid
from stssad_fast.experiments.testbeds import SEMANTIC, generator_title
from stssad_fast.report.plot import Plot
from stssad_fast.report.recommending import agreement_table
from stssad_fast.report.results import TABLE, shared_settings, write_run
from stssad_fast.report.study_cases import case_plots, cases, sweep_plots
from stssad_fast.report.study_figures import class_bias, relative_auc

GRIDS = ("findings", "auc", "relative", "hyperparameters", "mmd", "recommend")
"""Names of the tables, each of which is a file, too, if it has rows."""


def write_study(out: Path, jobs: Sequence[Job], store: Store) -> Path:
    """Write what a run has come to so far: tables, figures and the page.

    Args:
        out: folder of the run.
        jobs: its plan.
        store: what is known of them.

    Returns:
        The page.

    Raises:
        InputError: a file cannot be written.
    """
    records = [store.done[job.key] for job in jobs if job.key in store.done]
    every = results(records)
    found = [result for result in every if not result.hyperparameters]
    others = [result for result in every if result.hyperparameters]
    grids = [grid for grid in _grids(found, others, records, store) if grid.rows]
    write_text(out / TABLE, "\n".join(grid.markdown() for grid in grids))
    for name in GRIDS:
        (out / f"{name}.md").unlink(missing_ok=True)  # of an earlier, larger plan
    for grid in grids:
        write_text(out / f"{grid.name}.md", grid.markdown(heading=False))
    write_text(out / "runs.csv", tables.results_csv(every))
    write_text(out / "relative.csv", tables.relative_csv(found))
    return write_run(
        out,
        "Which augmentation finds which anomalies",
        jobs,
        store,
        figures=[*_plots(found), *_varied_plots(others), *_case_plots(found, store)],
        settings=shared_settings(jobs, _settings),
        grids=grids,
        footer="Labels serve only to measure the AUC; no detector sees one.",
    )


def _grids(
    found: Sequence[Result], others: Sequence[Result], records: Sequence[Record], store: Store
) -> list[Grid]:
    plain = [a for a in augmentations(found) if not is_cutout_c(Named.parse(a))]
    encoders = [r.config["encoder"] for r in records if "encoder" in r.config]
    distances = distance_table(records)
    return [
        tables.findings_table(findings(found, others, store.arrays)),
        tables.auc_table(found, plain),
        tables.relative_table(found),
        tables.hyperparameter_table(others),
        *([tables.distance_grid(distances, encoders[0])] if encoders else []),
        agreement_table([record for record in records if "candidate" in record.config]),
    ]


def _plots(found: Sequence[Result]) -> list[Plot]:
    """Relative AUC by generator, the sweep, and the bias."""
    names = {d: DETECTORS[d].vanilla or "" for d in detectors(found)}
    plots = []
    for kind in generators(found):
        compared = {d: relatives(found, d, kind) for d in detectors(found)}
        for swept, name, title in (
            (False, f"relative-{kind}", "Relative AUC (Fig. 2, 5)"),
            (True, f"sweep-{kind}", "Relative AUC of CutOut-c (Fig. 4a)"),
        ):
            panels = {d: _chosen(rows, swept) for d, rows in compared.items()}
            panels = {d: rows for d, rows in panels.items() if rows}
            if panels and (not swept or kind == "cutout"):
                plots.append(
                    Plot(
                        name.replace("_", "-"),
                        f"{title}: anomalies {_what(kind)}",
                        "Small dots: tasks. Large dot and line: pseudo-median and its 95 % "
                        "interval. p: one-sided Wilcoxon signed-rank test; bold: the augmentation "
                        "helps (p < 0.05) or harms (p > 0.95).",
                        relative_auc(panels, names, ordered=not swept),
                    )
                )
    return [*plots, *_bias(found)]


def _varied_plots(others: Sequence[Result]) -> list[Plot]:
    """Relative AUC whatever the hyperparameters, by generator."""
    plots = []
    for kind in generators(others):
        rows = varied(others, kind)
        # a dot for each setting, of which there are 16, not for each of its many tasks
        shown = {
            augmentation: replace(row.pooled, differences=np.array([*row.medians.values()]))
            for augmentation, row in rows.items()
        }
        if shown:
            plots.append(
                Plot(
                    f"hyperparameters-{kind}".replace("_", "-"),
                    f"Relative AUC with other hyperparameters (Fig. 4b): anomalies {_what(kind)}",
                    "AE has the hyperparameters of DAE. Small dots: settings, the pseudo-median of "
                    "each. Large dot and line: that of all pairs of a task and a setting, and its "
                    "95 % interval. p: one-sided Wilcoxon signed-rank test. Both take the pairs of "
                    "a task for independent, as the study does.",
                    relative_auc({DETECTOR: shown}, {DETECTOR: DETECTORS[DETECTOR].vanilla or ""}),
                )
            )
    return plots


def _what(kind: str) -> str:
    return "other classes" if kind == SEMANTIC else f"by {generator_title(kind)}"


def _chosen(rows: dict[str, Relative], swept: bool) -> dict[str, Relative]:
    """Rows of the sweep, or all the others."""
    return {a: r for a, r in rows.items() if is_cutout_c(Named.parse(a)) == swept}


def _bias(found: Sequence[Result]) -> list[Plot]:
    """Fig. 3: of the first normal class, with Rotate if it was run, else what comes first."""
    wild = [result for result in found if result.generator == SEMANTIC]
    panels = {}
    normal = wild[0].normal if wild else None
    own = [result for result in wild if result.normal == normal]
    rivals = [a for a in augmentations(own) if a != VANILLA]
    augmentation = "rotate" if "rotate" in rivals else rivals[0] if rivals else ""
    for detector in detectors(own):
        vanilla = DETECTORS[detector].vanilla
        names = (augmentation, VANILLA)
        both = common([r for r in own if r.detector == detector and r.augmentation in names])
        before = task_means(both, detector, VANILLA, SEMANTIC)
        after = task_means(both, detector, augmentation, SEMANTIC)
        tests = {result.task: result.test for result in own}
        tasks = [task for task in before if task in after]
        if vanilla and tasks:
            first, second = (np.array([aucs[t] for t in tasks]) for aucs in (before, after))
            panels[detector] = (vanilla, detector, [tests[t] for t in tasks], first, second)
    if not panels:
        return []
    title = Named.parse(augmentation).title
    return [
        Plot(
            "bias",
            f"Which anomalies {title} helps to find (Fig. 3)",
            f"Normal: class {normal}. AUC on every other class, without and with {title}.",
            class_bias(panels),
        )
    ]


def _case_plots(found: Sequence[Result], store: Store) -> list[Plot]:
    plots = [plot for case in cases(found) for plot in case_plots(case, store)]
    return [*plots, *sweep_plots(found, store)]


def _settings(job: Job) -> dict[str, object]:
    own = job.config.get("parameters", {"encoder": job.config.get("encoder")})
    return {f"{job.group}: {key}": value for key, value in own.items()}
