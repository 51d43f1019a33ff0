"""Whether known sizes and aspects were found."""

import pytest

from stssad_fast import patch_parameters, patch_shape
from stssad_fast.experiments.outcomes import Fit
from stssad_fast.experiments.recovered import Recovered, recovered, recovered_table, upright
from stssad_fast.experiments.store import Record


@pytest.mark.parametrize(
    ("angle", "aspect"), [(0, 4.0), (180, 4.0), (90, 0.25), (-90, 0.25), (45, 1.0), (20, 2.27)]
)
def test_the_aspect_along_the_sides(angle, aspect):
    found = upright({"size": 0.02, "aspect": 4.0, "angle": angle})
    assert found == {"size": 0.02, "aspect": pytest.approx(aspect, rel=0.05)}
    # However the same patch is described.
    size, other, turned = (v.item() for v in patch_parameters(patch_shape(0.02, 4.0, angle)))
    again = upright({"size": size, "aspect": other, "angle": turned})
    assert again["aspect"] == pytest.approx(found["aspect"], rel=1e-4)


@pytest.mark.parametrize(
    ("size", "sized"), [(0.019, False), (0.02, True), (0.08, True), (0.081, False)]
)
def test_sizes_within_a_factor_of_two(size, sized):
    assert Recovered(0.04, 1.0, size, 1.0).sized == sized


@pytest.mark.parametrize(
    ("truth", "aspect", "directed"),
    [(4, 1.1, True), (4, 0.9, False), (0.5, 0.9, True), (0.5, 1.1, False), (1, 9, None)],
)
def test_the_direction_of_the_aspect(truth, aspect, directed):
    assert Recovered(0.04, truth, 0.04, aspect).directed is directed


def record(start, shift, size, auc=1.0, aspect=2.0):
    values = {
        "final": {"size": size, "aspect": aspect, "angle": 0.0},
        "tests": {"t": {"auc": auc, "score_shift": shift, "score_variance": shift}},
    }
    config = {"start": {"size": start}}
    return Record("", config, "", "", "done", values, None, 1.0, "", {})


def test_the_kept_start_is_what_was_learned():
    task = "size 0.04 aspect 2"
    records = [record(0.01, 3.0, 0.03, 0.98), record(0.1, 2.0, 0.2)]
    fits = [Fit(task, "ST-SSAD", 1, records), Fit(task, "FO", 1, records)]
    assert recovered(fits, "score_shift") == [Recovered(0.04, 2.0, 0.03, 2.0, 1, 0.98)]
    assert recovered([Fit(task, "ST-SSAD", 1, [record(0.1, None, 0.2)])], "score_shift") == []


def test_the_table_counts_what_is_found_for_each_seed():
    found = [
        Recovered(0.04, 2.0, 0.03, 3.0, 0, 1.0),
        Recovered(0.04, 2.0, 0.01, 0.5, 1, 0.98),
        Recovered(0.01, 1.0, 0.011, 1.2, 0, 0.995),
    ]
    grid = recovered_table(found)
    assert grid.rows[0] == ["0.01", "1", "0.011", "1.2", "0.995"]
    assert grid.rows[1] == ["0.04", "2", "0.03, 0.01", "3, 0.5", "1.000, 0.980"]
    assert grid.rows[2] == ["**found**", "", "2 of 2, 0 of 1", "1 of 1, 0 of 1", "2 of 2, 0 of 1"]
    assert recovered_table([]).rows == []
