"""Pseudo-median, its interval and the p-value: against definitions and published numbers."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import wilcoxon

from stssad_fast.experiments.relative import interval, pseudo_median, relative, signed

# Hollander & Wolfe (1973), 29 f.: nine patients, as in the help of R's wilcox.test.
BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]


def test_published_numbers():
    found = relative(np.array(BEFORE) - AFTER)
    assert found.median == pytest.approx(0.46)
    assert found.p_value == pytest.approx(0.01953, abs=1e-5)
    assert found.interval == pytest.approx((0.010, 0.786), abs=5e-4)
    assert found.verdict == "helpful"


@pytest.mark.parametrize("count", [6, 7, 10])
def test_the_interval_holds_the_centres_that_the_test_does_not_reject(count):
    values = np.random.default_rng(count).normal(0.3, 1, count)
    low, high = interval(values)
    for centre, kept in [(low - 1e-6, 0), (low + 1e-6, 1), (high - 1e-6, 1), (high + 1e-6, 0)]:
        assert (wilcoxon(values - centre, method="exact").pvalue > 0.05) == kept


def test_the_coverage_is_what_was_asked_for():
    ranks = np.arange(1, 9)
    inside = [
        low <= 0 <= high
        for signs in product([-1, 1], repeat=8)
        for low, high in [interval(ranks * np.array(signs, float), 0.9)]
    ]
    assert 0.9 <= np.mean(inside) < 0.95


def test_many_values_have_nearly_the_exact_interval(monkeypatch):
    values = np.random.default_rng(0).normal(size=60)
    roughly = interval(values)
    monkeypatch.setattr("stssad_fast.experiments.relative.EXACT_BELOW", 100)
    assert roughly == pytest.approx(interval(values), abs=0.01)


def test_too_few_or_equal_differences():
    few = relative([0.1, 0.2])
    assert few.median == pytest.approx(0.15)
    assert few.interval is None
    assert relative([]).median is None
    same = relative([0.0] * 7)
    assert (same.median, same.interval, same.p_value, same.verdict) == (0, (0, 0), None, "")
    assert relative([-0.1 - k / 100 for k in range(8)]).verdict == "harmful"


def test_no_verdict_on_a_few_tasks():
    lost = [-0.1, -0.2, -0.3, -0.4]
    assert relative([*lost, 0.0, 0.0]).p_value is None
    assert relative([*lost, -0.5]).verdict == "harmful"


@pytest.mark.parametrize("zeros", [0, 8, 9, 20])
def test_differences_of_zero_change_no_p_value(zeros):
    """Only the rank 1 is negative: 2 of 2^5 signs are as good or better."""
    differences = [-0.01, 0.02, 0.03, 0.04, 0.05, *[0.0] * zeros]
    assert relative(differences).p_value == pytest.approx(2 / 32)


def test_differences_have_a_sign_and_nothing_has_none():
    assert [signed(v) for v in (0.1, -0.25, -0.0001, None)] == [
        "+0.100",
        "\u22120.250",
        "0.000",
        "\u2013",
    ]


def test_the_pseudo_median_is_not_the_median():
    assert pseudo_median(np.array([0.0, 0.0, 10.0])) == 2.5
