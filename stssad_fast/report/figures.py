"""The charts: trajectories, embeddings, histogram of scores, ROC curve."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    MultipleLocator,
    NullFormatter,
)
from sklearn.metrics import roc_curve

from stssad_fast.report.case import Array
from stssad_fast.report.collect import Facts, Start
from stssad_fast.report.svg import ROLES, STYLE, new_axes, to_svg
from stssad_fast.report.wording import number

Dashes = tuple[float, ...]

_OTHERS = ["start-a", "start-b", "start-c", "start-d"]
_DASHES: list[Dashes] = [(), (5.0, 2.0), (1.5, 1.5)]
LOGARITHMIC = {"size", "aspect"}
KIND_ROLES = {
    "train": ("train", "o", 3.2, "train"),
    "augmented": ("augmented", "s", 3.0, "augmented"),
    "normal": ("test", "D", 3.0, "test, normal"),
    "anomalous": ("anomaly", "^", 4.0, "test, anomalous"),
}
"""Colour, marker, its size in points and name of each kind of picture."""

SMOOTH_FROM = 40  # iterations; a shorter curve is read well as it is


def start_styles(starts: list[Start]) -> list[tuple[str, Dashes]]:
    """(colour role, dashes) of every start: the chosen one in ink, the others in quieter hues."""
    styles: list[tuple[str, Dashes]] = []
    others = 0
    for start in starts:
        if start.chosen:
            styles.append(("ink", ()))
        else:
            dashes = _DASHES[others // len(_OTHERS) % len(_DASHES)]
            styles.append((_OTHERS[others % len(_OTHERS)], dashes))
            others += 1
    return styles


@matplotlib.rc_context(STYLE)
def trajectory(facts: Facts, name: str, salt: str, *, wide: bool = False) -> Markup:
    """Hyperparameter or loss `name` over the iterations, a line per start."""
    figure, axes = new_axes() if wide else new_axes(3.5, 2.5)
    loss = name.endswith("_loss")
    styles = start_styles(facts.starts)
    # The chosen start is drawn last, above the others.
    for start, (role, dashes) in sorted(
        zip(facts.starts, styles, strict=True), key=lambda pair: pair[0].chosen
    ):
        values = start.history.get(name)
        if values is None or not np.isfinite(values).any():
            continue
        iterations = start.history["iteration"]
        width = 2.2 if start.chosen else 1.4
        smoothed = _smooth(values) if loss else values
        if smoothed is not values:
            axes.plot(iterations, values, color=ROLES[role], lw=0.6, alpha=0.3)
        axes.plot(iterations, smoothed, color=ROLES[role], lw=width, dashes=dashes)
        at = int(np.nanargmin(np.abs(iterations - start.iteration)))
        axes.plot(
            iterations[at],
            smoothed[at],
            "o",
            ms=7 if start.chosen else 5.5,
            color=ROLES[role],
            mec=ROLES["card"],
            mew=1.2,
            zorder=5,
        )
    _scale(axes, name, [s.history[name] for s in facts.starts if name in s.history])
    axes.set_xlabel("iteration")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return to_svg(figure, f"{name.replace('_', ' ')} over the iterations, from every start", salt)


@matplotlib.rc_context(STYLE)
def embeddings(facts: Facts, salt: str) -> Markup:
    """Train, augmented and test embeddings on their first two principal components."""
    figure, axes = new_axes(6.2, 4.0)
    test = facts.points["test"]
    groups = [
        ("train", facts.points["train"], "o", 3.2),
        ("augmented", facts.points["augmented"], "s", 3.0),
    ]
    if facts.labels is None:
        groups.append(("test", test, "D", 3.0))
    else:
        anomalous = facts.labels[facts.point_index] == 1
        groups += [("test", test[~anomalous], "D", 3.0), ("anomaly", test[anomalous], "^", 4.0)]
    scatter(axes, groups, facts.explained)
    return to_svg(figure, "Embeddings of train, augmented and test pictures", salt)


def scatter(
    axes: Axes, groups: Sequence[tuple[str, Array, str, float]], explained: tuple[float, float]
) -> None:
    """Draw groups of projected embeddings: (colour role, (n, 2) points, marker, size in points)."""
    crowd = sum(len(points) for _, points, _, _ in groups)
    for role, points, marker, size in groups:
        axes.plot(
            *points.T,
            marker,
            color=ROLES[role],
            ms=size * (1.5 if crowd < 300 else 1.0),
            alpha=0.8 if crowd < 300 else 0.65,
            mew=0,
        )
    for axis, share, which in zip((axes.xaxis, axes.yaxis), explained, "12", strict=True):
        axis.set_ticklabels([])
        axis.set_label_text(f"component {which} ({share:.0%} of the variance)")
    axes.tick_params(length=0)
    axes.grid(visible=False)


@matplotlib.rc_context(STYLE)
def histogram(facts: Facts, salt: str) -> tuple[Markup, int]:
    """Test scores with the threshold; also how many high scores the last bar gathers."""
    figure, axes = new_axes()
    finite = np.isfinite(facts.scores)
    scores = facts.scores[finite]
    low, high = _range(scores, facts.threshold)
    edges = np.linspace(low, high, 1 + min(40, max(8, len(scores) // 6)))
    shown = np.minimum(scores, high)
    if facts.labels is None:
        groups = [("test", shown)]
    else:
        labels = facts.labels[finite]
        groups = [("test", shown[labels == 0]), ("anomaly", shown[labels == 1])]
    axes.hist(
        [values for _, values in groups],
        bins=edges.tolist(),
        stacked=True,
        color=[ROLES[role] for role, _ in groups],
        edgecolor=ROLES["card"],
        linewidth=0.5,
    )
    if np.isfinite(facts.threshold):
        axes.axvline(facts.threshold, color=ROLES["ink"], lw=1.2, dashes=(4, 2))
        right = facts.threshold > (low + high) / 2
        axes.annotate(
            f"threshold {number(facts.threshold)}",
            (facts.threshold, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if right else 4, 2),
            textcoords="offset points",
            ha="right" if right else "left",
        )
    axes.set_xlabel("anomaly score")
    axes.set_ylabel("test pictures")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 4)))
    axes.grid(axis="x", visible=False)
    return to_svg(figure, "Histogram of the test pictures' anomaly scores", salt), int(
        (scores > high).sum()
    )


@matplotlib.rc_context(STYLE)
def roc(facts: Facts, salt: str) -> Markup | None:
    """ROC curve with the threshold's point; None unless both classes are known."""
    if facts.labels is None or facts.auc is None:
        return None
    figure, axes = new_axes()
    finite = np.isfinite(facts.scores)
    labels, scores = facts.labels[finite], facts.scores[finite]
    false_rate, true_rate, _ = roc_curve(labels, scores)
    axes.plot([0, 1], [0, 1], color=ROLES["muted"], lw=0.8, dashes=(3, 3))
    axes.fill_between(false_rate, true_rate, color=ROLES["anomaly"], alpha=0.12, lw=0)
    axes.plot(false_rate, true_rate, color=ROLES["anomaly"], lw=2, clip_on=False)
    if np.isfinite(facts.threshold):
        flagged = scores > facts.threshold
        point = flagged[labels == 0].mean(), flagged[labels == 1].mean()
        axes.plot(*point, "o", ms=7, color=ROLES["ink"], mec=ROLES["card"], mew=1.2, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.set_xlabel("normal pictures flagged")
    axes.set_ylabel("anomalies found")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(0.25))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.text(0.95, 0.08, f"AUC {facts.auc:.3f}", ha="right", fontsize=13)
    return to_svg(figure, f"ROC curve of the test pictures, AUC {facts.auc:.3f}", salt)


def _scale(axes: Axes, name: str, histories: list[Array]) -> None:
    values = np.concatenate([h[np.isfinite(h)] for h in histories] or [np.empty(0)])
    if not len(values):
        axes.text(0.5, 0.5, "no finite values", transform=axes.transAxes, ha="center")
        return
    spread = float(np.ptp(values))
    if name in LOGARITHMIC and values.min() > 0:
        axes.set_yscale("log")
        if values.max() / values.min() > 10:
            axes.yaxis.set_major_locator(LogLocator())
        else:  # powers of ten would be too few
            margin = max(float(values.max() / values.min()) ** 0.1, 1.02)
            low, high = float(values.min()) / margin, float(values.max()) * margin
            axes.set_ylim(low, high)
            axes.yaxis.set_major_locator(FixedLocator(MaxNLocator(5).tick_values(low, high)))
            axes.set_ylim(low, high)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif name == "angle":
        if spread > 90:
            axes.yaxis.set_major_locator(MultipleLocator(45 if spread <= 360 else 90))
        elif spread < 2:
            middle = float(values.max() + values.min()) / 2
            axes.set_ylim(middle - 1.5, middle + 1.5)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{number(value)}°"))
    else:
        axes.ticklabel_format(axis="y", useOffset=False)


def _smooth(values: Array) -> Array:
    """Moving average over 5 % of the iterations, skipping NaN; short curves as they are."""
    if len(values) < SMOOTH_FROM:
        return values
    window = np.ones(2 * (len(values) // 40) + 1)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), window, "same")
    count = np.convolve(finite.astype(float), window, "same")
    return np.where(finite, total / np.maximum(count, 1), np.nan)


def _range(scores: Array, threshold: float) -> tuple[float, float]:
    """Ends of the histogram; a long tail of high scores is cut off, the threshold never."""
    if not len(scores):
        return 0.0, 1.0
    low, high = float(scores.min()), float(scores.max())
    tenth, ninetieth = np.quantile(scores, [0.1, 0.9])
    high = min(high, float(ninetieth + 2 * (ninetieth - tenth))) if ninetieth > tenth else high
    if np.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        pad = max(abs(low) * 0.1, 0.5)
        return low - pad, high + pad
    return low, high
