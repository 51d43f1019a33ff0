"""Figures as inline SVG whose colours are CSS variables, so that they go dark with the page."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Okabe–Ito hues, told apart by colour-blind readers; each becomes `var(--role)` on the page.
ROLES = {
    "ink": "#1b1f24",
    "muted": "#5b6471",
    "line": "#e2e4e8",
    "card": "#fffffe",
    "train": "#0072b2",
    "augmented": "#009e73",
    "test": "#56b4e9",
    "anomaly": "#d55e00",
    "start-a": "#e69f00",
    "start-b": "#cc79a7",
    "start-c": "#8a8f99",
    "start-d": "#a89a1c",
}

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.size": 9,
    "axes.edgecolor": ROLES["line"],
    "axes.labelcolor": ROLES["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": ROLES["line"],
    "grid.linewidth": 0.6,
    "text.color": ROLES["ink"],
    "xtick.color": ROLES["line"],
    "ytick.color": ROLES["line"],
    "xtick.labelcolor": ROLES["muted"],
    "ytick.labelcolor": ROLES["muted"],
    "axes.unicode_minus": True,
}


def plain(text: str) -> str:
    """Text of others, e.g. the name of a folder, of which matplotlib is to make no formula."""
    return text.replace("$", r"\$")


def new_axes(width: float = 4.4, height: float = 2.9) -> tuple[Figure, Axes]:
    """An empty figure of one axes, sizes in inches; call it within `rc_context(STYLE)`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def to_svg(figure: Figure, description: str, salt: str) -> Markup:
    """The figure as an inline <svg>; `salt` keeps its ids apart from other figures on the page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    # Two decimals place a line well enough; text between the tags is left alone.
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), text)
    for role, colour in ROLES.items():
        text = text.replace(colour, f"var(--{role}, {colour})")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    viewbox = size.group(0) if size else ""
    opening = f'<svg role="img" aria-label="{escape(description)}" {viewbox}'
    return Markup(opening + text[text.index(">") :])
