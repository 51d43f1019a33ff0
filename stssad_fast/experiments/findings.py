"""What the study found, each said again in the numbers of a run that confirm or contradict it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from stssad_fast.augment.catalogue import Named
from stssad_fast.experiments.hyperparameters import vanilla_aucs, varied
from stssad_fast.experiments.rebuilt import can_be_undone, rebuilt
from stssad_fast.experiments.relative import HARMFUL, HELPFUL, relative, signed
from stssad_fast.experiments.study_results import (
    VANILLA,
    Result,
    augmentations,
    common,
    detectors,
    gains,
    generators,
    relatives,
    task_means,
)
from stssad_fast.experiments.testbeds import SEMANTIC, generator_title

GLOBAL = ("geometric", "color", "mixed")
"""Families that change the whole picture; "local" ones change a part (Obs. 7)."""


@dataclass(frozen=True)
class Finding:
    """A claim of the study and what the run says of it.

    Attributes:
        name: e.g. "Obs. 4".
        claim: the study's, in short.
        evidence: sentences with the run's numbers.
    """

    name: str
    claim: str
    evidence: tuple[str, ...]


def findings(
    found: Sequence[Result],
    others: Sequence[Result] = (),
    arrays: Callable[[str], Mapping[str, Any]] | None = None,
) -> list[Finding]:
    """All claims that the results have numbers for.

    Args:
        found: results with the preset's hyperparameters.
        others: of DAE with other ones.
        arrays: what a job has kept, by its key, as for :func:`rebuilt.rebuilt`; None: Obs. 5 is
            left out.
    """
    evidence = {
        "Finding 1": _finding_1(found),
        "Obs. 1": _observation_1(found),
        "Obs. 2": _observation_2(found, others),
        "Obs. 3": _observation_3(found),
        "Obs. 4": _observation_4(found),
        "Obs. 5": _observation_5(found, arrays) if arrays else [],
        "Obs. 6": _observation_6(found),
        "Obs. 7": _observation_7(found),
    }
    return [Finding(name, _CLAIMS[name], tuple(told)) for name, told in evidence.items() if told]


def _finding_1(found: Sequence[Result]) -> list[str]:
    """Rank of the aligned augmentation, and how many others help and harm."""
    sentences = []
    for detector in detectors(found):
        for kind in _made(found):
            means = _means(found, detector, kind)
            aucs = {a: float(np.mean(list(each.values()))) for a, each in means.items()}
            if kind not in aucs or len(set(aucs) - {VANILLA}) < 2:
                continue
            others = [auc for a, auc in aucs.items() if a not in (kind, VANILLA)]
            best = max((a for a in aucs if a != VANILLA), key=aucs.__getitem__)
            rank = 1 + sum(auc > aucs[kind] for auc in others)
            shared = sum(auc == aucs[kind] for auc in others)
            text = (
                f"{detector}, anomalies by {generator_title(kind)}: the same augmentation has AUC "
                f"{aucs[kind]:.3f}, place {rank} of {len(others) + 1}"
            )
            text += f", shared with {shared}" if shared else ""
            if rank > 1:
                ahead = relative(list(gains(found, detector, best, kind, over=kind).values()))
                text += f" (best: {_title(best)}, {aucs[best]:.3f}"
                text += "" if ahead.p_value is None else f", ahead with p = {ahead.p_value:.2g}"
                text += ")"
            compared = {a: r for a, r in relatives(found, detector, kind).items() if a in means}
            if compared:
                p_values = [row.p_value for row in compared.values() if row.p_value is not None]
                text += (
                    f"; {sum(p < HELPFUL for p in p_values)} of {len(compared)} augmentations "
                    f"help (p < {HELPFUL:g}) and {sum(p > HARMFUL for p in p_values)} harm "
                    f"(p > {HARMFUL:g}), vanilla AUC {aucs[VANILLA]:.3f}"
                )
            sentences.append(text + ".")
    return sentences


def _observation_1(found: Sequence[Result]) -> list[str]:
    """The sweep over c: where it is best, and where it begins to harm."""
    sentences = []
    for detector in detectors(found):
        rows = {c: row for c, row in sweep(found, detector).items() if row is not None}
        if len(rows) < 2:
            continue
        best = max(rows, key=lambda c: rows[c])
        below = [c for c in rows if rows[c] < 0]
        text = (
            f"{detector}, anomalies by CutOut: the pseudo-median of the relative AUC is highest, "
            f"{signed(rows[best])}, at c = {best:g}"
        )
        text += f" and negative at c = {', '.join(f'{c:g}' for c in below)}" if below else ""
        text += f"; rank correlation with c {signed(_correlation(list(rows), rows.values()))}"
        sentences.append(text + ".")
    return sentences


def sweep(found: Sequence[Result], detector: str) -> dict[float, float | None]:
    """Pseudo-median of the relative AUC of CutOut-c by c, ascending; anomalies by CutOut."""
    compared = relatives(found, detector, "cutout")
    rows = [(Named.parse(text), row.median) for text, row in compared.items()]
    return dict(sorted((a.settings["size"], m) for a, m in rows if is_cutout_c(a)))


def is_cutout_c(augmentation: Named) -> bool:
    """Whether it erases squares of one size, CutOut-c."""
    return augmentation.name == "cutout" and set(augmentation.settings) == {"size"}


def _observation_2(found: Sequence[Result], others: Sequence[Result]) -> list[str]:
    """Whether the augmentations keep their order, and what matters more: they or the setting."""
    sentences = []
    for kind in generators(others):
        rows, aucs = varied(others, kind), vanilla_aucs(others, kind)
        settings = [s for s in aucs if all(s in row.medians for row in rows.values())]
        medians = np.array([[row.medians[s] for row in rows.values()] for s in settings])
        if min(medians.shape) < 2 or not np.ptp(medians, axis=1).all():
            continue  # nothing has an order, as where every AUC is 1
        alike = [_correlation(*pair) for pair in combinations(medians, 2)]
        title = "of other classes" if kind == SEMANTIC else f"by {generator_title(kind)}"
        text = (
            f"DAE with {len(settings)} settings, anomalies {title}: Spearman's rank correlation of "
            f"{len(rows)} augmentations by relative AUC, between two settings, is "
            f"{signed(float(np.mean(alike)))} on average and {signed(min(alike))} at least"
        )
        own = {a: row.median for a, row in relatives(found, "DAE", kind).items() if a in rows}
        if len(own) == len(rows):
            pooled = [rows[a].pooled.median or 0 for a in own]
            with_own = _correlation(pooled, [median or 0 for median in own.values()])
            text += f", that of all settings with the preset {signed(with_own)}"
        if kind in rows:
            first = medians[:, list(rows).index(kind)] == medians.max(1)
            text += f"; {_title(kind)} is best in {first.sum()} of {len(settings)} settings"
        over_augmentations, over_settings = (medians.std(k, ddof=1).mean() for k in (1, 0))
        text += (
            f". The standard deviation of the pseudo-median is {over_augmentations:.3f} over the "
            f"augmentations (mean of the settings) and {over_settings:.3f} over the settings (mean "
            f"of the augmentations); AE's AUC lies between {min(aucs.values()):.3f} and "
            f"{max(aucs.values()):.3f}."
        )
        sentences.append(text)
    return sentences


def _observation_3(found: Sequence[Result]) -> list[str]:
    """Classes that an augmentation makes worse although it is better on average."""
    sentences = []
    for detector in detectors(found):
        better, biased, spreads = 0, 0, []
        for augmentation in _plain(found):
            if augmentation == VANILLA:
                continue
            gained = gains(found, detector, augmentation, SEMANTIC)
            normal = {r.task: r.normal for r in found}
            for label in sorted({normal[task] for task in gained}):
                own = [gain for task, gain in gained.items() if normal[task] == label]
                if len(own) < 2 or np.mean(own) <= 0:
                    continue
                better += 1
                biased += min(own) < 0
                spreads.append(float(np.ptp(own)))
        if better:
            sentences.append(
                f"{detector}: of {better} pairs of normal class and augmentation whose mean AUC "
                f"over the anomalous classes rises, {biased} lose on at least one class; the best "
                f"and the worst class lie {np.mean(spreads):.3f} apart on average."
            )
    return sentences


def _observation_4(found: Sequence[Result]) -> list[str]:
    """Families where anomalies are other classes, by relative AUC, or AUC if nothing is vanilla."""
    sentences = []
    for detector in detectors(found):
        plain = [augmentation for augmentation in _plain(found) if augmentation != VANILLA]
        compared = relatives(found, detector, SEMANTIC)
        what, write = "pseudo-median of the relative AUC", signed
        values = {a: compared[a].median for a in plain if a in compared}
        if not compared:
            what, write = "AUC", "{:.3f}".format
            aucs = _means(found, detector, SEMANTIC)
            values = {a: float(np.mean(list(aucs[a].values()))) for a in plain if a in aucs}
        told = {text: value for text, value in values.items() if value is not None}
        families: dict[str, list[float]] = {}
        for text, value in told.items():
            families.setdefault(Named.parse(text).family, []).append(value)
        if len(families) < 2:
            continue
        means = sorted(((np.mean(each), name) for name, each in families.items()), reverse=True)
        listed = ", ".join(f"{name} {write(float(mean))}" for mean, name in means)
        best = max(told, key=told.__getitem__)
        sentences.append(
            f"{detector}: mean {what} by family: {listed}; the best augmentation is "
            f"{_title(best)}, {write(told[best])}."
        )
    return sentences


def _observation_5(
    found: Sequence[Result], arrays: Callable[[str], Mapping[str, Any]]
) -> list[str]:
    """How often the aligned DAE, and AE, give the picture that an anomaly was made of."""
    sentences = []
    for kind in filter(can_be_undone, _made(found)):
        of_kind = common(
            [
                r
                for r in found
                if (r.detector, r.generator) == ("DAE", kind)
                and r.augmentation in (kind, VANILLA)
                and not r.diverged
            ]
        )
        if not {kind, VANILLA} <= {r.augmentation for r in of_kind}:
            continue
        title = generator_title(kind)
        own = rebuilt((r for r in of_kind if r.augmentation == kind), arrays)
        vanilla = rebuilt((r for r in of_kind if r.augmentation == VANILLA), arrays)
        if own is None or vanilla is None:
            sentences.append(
                f"Anomalies by {title}: this cannot be told, for the reconstructions are not in "
                "the run's folder."
            )
            continue
        sentences.append(
            f"Anomalies by {title}: DAE with {title} gives something nearer to the picture before "
            f"{title} than to the anomaly for {own.undone} of the {own.anomalies} whose "
            f"reconstructions were kept, AE for {vanilla.undone} of {vanilla.anomalies}; the mean "
            f"squared distance to the picture before is {own.distance:.4f} (AE "
            f"{vanilla.distance:.4f}), that of normal pictures to their own reconstructions "
            f"{own.error:.4f} (AE {vanilla.error:.4f})."
        )
    return sentences


def _observation_6(found: Sequence[Result]) -> list[str]:
    """Errors of DAE against AE, and their rank correlation with the change of the picture."""
    errors: dict[str, list[float]] = {}
    changes: dict[str, list[float]] = {}
    told = [r for r in found if r.detector == "DAE" and _is_plain(r) and not r.diverged]
    for result in common(told):
        if result.record.values is not None:
            error = (result.values["normal"] + result.values["anomalous"]) / 2
            errors.setdefault(result.augmentation, []).append(error)
            changes.setdefault(result.augmentation, []).append(result.record.values["change"])
    names = [a for a in errors if a != VANILLA]
    if VANILLA not in errors or len(names) < 2:
        return []
    vanilla = float(np.mean(errors[VANILLA]))
    means = {a: float(np.mean(errors[a])) for a in names}
    correlation = _correlation([float(np.mean(changes[a])) for a in names], list(means.values()))
    larger = sum(mean > vanilla for mean in means.values())
    return [
        f"The mean reconstruction error of test pictures is {np.mean(list(means.values())):.4f} "
        f"over the augmentations of DAE and {vanilla:.4f} for AE; it is larger than AE's for "
        f"{larger} of {len(names)} augmentations.",
        f"Its rank correlation with ||aug(x) - x||, over {len(names)} augmentations, is "
        f"{signed(correlation)}.",
    ]


def _observation_7(found: Sequence[Result]) -> list[str]:
    """Silhouettes of DAE's embeddings by what the augmentation changes."""

    def mean(chosen: Callable[[Named, Result], float | None]) -> dict[str, float]:
        groups: dict[str, list[float]] = {}
        for result in found:
            augmentation = Named.parse(result.augmentation)
            if result.detector != "DAE" or augmentation.settings:
                continue
            value = chosen(augmentation, result)
            family = augmentation.family
            extent = "global" if family in GLOBAL else family
            if value is not None and extent in ("global", "local"):
                groups.setdefault(extent, []).append(value)
        return {extent: float(np.mean(values)) for extent, values in groups.items()}

    def augmented(augmentation: Named, result: Result) -> float | None:
        return (result.record.values or {}).get("silhouette")

    def aligned(augmentation: Named, result: Result) -> float | None:
        same = augmentation.name == result.generator
        return result.values.get("silhouette") if same else None

    sentences = []
    for what, chosen in (
        ("of training and augmented pictures", augmented),
        ("of normal pictures and anomalies, where the augmentation made these", aligned),
    ):
        means = mean(chosen)
        if len(means) == 2:
            sentences.append(
                f"Mean silhouette of DAE's embeddings {what}: {signed(means['global'])} for "
                f"augmentations of the whole picture, {signed(means['local'])} for local ones."
            )
    return sentences


_CLAIMS = {
    "Finding 1": "An augmentation like what makes the anomalies is best; one unlike it may harm.",
    "Obs. 1": "How much an augmentation changes decides as well as its kind.",
    "Obs. 2": "Finding 1 is consistent with different hyperparameters of a detector.",
    "Obs. 3": "An augmentation biases which anomalies are found.",
    "Obs. 4": "Geometric augmentations are best where anomalies are classes.",
    "Obs. 5": "DAE leaves normal pictures as they are, and undoes the augmentation in anomalies.",
    "Obs. 6": "Errors are larger in DAE than in AE, and grow with the change.",
    "Obs. 7": "Embeddings are apart if the augmentation changes the whole picture, else mixed.",
}


def _made(found: Sequence[Result]) -> list[str]:
    return [kind for kind in generators(found) if kind != SEMANTIC]


def _plain(found: Sequence[Result]) -> list[str]:
    """Augmentations with the settings of the catalogue: the sweep is told of by itself."""
    return augmentations(filter(_is_plain, found))


def _is_plain(result: Result) -> bool:
    return not Named.parse(result.augmentation).settings


def _means(found: Sequence[Result], detector: str, kind: str) -> dict[str, dict[str, float]]:
    """By plain augmentation, the AUC of every task, over runs that all of them have."""
    column = [r for r in found if (r.detector, r.generator) == (detector, kind) and _is_plain(r)]
    shared = common(column)
    return {a: task_means(shared, detector, a, kind) for a in augmentations(shared)}


def _title(text: str) -> str:
    return Named.parse(text).title


def _correlation(first: Iterable[float], second: Iterable[float]) -> float:
    """Spearman's; 0 if one of them is constant."""
    x, y = list(first), list(second)
    return 0.0 if min(np.ptp(x), np.ptp(y)) == 0 else float(spearmanr(x, y).statistic)
