"""The page and the figures of an experiment: whole, self-contained, and true to the numbers."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver
from PIL import Image

from stssad_fast.errors import InputError
from stssad_fast.experiments.gallery import gallery, gallery_picture
from stssad_fast.experiments.lemma import loss_grid
from stssad_fast.experiments.paper import DEFECTS, OURS
from stssad_fast.experiments.recovered import Recovered
from stssad_fast.experiments.scores import Score, summarize
from stssad_fast.report import paper_figures
from stssad_fast.report.experiment import ExperimentPage, Failure, write_page
from stssad_fast.report.paper_figures import EmbeddingSets
from stssad_fast.report.plot import Plot, save_plots
from stssad_fast.report.table_figures import auc_dots, differences

from .test_report import Page

METHODS = ["AE", "RD-CD", OURS]


def scores(seeds: int = 3) -> list[Score]:
    rng = np.random.default_rng(0)
    return [
        Score(task, method, seed, float(np.clip(DEFECTS.auc[task, method] + e, 0, 1)))
        for task in DEFECTS.tasks[:6]
        for method in METHODS
        for seed, e in enumerate(rng.normal(0, 0.02, seeds))
    ]


@pytest.fixture(scope="module")
def page() -> ExperimentPage:
    lacking = [s for s in scores() if (s.task, s.method, s.seed) != ("cable/cable_swap", "AE", 1)]
    lacking = [s for s in lacking if (s.task, s.method) != ("cable/combined", "RD-CD")]
    return ExperimentPage(
        "Table 1 <& more>",
        "stssad-fast experiment defects 'a folder' --out runs/defects",
        done=len(lacking),
        left=2,
        failures=[Failure("combined · RD-CD · seed 0", "<b>the loss</b> is not finite")],
        summary=summarize(lacking, tasks=DEFECTS.tasks[:6], methods=METHODS, seeds=range(3)),
        paper=DEFECTS,
        figures=[Plot("lemma", "Fig. 7", "The loss", paper_figures.lemma(loss_grid(9)))],
        settings={"width": 16},
        machine={"processor": "two cores"},
        versions={"torch": "9.9"},
        dates="1 to 2 May",
        seconds=3725.0,
        notes=["At 64 px."],
    )


def test_page_is_whole_and_self_contained(page: ExperimentPage, tmp_path: Path) -> None:
    path = write_page(tmp_path / "deep" / "index.html", page)
    text = path.read_text(encoding="utf-8")
    parsed = Page(text)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {"table", "figures", "failures", "figure-auc", "figure-differences"} <= set(parsed.ids)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in parsed.links)
    assert {link[1:] for link in parsed.links if link[0] == "#"} <= set(parsed.ids)
    assert not parsed.tags & {"script", "link", "iframe", "b>"}
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert os.listdir(path.parent) == ["index.html"]


def test_page_says_what_was_run_and_what_came_of_it(page: ExperimentPage, tmp_path: Path) -> None:
    text = write_page(tmp_path / "index.html", page).read_text(encoding="utf-8")
    assert "<title>Table 1 &lt;&amp; more&gt;</title>" in text
    assert "&lt;b&gt;the loss&lt;/b&gt; is not finite" in text
    facts = ["not finished", "of 53", "1 h 02 min", "two cores", "torch 9.9", "1 to 2 May"]
    facts += ["experiment defects", "At 64 px.", "Only 50 of 54 runs", "seed 0", "width"]
    for fact in facts:
        assert fact in text, fact


def test_table_on_the_page_is_the_summarys(page: ExperimentPage, tmp_path: Path) -> None:
    text = write_page(tmp_path / "index.html", page).read_text(encoding="utf-8")
    lines = re.findall(r'<tr.*?><th scope="row">(.*?)</th>(.*)</tr>', text)
    table = {
        name: [re.sub(r"<(?!/?b>).*?>", "", c) for c in re.findall(r"<td.*?>(.*?)</td>", cells)]
        for name, cells in lines
    }
    summary = page.summary
    assert summary is not None
    for task in summary.tasks:
        assert len(table[task]) == len(METHODS)
        for method, cell in zip(METHODS, table[task], strict=True):
            mean = summary.cells[task, method].mean
            assert f"({DEFECTS.auc[task, method]:.3f})" in cell
            assert cell.startswith(
                "\u2013 [0/3]" if mean is None else ("<b>" if "<b>" in cell else f"{mean:.3f}")
            )
            assert ("<b>" in cell) == (method in summary.best(task))
    assert "[2/3]" in table["cable/cable_swap"][0]
    assert "[17/18]" in table["mean"][0] and "[15/18]" in table["mean"][1]
    assert table["pairs"] == ["17", "15", ""]
    assert table["p-value"][2] == ""
    assert "(<" not in table["p-value"][0]  # the paper's p-value is of all its tasks


def test_same_input_same_page(page: ExperimentPage, tmp_path: Path) -> None:
    first, second = (write_page(tmp_path / name, page).read_bytes() for name in "ab")
    assert first == second


def test_a_command_that_is_no_utf_8(tmp_path: Path) -> None:
    page = ExperimentPage("t", os.fsdecode(b"--out b\xff"), done=1)
    text = write_page(tmp_path / "index.html", page).read_text(encoding="utf-8")
    assert r"--out b\udcff" in text


def test_colours_go_dark_with_the_page(page: ExperimentPage) -> None:
    for plot in page.plots():
        assert "var(--" in plot.html() and 'role="img"' in plot.html()


@pytest.mark.parametrize(
    "summary", [None, summarize([]), summarize([], tasks=["a"], methods=["m"])]
)
def test_page_before_any_run(summary: object, page: ExperimentPage, tmp_path: Path) -> None:
    bare = ExperimentPage("Nothing yet", "command", done=0, left=7, summary=summary)  # type: ignore[arg-type]
    text = write_page(tmp_path / "index.html", bare).read_text(encoding="utf-8")
    parsed = Page(text)
    assert ("table" in parsed.ids) == (summary is not None)
    assert "figures" not in parsed.ids and "failures" not in parsed.ids
    assert "not finished" in text


def test_a_finished_page_does_not_say_otherwise(page: ExperimentPage, tmp_path: Path) -> None:
    done = dataclasses.replace(page, left=0, failures=())
    text = write_page(tmp_path / "index.html", done).read_text(encoding="utf-8")
    assert "not finished" not in text and "Jobs that failed" not in text


def test_given_pictures_are_shown_as_they_are(page: ExperimentPage, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, "PNG")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    figures = [Plot("one", 'A "png"', "", buffer.getvalue()), Plot("two", "An svg", "", svg)]
    path = write_page(tmp_path / "index.html", dataclasses.replace(page, figures=figures))
    parsed = Page(path.read_text(encoding="utf-8"))
    assert [i["alt"] for i in parsed.images] == ['A "png"', "An svg"]
    assert [i["src"][:16] for i in parsed.images] == ["data:image/png;b", "data:image/svg+x"]
    assert "script" not in parsed.tags
    paths = save_plots(tmp_path / "plots", figures)
    assert [p.name for p in paths] == ["one.png", "two.svg"]
    assert [p.read_bytes() for p in paths] == [buffer.getvalue(), svg]


def test_figures_of_one_name_are_refused(page: ExperimentPage, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="differ in their names"):
        write_page(tmp_path / "x.html", dataclasses.replace(page, figures=[*page.figures] * 2))
    assert not list(tmp_path.iterdir())


def test_plots_as_files(page: ExperimentPage, tmp_path: Path) -> None:
    paths = save_plots(tmp_path / "plots", page.plots())
    assert sorted(p.name for p in paths) == sorted(
        f"{name}.{kind}" for name in ("auc", "differences", "lemma") for kind in ("svg", "png")
    )
    for path in paths:
        if path.suffix == ".svg":
            assert ET.parse(path).getroot().tag.endswith("svg")
            assert "var(" not in path.read_text(encoding="utf-8")
        else:
            image = Image.open(path).convert("RGB")
            assert image.getpixel((0, 0)) == (255, 255, 255) and min(image.size) >= 300
    again = save_plots(tmp_path / "again", page.plots())
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]


def test_plots_into_a_file_are_refused(page: ExperimentPage, tmp_path: Path) -> None:
    folder = tmp_path / "plots"
    folder.mkdir()
    (folder / "lemma.svg").mkdir()
    with pytest.raises(InputError, match=r"lemma\.svg"):
        save_plots(folder, page.figures)


def drawn(figure: Figure, panel: int, marker: str) -> list[tuple[float, float]]:
    """Points of all lines with this marker."""
    lines = [line for line in figure.axes[panel].lines if line.get_marker() == marker]
    return [(float(x), float(y)) for line in lines for x, y in zip(*line.get_data(), strict=True)]


def test_dots_are_the_means_and_the_runs() -> None:
    summary = summarize(scores())
    figure = auc_dots(summary)
    assert [axes.get_title() for axes in figure.axes] == METHODS
    for panel, method in enumerate(METHODS):
        dots = drawn(figure, panel, "o")
        for height, task in enumerate(summary.tasks):
            mean = summary.cells[task, method].mean
            expected = {summary.runs[task, method, seed] for seed in range(3)} | {mean}
            assert {x for x, y in dots if y == height} == expected
        bars = drawn(figure, panel, "|")
        ours = [summary.cells[task, OURS].mean for task in summary.tasks]
        assert [x for x, _ in bars][:-1] == ([] if method == OURS else ours)


def test_circles_are_the_differences() -> None:
    summary = summarize(scores())
    circles = drawn(differences(summary), 0, "o")
    for height, method in enumerate(["AE", "RD-CD"]):
        found = sorted(x for x, y in circles if y == height)
        gaps = [
            (summary.cells[t, OURS].mean or 0) - (summary.cells[t, method].mean or 0)
            for t in summary.tasks
        ]
        assert found == pytest.approx(sorted(gaps))


def test_circles_are_of_seeds_that_both_have() -> None:
    """AE lacks the seed on which all is worse, and is behind by 0.1 with the other."""
    runs = [("AE", 0, 0.8), (OURS, 0, 0.9), (OURS, 1, 0.5)]
    summary = summarize(Score("t", method, seed, auc) for method, seed, auc in runs)
    assert drawn(differences(summary), 0, "o") == [(pytest.approx(0.1), 0.0)]


def test_charts_without_ours_or_others(tmp_path: Path) -> None:
    others = [s for s in scores() if s.method != OURS]
    ours = [s for s in scores(1) if s.method == OURS]
    page = ExperimentPage("t", "c", done=1, summary=summarize(others))
    assert [plot.name for plot in page.plots()] == ["auc"]
    text = write_page(tmp_path / "a.html", page).read_text(encoding="utf-8")
    assert "p-value" not in text and "orange" not in text
    page = ExperimentPage("t", "c", done=1, summary=summarize(ours))
    assert [plot.name for plot in page.plots()] == ["auc"]
    write_page(tmp_path / "b.html", page)


@pytest.mark.parametrize("name", ["US$ 5 % and $ 6", r"$\frac$", "$a$b", "a$", r"\$a$"])
def test_names_are_no_formulas(name: str, tmp_path: Path) -> None:
    ones = EmbeddingSets(*(np.ones((n, 4)) for n in (3, 2, 1, 1)))
    learned = paper_figures.learned_augmentation(
        [(name, np.ones((1, 9, 9)), np.ones((1, 9, 9)), {})]
    )
    figures = [auc_dots(summarize([Score(name, "AE", 0, 0.5)]))]
    figures += [paper_figures.embedding_maps([(name, ones)]), learned]
    for figure in figures:
        assert name in Plot("a", "", "", figure).html().unescape()


def test_arrows_are_the_descent() -> None:
    grid = loss_grid(9)
    (arrows,) = (c for c in paper_figures.lemma(grid).axes[0].collections if isinstance(c, Quiver))
    for x, y, u, v in zip(arrows.X, arrows.Y, arrows.U, arrows.V, strict=True):
        i, j = (int(abs(grid.u - place).argmin()) for place in (x, y))
        assert (u, v) == tuple(grid.descent[i, j].tolist())


def test_trajectories_are_means_of_log_size_and_keep_the_last() -> None:
    figure = paper_figures.size_trajectories({0.04: [np.array([0.01, 0.02]), np.array([0.04])]})
    truth, mean = figure.axes[0].lines
    assert list(truth.get_ydata()) == [0.04, 0.04]
    assert np.asarray(mean.get_ydata()) == pytest.approx([0.02, (0.02 * 0.04) ** 0.5])


def test_recovered_runs_lead_to_their_truth() -> None:
    runs = [Recovered(0.01, 1.0, 0.012, 1.1), Recovered(0.04, 2.0, 0.03, 1.9)]
    figure = paper_figures.learned_against_true(runs)
    assert drawn(figure, 0, "s") == [(0.01, 1.0), (0.04, 2.0)]
    assert drawn(figure, 0, "o") == [(0.012, 1.1), (0.03, 1.9)]
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"


def test_embedding_maps_show_every_set() -> None:
    rng = np.random.default_rng(0)
    sets = EmbeddingSets(*(rng.normal(size=(n, 6)) for n in (900, 20, 10, 5)))
    same = EmbeddingSets(*(np.ones((n, 4)) for n in (3, 2, 1, 0)))
    figure = paper_figures.embedding_maps([("a", sets), ("b", same)])
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [650, 20, 10, 5]
    assert [len(line.get_xdata()) for line in figure.axes[1].lines] == [3, 2, 1, 0]


def test_pictures_stand_in_their_rows(tmp_path: Path) -> None:
    grey, shown = np.full((2, 1, 8, 8), 0.25), gallery(gallery_picture(side=32))
    figure = paper_figures.picture_rows([("a", grey), ("b", grey[:1] + 0.5)], ["x", "y"])
    (image,) = figure.axes[0].images
    sheet = np.asarray(image.get_array())
    assert sheet.shape == (17, 17, 4)
    assert (sheet[:8, 9:, :3] == 0.25).all() and (sheet[9:, :8, :3] == 0.75).all()
    assert (sheet[9:, 9:, 3] == 0).all() and (sheet[8, :, 3] == 0).all()
    learned = paper_figures.learned_augmentation(
        [("task", np.ones((3, 20, 20)), np.zeros((3, 20, 20)), {"size": 0.0123, "aspect": 2.0})]
    )
    assert "size 0.012\naspect 2" in [text.get_text() for text in learned.axes[0].texts]
    plots = [Plot("a", "", "", figure), Plot("b", "", "", learned)]
    plots.append(Plot("gallery", "", "", paper_figures.gallery(shown)))
    assert len(save_plots(tmp_path, plots)) == 6
    assert all("data:image/png" in plot.html() for plot in plots)


@pytest.mark.parametrize("count", [3, 9])
def test_the_names_of_rows_are_not_cut_off(count: int) -> None:
    rows = [("rotated 180°", np.ones((8, 1, 16, 16)))] * count
    figure = Plot("a", "", "", paper_figures.picture_rows(rows)).content
    assert isinstance(figure, Figure)
    assert all(name.get_window_extent().x0 > 0 for name in figure.axes[0].get_yticklabels())


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("a", np.ones((0, 1, 8, 8)))],
        [("a", np.ones((1, 1, 8, 8))), ("b", np.ones((1, 1, 9, 8)))],
    ],
)
def test_pictures_that_do_not_fit_are_refused(rows: list[tuple[str, np.ndarray]]) -> None:
    with pytest.raises(ValueError, match="of one shape"):
        paper_figures.picture_rows(rows)
