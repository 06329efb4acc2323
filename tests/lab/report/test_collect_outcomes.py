"""Coverage and performance from rows whose sets are known by hand: nine calibration rows, so p > 0.1 is rank 2 of 10."""

from __future__ import annotations

import pytest

from ml_core.base.settings import Settings
from ml_core.lab.measuring.performance import performance
from ml_core.lab.report import collect_outcomes
from ml_core.lab.report.collect_outcomes import OutcomeFacts, outcome_facts
from ml_core.lab.report.collect_period import DAY, Stretch
from ml_core.lab.watching.ledger import open_ledger_tables
from ml_core.lab.watching.live_performance import matured_answers
from ml_core.lab.watching.matured_arrays import arrays_of, cells_of, row_targets
from tests.lab.report.known_ledger import BEGAN, MODEL, QUIET, THREE_DAYS, ledger
from tests.lab.watching.ward import HORIZON_DAYS, START, Ward, patients
from tests.toy_models import grouped_toy, toy_model


def told(path, detectors=None, guarantee="class_conditional"):
    manifest = toy_model().bundle.manifest.model_copy(update={"guarantee": guarantee})
    return outcome_facts(path, MODEL, manifest, THREE_DAYS, detectors or {})


def test_coverage_is_of_the_models_own_answers_day_by_day(tmp_path):
    coverage = told(ledger(tmp_path), {"coverage:1": QUIET}).coverage
    zero, one = coverage.classes
    assert [(b.rows, b.observed) for b in zero.buckets] == [(30, 0.9), (0, None), (0, None)]
    assert [(b.rows, b.observed) for b in one.buckets] == [(25, 0.4), (0, None), (4, 1.0)]
    assert (one.rows, one.observed, one.promised) == (29, pytest.approx(14 / 29), 0.9)
    assert (zero.detector, one.detector) == (None, QUIET)
    assert [b.start for b in one.buckets] == [BEGAN, BEGAN + DAY, BEGAN + 2 * DAY]


def test_a_promise_to_all_classes_together_has_one_history(tmp_path):
    coverage = told(ledger(tmp_path, "marginal"), {"coverage:all": QUIET}, "marginal").coverage
    (judged,) = coverage.classes
    assert (judged.label, judged.rows, judged.detector) == ("all", 59, QUIET)
    assert judged.buckets[0].observed == pytest.approx(37 / 55)
    assert 0.0 < judged.buckets[0].lower < judged.buckets[0].upper <= 1.0


def test_performance_is_told_where_there_are_enough_of_both_outcomes(tmp_path):
    performance = told(ledger(tmp_path)).performance
    first, second, third = performance.buckets
    assert (first.rows, first.positives, first.auc) == (55, 25, 1.0)
    assert first.brier == pytest.approx((30 * 0.3**2 + 25 * 0.4**2) / 55)
    assert (second.rows, second.auc, third.rows, third.auc) == (0, None, 4, None)


def test_no_outcome_in_the_period_leaves_detectors_and_no_history(tmp_path):
    path = ledger(tmp_path)
    later = Stretch(BEGAN + 30 * DAY, BEGAN + 31 * DAY, DAY)
    found = outcome_facts(path, MODEL, toy_model().bundle.manifest, later, {"coverage:1": QUIET})
    assert [(c.buckets, c.observed, c.detector) for c in found.coverage.classes] == [
        ((), None, None),
        ((), None, QUIET),
    ]
    assert (found.performance, found.reliability, found.groups) == (None, None, None)


def test_without_a_promise_nothing_can_be_judged(tmp_path):
    assert told(open_ledger_tables(Settings(home=tmp_path), "toy")) == OutcomeFacts()


def test_reliability_is_of_all_outcomes_of_the_period(tmp_path):
    path = ledger(tmp_path)
    found = told(path).reliability
    assert (found.label, found.rows, sum(point.n for point in found.points)) == ("1", 59, 59)
    assert [(p.predicted, p.observed, p.n) for p in found.points] == [
        (pytest.approx(0.3), 0.0, 30), (pytest.approx(0.6), 1.0, 29)
    ]  # fmt: skip
    assert (found.slope, found.intercept) == (None, None)  # the scores separate the classes
    assert told(path).groups is None


# --- a ward with groups ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """A month ago, 500 patients of a model that promises coverage by sex and measures it by age."""
    place = Ward(tmp_path_factory.mktemp("ward"), champion=grouped_toy().folder)
    rows = patients(500, seed=4)
    place.answer(rows.assign(sex=["female" if n % 3 else "male" for n in range(len(rows))]))
    place.pass_days(HORIZON_DAYS + 1)
    place.look()
    yield place
    place.close()


def of_ward(ward):
    found = matured_answers(ward.home.settings)
    period = Stretch(START.replace(hour=0), START.replace(hour=0) + DAY, DAY)
    tables = open_ledger_tables(ward.home.settings, ward.home.settings.model_name)
    return found, outcome_facts(tables, found.model.model_hash, found.model.manifest, period, {})


def test_groups_are_told_as_the_command_tells_them(ward):
    known, found = of_ward(ward)
    wanted = cells_of(known.rows, known.targets, known.model.manifest.groups)
    groups = found.groups
    assert (groups.level, groups.rows) == (0.9, 500)
    assert [f"{c.grouping}={c.cell}" for c in groups.cells] == [each.cell.group for each in wanted]
    for cell, each in zip(groups.cells, wanted, strict=True):
        assert (cell.patients, cell.is_promised) == (each.patients, each.cell.is_promised)
        for told_class, measured in zip(cell.classes, each.classes, strict=True):
            band = measured.band
            shown = (None,) * 5 if band is None else (band.n, band.observed, band.promised, band.lower, band.upper)
            assert shown == (
                told_class.rows, told_class.observed, told_class.promised, told_class.lower, told_class.upper
            )  # fmt: skip
        if each.performance is not None:
            assert (cell.auc, cell.slope) == (each.performance.auc, each.performance.calibration_slope)
    by_name = {f"{c.grouping}={c.cell}": c for c in groups.cells}
    assert by_name["sex=female"].classes[0].promised >= 0.9
    assert by_name["age_band=70 and above"].classes[0].promised is None
    assert by_name["sex=unknown"].brier is None


def test_the_slope_is_that_of_all_answers_and_every_answer_counts_in_coverage(ward):
    known, found = of_ward(ward)
    whole = performance(arrays_of(known.rows), row_targets(known.rows, known.targets))
    assert (found.reliability.slope, found.reliability.intercept) == (
        whole.calibration_slope, whole.calibration_intercept
    )  # fmt: skip
    assert found.reliability.points == whole.reliability
    assert [c.rows for c in found.coverage.classes] == list(whole.n_per_class)


def test_of_very_many_answers_the_latest_are_told(ward, monkeypatch):
    monkeypatch.setattr(collect_outcomes, "MOST_ROWS", 200)
    _, found = of_ward(ward)
    assert (found.groups.rows, found.reliability.rows) == (200, 200)
    assert sum(bucket.rows for bucket in found.performance.buckets) == 500
