"""Tables: numbers worked out by hand, p-values against SciPy's, and what is missing."""

from __future__ import annotations

import csv
import io
import random
import re

import numpy as np
import pytest
from scipy.stats import wilcoxon

from stssad_fast.errors import InputError
from stssad_fast.experiments.paper import DEFECTS, OURS, SEMANTIC
from stssad_fast.experiments.scores import MIN_PAIRS, NONE, Score, Summary, summarize
from stssad_fast.experiments.tables import caption, markdown, p_text, runs_csv, summary_csv

SMALL = [
    Score("a", OURS, 0, 0.8),
    Score("a", OURS, 1, 0.9),
    Score("a", "AE", 0, 0.5),
    Score("a", "AE", 1, 0.7),
    Score("b", OURS, 0, 0.6),
    Score("b", OURS, 1, 0.6),
    Score("b", "AE", 0, 0.9),
    Score("b", "AE", 1, 0.7),
]


def rows(text: str) -> list[list[str]]:
    """Cells of a Markdown table, without the line of dashes."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    table = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(row) for row in table}) == 1
    return [table[0], *table[2:]]


def many(seed: int, shift: float, tasks: int = 6, seeds: int = 5) -> list[Score]:
    rng = np.random.default_rng(seed)
    scores = []
    for task in range(tasks):
        for s in range(seeds):
            ours, other = rng.uniform(0.4, 0.9, 2)
            scores.append(Score(f"task {task}", OURS, s, float(ours + shift)))
            scores.append(Score(f"task {task}", "AE", s, float(other)))
    return scores


def test_means_and_deviations_by_hand() -> None:
    summary = summarize(SMALL)
    ours, other = summary.cells["a", OURS], summary.cells["a", "AE"]
    assert (ours.mean, other.mean) == pytest.approx((0.85, 0.6))
    # ((0.05)^2 + (0.05)^2) / (2 - 1) and likewise 0.1: n - 1, not n.
    assert (ours.std, other.std) == pytest.approx((0.005**0.5, 0.02**0.5))
    assert (ours.runs, ours.expected) == (2, 2)
    assert summary.means[OURS].mean == pytest.approx(0.725)
    assert summary.means["AE"].mean == pytest.approx(0.7)
    assert (summary.best("a"), summary.best("b")) == ({OURS}, {"AE"})
    assert summary.best() == {OURS}


def test_markdown_is_the_table() -> None:
    assert rows(markdown(summarize(SMALL))) == [
        ["Task", "AE", OURS],
        ["a", "0.600 ± 0.141", "**0.850 ± 0.071**"],
        ["b", "**0.800 ± 0.141**", "0.600 ± 0.000"],
        ["mean", "0.700", "**0.725**"],
        ["p-value", NONE, "ours"],
        ["pairs", "4", ""],
    ]
    assert "8 of 8 runs" in markdown(summarize(SMALL))


@pytest.mark.parametrize("shift", [0.0, 0.1])
@pytest.mark.parametrize("tasks", [1, 2, 6, 15])
def test_p_value_is_scipys(shift: float, tasks: int) -> None:
    scores = many(3, shift, tasks)
    ours = [s.auc for s in scores if s.method == OURS]
    other = [s.auc for s in scores if s.method != OURS]
    found = summarize(random.Random(0).sample(scores, len(scores))).comparisons["AE"]
    assert found.p_value == pytest.approx(wilcoxon(ours, other, alternative="greater").pvalue)
    assert found.pairs == 5 * tasks


def test_p_value_by_hand_is_one_sided() -> None:
    """Better in all of six pairs has probability 2^-6; worse in all of them, 1."""
    better = [Score("t", OURS, s, 0.8 + 0.01 * s) for s in range(6)]
    worse = [Score("t", "AE", s, 0.5) for s in range(6)]
    assert summarize(better + worse).comparisons["AE"].p_value == pytest.approx(2**-6)
    reverse = summarize(better + worse, ours="AE").comparisons[OURS]
    assert reverse.p_value == pytest.approx(1.0)


def test_pairs_are_those_that_both_have() -> None:
    scores = many(1, 0.1)
    lacking = [s for s in scores if (s.task, s.method, s.seed) != ("task 2", "AE", 3)]
    lacking = [s for s in lacking if (s.task, s.method) != ("task 4", OURS)]
    pairs = {(s.task, s.seed): s.auc for s in lacking if s.method == OURS}
    others = {(s.task, s.seed): s.auc for s in lacking if s.method == "AE"}
    both = sorted(pairs.keys() & others.keys())
    expected = wilcoxon([pairs[k] - others[k] for k in both], alternative="greater").pvalue
    comparison = summarize(lacking).comparisons["AE"]
    assert comparison.pairs == len(both) == 24
    assert comparison.p_value == pytest.approx(expected)


def test_no_p_value_without_evidence() -> None:
    same = [Score("t", m, s, 0.1 * s) for m in (OURS, "AE") for s in range(9)]
    assert summarize(same).comparisons["AE"].p_value is None
    few = [s for s in many(0, 0.1, 1) if s.seed < MIN_PAIRS - 1]
    assert summarize(few).comparisons["AE"].p_value is None
    assert summarize(few).comparisons["AE"].pairs == MIN_PAIRS - 1
    tied = [*few, *(Score("other", m, 0, 0.5) for m in (OURS, "AE"))]
    assert summarize(tied).comparisons["AE"].p_value is None
    assert summarize(many(0, 0.1, 1)).comparisons["AE"].p_value is not None


def test_equal_differences_share_their_rank() -> None:
    """0.9 - 0.8 and 0.4 - 0.3 differ in floating point, but not as differences of AUCs."""
    pairs = [(0.9, 0.8), (0.4, 0.3), (0.3, 0.4), (0.7, 0.6), (0.5, 0.5), (0.9, 0.7)]
    assert len({a - b for a, b in pairs if a > b}) > 2
    scores = [Score("t", OURS, i, a) for i, (a, _) in enumerate(pairs)]
    scores += [Score("t", "AE", i, b) for i, (_, b) in enumerate(pairs)]
    expected = wilcoxon([0.1, 0.1, -0.1, 0.1, 0.0, 0.2], alternative="greater").pvalue
    found = summarize(scores).comparisons["AE"]
    assert (found.pairs, found.p_value) == (6, pytest.approx(expected))


@pytest.mark.parametrize("more", [[], [0.0] * 20])
def test_pairs_without_a_difference_take_no_rank(more: list[float]) -> None:
    """Of the ranks 1 to 5, the 3 is against ours: 5 of 2^5 signs are as good or better.

    With the ranks 4 to 8 that three zeros would leave (Pratt), it would be 4 of them.
    """
    differences = [0.0, 0.1, 0.2, -0.3, 0.4, 0.5, 0.0, 0.0, *more]
    scores = [Score("t", OURS, i, 0.5 + d) for i, d in enumerate(differences)]
    scores += [Score("t", "AE", i, 0.5) for i in range(len(differences))]
    found = summarize(scores).comparisons["AE"]
    assert (found.pairs, found.p_value) == (len(differences), pytest.approx(5 / 32))


def test_equal_means_are_all_best() -> None:
    scores = [Score("t", OURS, 0, 0.99951), Score("t", "AE", 0, 1.0), Score("t", "FO", 0, 0.9)]
    assert summarize(scores).best("t") == {OURS, "AE"}


def test_one_seed_shows_no_deviation() -> None:
    summary = summarize([s for s in SMALL if s.seed == 0])
    assert rows(markdown(summary))[1] == ["a", "0.500", "**0.800**"]
    assert summary.cells["a", OURS].std is None
    assert "±" not in markdown(summary) and "one run" in caption(summary)


def test_missing_runs_are_marked_in_cell_row_and_caption() -> None:
    lacking = [s for s in SMALL if (s.task, s.method) != ("b", "AE") and s != SMALL[0]]
    summary = summarize(lacking)
    assert rows(markdown(summary))[1:4] == [
        ["a", "**0.600 ± 0.141**", "0.900 [1/2]"],
        ["b", NONE, "**0.600 ± 0.000**"],
        ["mean", "0.600 [2/4]", "**0.750 [3/4]**"],
    ]
    assert "Only 5 of 8 runs" in caption(summary)


def test_rows_and_columns_without_any_run() -> None:
    summary = summarize([], tasks=["a", "b"], methods=["AE", OURS], seeds=[0, 1, 2])
    assert rows(markdown(summary))[1:] == [
        ["a", NONE, NONE],
        ["b", NONE, NONE],
        ["mean", NONE, NONE],
        ["p-value", NONE, "ours"],
        ["pairs", "0", ""],
    ]
    assert summary.best("a") == frozenset()
    assert "Only 0 of 12 runs" in caption(summary)
    assert markdown(summarize([]))


def test_order_does_not_depend_on_which_run_ended_first() -> None:
    methods = ["FO", "RD-RO", OURS, "AE", "RS-CO", "another", "MMD1"]
    scores = [Score(f"2/{t}", m, s, 0.5) for t in (10, 9, 1) for m in methods for s in range(3)]
    first = summarize(scores)
    assert first.tasks == ("2/1", "2/9", "2/10")
    assert first.methods == ("AE", "RS-CO", "RD-RO", OURS, "MMD1", "FO", "another")
    for seed in range(5):
        shuffled = summarize(random.Random(seed).sample(scores, len(scores)))
        assert markdown(shuffled) == markdown(first)
        assert runs_csv(shuffled) == runs_csv(first)
    chosen = summarize(scores, tasks=["2/9", "2/1"], methods=[OURS, "AE"], seeds=[2])
    assert (chosen.tasks, chosen.methods, chosen.seeds) == (("2/9", "2/1"), (OURS, "AE"), (2,))
    assert len(chosen.runs) == 4


def test_names_cannot_break_the_table() -> None:
    scores = [Score("a|b\nc", "m|1", 0, 0.5), Score("a|b\nc", OURS, 0, 0.6)]
    table = rows(markdown(summarize(scores)))
    assert table[0] == ["Task", OURS, r"m\|1"]
    assert table[1][0] == r"a\|b c"
    lines = list(csv.DictReader(io.StringIO(runs_csv(summarize(scores)))))
    assert {line["task"] for line in lines} == {"a|b\nc"}


def test_papers_figures_stand_in_parentheses() -> None:
    scores = [Score(t, m, s, 0.7) for t in DEFECTS.tasks for m in DEFECTS.methods for s in (0, 1)]
    table = rows(markdown(summarize(scores), DEFECTS))
    cable = next(row for row in table if row[0] == "cable/bent_wire")
    assert cable[1] == "**0.700 ± 0.000** (0.515)"
    column = table[0].index(OURS)
    mean, p_value = (next(row for row in table if row[0] == name) for name in ("mean", "p-value"))
    assert mean[column] == "**0.700** (0.722)"
    assert p_value[table[0].index("RD-CD")] == f"{NONE} (0.0728)"
    assert p_value[1] == f"{NONE} (< 0.0001)"
    # Of other tasks the paper has no mean; of some of its tasks, that of those, and no p-value.
    partly = rows(markdown(summarize([s for s in scores if s.task[:4] == "tile"]), DEFECTS))
    assert partly[-3][partly[0].index("RD-CD")] == "**0.700** (0.825)"
    assert partly[-2][1] == NONE
    # Of its tasks and others, as all of MVTec AD's are, it has both, over its own.
    foreign = summarize([*scores, Score("own", OURS, 0, 0.5)])
    table = rows(markdown(foreign, DEFECTS))
    assert table[-3][column] == "0.692 [47/48] (0.722)"
    assert table[-2][1] == f"{NONE} (< 0.0001)"
    assert "its means and p-values are over its 23 tasks alone." in caption(foreign, DEFECTS)
    lacking = [s for s in scores if s.task != "tile/oil"]
    table = rows(markdown(summarize([*lacking, Score("own", OURS, 0, 0.5)]), DEFECTS))
    assert (table[-3][column], table[-2][1]) == ("0.691 [45/46]", NONE)


def test_csv_of_runs_and_summary() -> None:
    summary = summarize([s for s in SMALL if s != SMALL[0]])
    lines = list(csv.DictReader(io.StringIO(runs_csv(summary))))
    assert len(lines) == 8
    values = {(x["task"], x["method"], x["seed"]): x["auc"] for x in lines}
    assert values["a", OURS, "0"] == "" and values["a", OURS, "1"] == "0.9"
    lines = list(csv.DictReader(io.StringIO(summary_csv(summary))))
    assert [(x["task"], x["method"]) for x in lines] == [
        (task, method) for task in ("a", "b", "mean") for method in ("AE", OURS)
    ]
    by_name = {(x["task"], x["method"]): x for x in lines}
    assert by_name["a", OURS]["runs"] == "1" and by_name["a", OURS]["expected"] == "2"
    assert float(by_name["b", "AE"]["mean"]) == pytest.approx(0.8)
    assert by_name["mean", "AE"]["pairs"] == "3" and by_name["mean", "AE"]["p_value"] == ""
    scores = [Score(t, m, 0, 0.7) for t in SEMANTIC.tasks for m in SEMANTIC.methods]
    text = summary_csv(summarize(scores), SEMANTIC)
    last = list(csv.DictReader(io.StringIO(text)))
    assert {x["paper"] for x in last if (x["task"], x["method"]) == ("6/9", OURS)} == {"0.944"}
    means = {x["method"]: x["paper"] for x in last if x["task"] == "mean"}
    assert float(means["RD-RO"]) == pytest.approx(0.714, abs=5e-4)
    assert means["FO"] == ""  # one of its figures cannot be read


@pytest.mark.parametrize("auc", [float("nan"), -0.1, 1.01])
def test_an_auc_out_of_range_is_refused(auc: float) -> None:
    with pytest.raises(InputError, match="AE on a, seed 3"):
        summarize([Score("a", "AE", 3, auc)])


def test_two_runs_of_one_seed_are_refused() -> None:
    with pytest.raises(InputError, match="two runs of AE on a have seed 0"):
        summarize([*SMALL, Score("a", "AE", 0, 0.5)])


def test_p_text() -> None:
    assert [p_text(p) for p in (None, 0.0, 4.9e-5, 5e-5, 0.0728)] == [
        NONE,
        "< 0.0001",
        "< 0.0001",
        "0.0001",
        "0.0728",
    ]


def test_paper_is_read_whole() -> None:
    assert (len(DEFECTS.tasks), len(DEFECTS.methods)) == (23, 12)
    assert (len(SEMANTIC.tasks), len(SEMANTIC.methods)) == (18, 8)
    assert len(DEFECTS.auc) == 23 * 12
    assert len(SEMANTIC.auc) == 18 * 8 - 2
    assert DEFECTS.mean(OURS) == pytest.approx(0.722, abs=5e-4)
    assert DEFECTS.mean("RD-CD") == pytest.approx(0.684, abs=6e-4)
    assert SEMANTIC.mean(OURS) == pytest.approx(0.806, abs=5e-4)
    assert SEMANTIC.mean("RD-RO") == pytest.approx(0.714, abs=5e-4)
    assert SEMANTIC.mean("FO") == pytest.approx(0.517, abs=1e-3)
    assert all(0 < auc < 1 for auc in [*DEFECTS.auc.values(), *SEMANTIC.auc.values()])
    main = DEFECTS.methods[: DEFECTS.methods.index(OURS) + 1]
    best = [max(main, key=lambda m, t=task: DEFECTS.auc[t, m]) for task in DEFECTS.tasks]
    assert best.count(OURS) == 9  # as Section 4.2 says
    assert SEMANTIC.auc["6/9", OURS] == 0.944 and SEMANTIC.auc["2/6", OURS] == 0.887  # 4.3
    significant = [m for m in main if m != OURS and DEFECTS.p_values[m] < 0.05]
    assert len(significant) == 7  # of the eight baselines


def test_papers_means_as_runs_of_one_seed() -> None:
    """The whole way on the paper's own table: it has no empty cell and its best is ours."""
    scores = [Score(task, method, 0, auc) for (task, method), auc in DEFECTS.auc.items()]
    summary: Summary = summarize(scores, tasks=DEFECTS.tasks)
    assert summary.methods == DEFECTS.methods
    assert summary.best() == {OURS}
    assert all(c.pairs == 23 and c.p_value is not None for c in summary.comparisons.values())
