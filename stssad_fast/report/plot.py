"""A figure that goes on a page, in its colours, and into files of its own."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from stssad_fast.checkpoint import replacing
from stssad_fast.report.svg import STYLE, to_svg

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Plot:
    """One figure with its words.

    Attributes:
        name: Its name among the figures of the page, and of its files: letters, digits and "-".
        title: Heading.
        caption: What it shows, in a sentence or two.
        content: A figure drawn in the report's style, or the bytes of an SVG or PNG file.
    """

    name: str
    title: str
    caption: str
    content: Figure | bytes

    def __post_init__(self) -> None:
        if isinstance(self.content, Figure):
            # Each drawing would arrange the figure again, from where the last one left it: the
            # second one would differ by a rounding.
            with matplotlib.rc_context(STYLE):
                self.content.draw_without_rendering()
            self.content.set_layout_engine("none")

    @property
    def wide(self) -> bool:
        """Whether it takes the page's whole width."""
        return isinstance(self.content, Figure) and self.content.get_figwidth() > 6.5

    def html(self) -> Markup:
        """The figure for the page: inline SVG that goes dark with it, or a given picture."""
        if isinstance(self.content, bytes):
            kind = "png" if self.content.startswith(_PNG) else "svg+xml"
            source = f"data:image/{kind};base64,{base64.b64encode(self.content).decode()}"
            return Markup(f'<img class="plot" src="{source}" alt="{escape(self.title)}">')
        with matplotlib.rc_context(STYLE):
            svg = to_svg(self.content, self.title, self.name)
        # As large as it was drawn for, so that all figures have letters of one size.
        width = round(self.content.get_figwidth() * 110)
        return Markup(f'<div style="max-width: {width}px">{svg}</div>')

    def save(self, folder: Path) -> list[Path]:
        """Write NAME.svg and NAME.png, or the one file that was given; light, on white."""
        if isinstance(self.content, bytes):
            png = self.content.startswith(_PNG)
            path = folder / f"{self.name}.{'png' if png else 'svg'}"
            with replacing(path) as temporary:
                temporary.write_bytes(self.content)
            return [path]
        paths = []
        for kind in ("svg", "png"):
            path = folder / f"{self.name}.{kind}"
            # No date, and ids that depend on the name: the same figure gives the same file.
            metadata = {"Date": None} if kind == "svg" else {}
            style = {**STYLE, "svg.hashsalt": self.name}
            with replacing(path) as temporary, matplotlib.rc_context(style):
                self.content.savefig(temporary, format=kind, dpi=200, metadata=metadata)
            paths.append(path)
        return paths


def save_plots(folder: str | Path, plots: Iterable[Plot]) -> list[Path]:
    """Write plots as files into `folder`, which is made if need be.

    Raises:
        InputError: A file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [path for plot in plots for path in plot.save(folder)]
