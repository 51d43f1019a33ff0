"""Single cases of the study, from the arrays of its jobs: reconstructions, errors, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.manifold import TSNE

from stssad_fast.augment.catalogue import Named
from stssad_fast.errors import InputError
from stssad_fast.experiments.findings import is_cutout_c
from stssad_fast.experiments.store import Store
from stssad_fast.experiments.study_results import VANILLA, Result
from stssad_fast.experiments.testbeds import SEMANTIC, generator_title
from stssad_fast.report.case import Array
from stssad_fast.report.paper_figures import picture_rows
from stssad_fast.report.plot import Plot
from stssad_fast.report.study_figures import embedding_plane, error_histograms
from stssad_fast.report.wording import number

SEED, STEPS = 0, 1000  # of t-SNE


@dataclass(frozen=True)
class Case:
    """A task of DAE, with AE and every augmentation on it.

    Attributes:
        title: of the task, e.g. "2, anomalies by Flip".
        aligned: the augmentation like the anomalies: what made them or, where they are of another
            class, the one that is best there.
        results: by augmentation, of one seed; with :data:`VANILLA` and ``aligned``.
    """

    title: str
    aligned: str
    results: Mapping[str, Result]

    @property
    def name(self) -> str:
        """For the names of figures."""
        kind = self.results[self.aligned].generator
        return kind.replace("_", "-")


def cases(found: Sequence[Result]) -> list[Case]:
    """One for each generator, of the first normal class and seed that have what it takes.

    Of the classes in the wild, the task on which an augmentation helps DAE most.
    """
    groups: dict[str, dict[tuple[str, int], dict[str, Result]]] = {}
    for result in found:
        if result.detector == "DAE" and not result.diverged:
            tasks = groups.setdefault(result.generator, {})
            tasks.setdefault((result.task, result.seed), {})[result.augmentation] = result
    chosen = []
    for kind, tasks in groups.items():
        possible = []
        for (task, _), results in tasks.items():
            plain = {a: r for a, r in results.items() if not Named.parse(a).settings}
            rivals = [a for a in plain if a != VANILLA]
            aligned = (
                kind if kind != SEMANTIC else max(rivals, key=lambda a: plain[a].auc, default="")
            )
            if VANILLA in plain and aligned in plain:
                possible.append((task, aligned, results))
        if not possible:
            continue
        task, aligned, results = possible[0]
        if kind == SEMANTIC:
            task, aligned, results = max(
                possible, key=lambda each: each[2][each[1]].auc - each[2][VANILLA].auc
            )
        title = (
            f"normal/anomalous: {task}"
            if kind == SEMANTIC
            else (f"class {results[aligned].normal}, anomalies by {generator_title(kind)}")
        )
        chosen.append(Case(title, aligned, results))
    return chosen


def case_plots(case: Case, store: Store) -> list[Plot]:
    """Fig. 6, 7 and 8 of a case; none if the arrays of its jobs are not in the folder."""
    try:
        return [_rebuilt(case, store), _errors(case, store), _plane(case, store)]
    except InputError:  # jobs.jsonl alone was kept
        return []


def sweep_plots(found: Sequence[Result], store: Store) -> list[Plot]:
    """Fig. 9: embeddings of DAE as CutOut-c erases more; none without them."""
    tasks: dict[tuple[str, int], list[Result]] = {}
    for result in found:
        swept = is_cutout_c(Named.parse(result.augmentation))
        own = result.detector == "DAE" and not result.diverged
        if own and swept and result.generator == "cutout":
            tasks.setdefault((result.task, result.seed), []).append(result)
    if not tasks:
        return []
    longest = max(tasks.values(), key=len)
    results = sorted(longest, key=lambda result: result.augmentation)
    picked = [
        results[i] for i in np.unique(np.linspace(0, len(results) - 1, 4).round().astype(int))
    ]
    try:
        panels = {_headed(result): _points(result, store) for result in picked}
    except InputError:
        return []
    return [
        Plot(
            "embeddings-sweep",
            "Embeddings of DAE as the erased square grows (Fig. 9)",
            f"{results[0].task}; t-SNE of each detector's embeddings by itself.",
            embedding_plane(panels, by_score=False),
        )
    ]


def _rebuilt(case: Case, store: Store) -> Plot:
    rows: list[tuple[str, Array]] = []
    below: list[str] = []
    kinds: list[str] = []
    for augmentation, name in ((VANILLA, "AE"), (case.aligned, "DAE")):
        result = case.results[augmentation]
        arrays = store.arrays(result.record.key)
        kept = {
            what: arrays[f"{what}/test/{result.test}"]
            for what in ("shown", "rebuilt", "rows", "scores", "labels")
        }
        if not rows:
            rows.append(("picture", kept["shown"] / 255))
        rows.append((f"{name}, AUC {result.auc:.3f}", kept["rebuilt"] / 255))
        below = [number(float(score), 2) for score in kept["scores"][kept["rows"]]]
        kinds = ["anomaly" if label else "normal" for label in kept["labels"][kept["rows"]]]
    title = Named.parse(case.aligned).title
    return Plot(
        f"rebuilt-{case.name}",
        f"What DAE makes of pictures (Fig. 6): {case.title}",
        f"AE, and DAE with {title}; below, DAE's reconstruction errors. The first pictures of "
        "each kind.",
        picture_rows(rows, kinds, below),
    )


def _errors(case: Case, store: Store) -> Plot:
    """Four panels at most: AE, the aligned augmentation, and others by how much they change."""
    plain = {a: r for a, r in case.results.items() if not Named.parse(a).settings}
    others = sorted((a for a in plain if a not in (VANILLA, case.aligned)), key=_change(plain))
    spread = [others[i] for i in sorted({0, len(others) - 1})] if others else []
    shown = [VANILLA, *sorted([case.aligned, *spread], key=_change(plain))]
    panels = {}
    for augmentation in shown:
        result = plain[augmentation]
        arrays = store.arrays(result.record.key)
        scores, labels = (arrays[f"{what}/test/{result.test}"] for what in ("scores", "labels"))
        kinds = {"normal": scores[labels == 0], "anomalous": scores[labels == 1]}
        panels[_headed(result)] = {"augmented": arrays["scores/augmented"], **kinds}
    return Plot(
        f"errors-{case.name}",
        f"Reconstruction errors of DAE (Fig. 7): {case.title}",
        "AE first, then by how much the augmentation changes a picture. Heights are shares of "
        "each kind; errors above the 98th percentile are in the last bar.",
        error_histograms(panels),
    )


def _plane(case: Case, store: Store) -> Plot:
    result = case.results[case.aligned]
    return Plot(
        f"embeddings-{case.name}",
        f"Embeddings of DAE (Fig. 8): {case.title}",
        "t-SNE; left by kind of picture, right by the rank of the anomaly score.",
        embedding_plane({_headed(result): _points(result, store)}, by_score=True),
    )


def _points(result: Result, store: Store) -> tuple[dict[str, Array], dict[str, Array]]:
    """Points on a plane and scores, by kind, of the embeddings that a job kept."""
    arrays, test = store.arrays(result.record.key), result.test
    labels, tested = arrays[f"labels/test/{test}"], arrays[f"scores/test/{test}"]
    rows = {
        "train": arrays["embedding/train"],
        "augmented": arrays["embedding/augmented"],
        "normal": arrays[f"embedding/normal/test/{test}"],
        "anomalous": arrays[f"embedding/anomalous/test/{test}"],
    }
    scores = {
        "train": arrays["scores/train"],
        "augmented": arrays["scores/augmented"],
        "normal": tested[labels == 0],
        "anomalous": tested[labels == 1],
    }
    stack = np.nan_to_num(np.concatenate([*rows.values()]).astype(np.float32))
    perplexity = min(30.0, (len(stack) - 1) / 3)
    points = TSNE(
        perplexity=perplexity, init="pca", random_state=SEED, max_iter=STEPS
    ).fit_transform(stack)
    ends = np.cumsum([len(each) for each in rows.values()])[:-1]
    split = dict(zip(rows, np.split(points, ends), strict=True))
    return split, {kind: scores[kind][: len(each)] for kind, each in rows.items()}


def _change(results: Mapping[str, Result]) -> Callable[[str], float]:
    """How far an augmentation moves a picture, to sort by."""
    return lambda augmentation: float((results[augmentation].record.values or {})["change"])


def _headed(result: Result) -> str:
    if result.augmentation == VANILLA:
        return f"AE, AUC {result.auc:.3f}"
    return f"{Named.parse(result.augmentation).title}, AUC {result.auc:.3f}"
