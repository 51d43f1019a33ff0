"""What the page says of a ranking."""

from stssad_fast.augment.catalogue import Named
from stssad_fast.experiments.recommending import Ranked
from stssad_fast.report.recommending import advice, ranking_table


def row(text, *separations, auc=None):
    return Ranked(Named.parse(text), separations, 1.0, 2.0, 0.5, auc, ())


def test_advice_names_the_best_and_what_is_as_good():
    rows = [row("cutout", 2.0, 3.0), row("noise", 2.2, 2.4), row("blur", 0.1, 0.2)]
    text = advice(rows)
    assert text.startswith("CutOut fits best: it sets the test pictures 2.5 standard deviations")
    assert "Not clearly worse, as the seeds differ: Noise." in text
    assert "stssad-fast tune --augmentation cutdiff" in text


def test_advice_when_nothing_is_found():
    assert "No candidate" in advice([row("noise", -0.2), row("blur", -0.5)])
    assert "tune" not in advice([row("noise", 1.0)])


def test_aucs_are_a_column_where_they_are_known():
    known, unknown = (ranking_table([row("noise", 1.0, auc=auc)]) for auc in (0.75, None))
    assert known.header[-1] == "AUC"
    assert known.rows[0][-1] == "0.750"
    assert "AUC" not in unknown.markdown()
    assert len(unknown.rows[0]) == len(unknown.header)
