from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from xml.etree import ElementTree as ET

import pytest

from ml_core.lab.report import plots
from ml_core.lab.report.facts import AnswerBucket, AnswerHistory
from ml_core.lab.report.facts_drift import Detector, EvidencePoint, LevelShares, NumberShares
from ml_core.lab.report.facts_outcomes import (
    ClassCoverage,
    CoverageBucket,
    ExpectedBucket,
    ExpectedSeries,
    PerformanceBucket,
    PerformanceHistory,
)
from ml_core.lab.report.facts_upkeep import ShadowPair
from ml_core.lab.report.plots import MOST_LEVELS, differences, distribution, small_distribution
from tests.lab.report.example_facts import DAY_S, NOW

QUANTILES = (0.25, 0.5, 0.75)


def says(svg):
    return ET.fromstring(svg).attrib["aria-label"]


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter("text")]


def marks(svg, colour):
    """Marks of that colour: where they stand, from the left."""
    found = [e for e in ET.fromstring(svg).iter("use") if f"fill:var(--{colour})" in e.attrib.get("style", "")]
    return sorted(float(e.attrib["x"]) for e in found)


def history(*buckets):
    return AnswerHistory("P(1)", QUANTILES, buckets)


def days(n):
    return [NOW + timedelta(days=k) for k in range(n)]


def judged(observed, detector=None):
    buckets = tuple(
        CoverageBucket(at, 100, o, None if o is None else 0.85, None if o is None else 0.95)
        for at, o in zip(days(len(observed)), observed, strict=True)
    )
    return ClassCoverage("1", 0.9, 300, 0.9, buckets, detector)


GAP = history(
    AnswerBucket(NOW, 10, 1, (0.1, 0.2, 0.3), (1, 7, 2)),
    AnswerBucket(NOW + timedelta(days=1), 0),
    AnswerBucket(NOW + timedelta(days=2), 10, 0, (0.2, 0.4, 0.6), (0, 5, 5)),
)
NOTHING = history(AnswerBucket(NOW, 0))


def test_scores_say_their_median_at_both_ends():
    assert says(plots.scores(GAP, DAY_S)) == "P(1) over time. median: 0.2 first, 0.4 last."


def test_set_sizes_say_their_shares_at_both_ends():
    assert says(plots.sizes(GAP, DAY_S)).endswith("one label: 70 % first, 50 % last. none: 10 % first, 0 % last.")


def test_set_sizes_of_many_labels_are_put_together():
    many = history(AnswerBucket(NOW, 10, set_sizes=(0, 2, 2, 3, 2, 1)))
    svg = plots.sizes(many, DAY_S)
    assert [f"var(--size-{k})" in svg for k in (0, 1, 2, 3)] == [False, True, True, True]


def test_answers_say_how_many_a_fallback_gave():
    assert says(plots.answers(GAP, DAY_S)) == "20 answers over time, 1 of them from a fallback"


@pytest.mark.parametrize("drawn", [plots.scores, plots.sizes, plots.answers])
def test_history_without_answers_is_drawn_empty_and_without_a_warning(drawn, recwarn):
    assert says(drawn(NOTHING, DAY_S))
    assert not recwarn.list


def test_coverage_below_its_band_has_another_colour_and_shape():
    svg = plots.coverage("a", judged([0.9, 0.84, None, 0.85]), DAY_S)
    assert len(marks(svg, "current")) == 2
    assert len(marks(svg, "alarm")) == 1
    assert says(svg).endswith("observed: 90 % first, 85 % last. 1 of 4 stretches lie below the band.")


def test_coverage_without_outcomes_is_drawn_empty(recwarn):
    assert says(plots.coverage("a", judged([None, None]), DAY_S)).endswith("0 of 2 stretches lie below the band.")
    assert not recwarn.list


def test_alarm_is_marked_where_it_was_raised():
    detector = Detector(6e4, 5e4, 100, "", NOW + timedelta(days=0.5))
    svg = plots.coverage("a", judged([0.9, 0.8, 0.8], detector), DAY_S)
    width = float(ET.fromstring(svg).attrib["viewBox"].split()[2])
    at = next(e for e in ET.fromstring(svg).iter("text") if e.text == "alarm")
    assert 0 < float(at.attrib["x"]) <= width


def test_alarm_later_than_all_predictions_whose_outcome_is_known_does_not_stretch_their_axis():
    late = Detector(6e4, 5e4, 100, "", NOW + timedelta(days=40))
    assert plots.coverage("a", judged([0.9, 0.8, 0.8], late), DAY_S) == plots.coverage(
        "a", judged([0.9, 0.8, 0.8]), DAY_S
    )


def test_no_alarm_no_mark():
    assert "alarm" not in texts(plots.coverage("a", judged([0.9], Detector(1.0, 5e4, 100, "")), DAY_S))


@pytest.mark.parametrize("value", [0.0, 10.0, 1e300, float("inf")])
def test_evidence_of_any_size_is_drawn_on_its_scale(value, recwarn):
    detector = Detector(value, 5e4, 100, "", trail=(EvidencePoint(NOW, 2.0), EvidencePoint(NOW + timedelta(1), value)))
    svg = plots.evidence("a", detector)
    assert "the alarm is raised at 50,000." in says(svg)
    assert not re.search(r"nan|inf", svg)
    assert not recwarn.list


def test_a_trail_of_one_point_is_a_point(recwarn):
    svg = plots.evidence("a", Detector(7.0, 5e4, 100, "", trail=(EvidencePoint(NOW, 7.0),)))
    assert "<use" in svg
    assert not recwarn.list


PERFORMANCE = PerformanceHistory(
    DAY_S,
    0.95,
    (PerformanceBucket(NOW, 100, 20, 0.77, 0.72, 0.82, 0.15), PerformanceBucket(NOW + timedelta(1), 3, 0)),
    0.774,
    0.151,
)


def test_performance_says_its_ends():
    assert says(plots.auc(PERFORMANCE)) == "Area under the ROC curve over time. area: 0.77 first, 0.77 last."
    assert says(plots.brier(PERFORMANCE)) == "Brier score over time. score: 0.15 first, 0.15 last."


@pytest.mark.parametrize("drawn", [plots.auc, plots.brier])
def test_performance_that_is_not_known_is_drawn_empty(drawn, recwarn):
    unknown = replace(PERFORMANCE, buckets=PERFORMANCE.buckets[1:], trained_auc=None, trained_brier=None)
    assert says(drawn(unknown)).endswith("not known.")
    assert not recwarn.list


def expected(measure, *found):
    return ExpectedSeries(
        measure, "", tuple(ExpectedBucket(at, *each) for at, each in zip(days(len(found)), found, strict=True))
    )


def test_what_was_expected_is_said_beside_what_came():
    series = expected("coverage", (0.91, 0.88, 0.94, 0.9), (0.85, 0.8, 0.9, None))
    assert says(plots.expected("e", "Coverage", series, DAY_S)) == (
        "Coverage over time. expected: 91 % first, 85 % last. realised: 90 % first, 90 % last."
    )
    area = expected("auc", (0.71, 0.7, 0.72, 0.69), (0.705, 0.7, 0.71, 0.68))
    assert len(marks(plots.expected("e", "Area", area, DAY_S), "current")) == 2


def test_days_of_which_nothing_is_expected_are_drawn_empty(recwarn):
    svg = plots.expected("e", "Area", expected("auc", (None, None, None, None)), DAY_S)
    assert says(svg).endswith("expected: not known. realised: not known.")
    assert not recwarn.list


def test_histories_are_dated_by_month_day_or_hour_as_their_length_asks():
    long = history(*(AnswerBucket(at, 5, 0, (0.1, 0.2, 0.3), (0, 5, 0)) for at in days(100)))
    weeks = history(*(AnswerBucket(at, 5, 0, (0.1, 0.2, 0.3), (0, 5, 0)) for at in days(21)))
    short = history(*(AnswerBucket(NOW + timedelta(hours=k), 5, 0, (0.1, 0.2, 0.3), (0, 5, 0)) for k in range(12)))
    assert {"Dec", "2027", "Feb"} <= set(texts(plots.scores(long, DAY_S)))
    assert "01 Dec" in texts(plots.scores(weeks, DAY_S))
    assert "18:00" in texts(plots.scores(short, 3_600.0))


# --- distributions ---------------------------------------------------------------------------------------------------


NUMBERS = NumberShares((0.0, 1.0, 2.0, 4.0), (0.2, 0.5, 0.3), (0.1, 0.2, 0.7))


def heights(svg, colour):
    """Heights of the steps of the filled outline of that colour, from left to right, in units of the picture."""
    path = next(e for e in ET.fromstring(svg).iter("path") if f"fill:var(--{colour})" in e.attrib.get("style", ""))
    points = [tuple(map(float, p)) for p in re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.attrib["d"])]
    floor = max(y for _, y in points)
    steps = []
    for _, y in points:
        if floor - y > 0 and (not steps or steps[-1] != floor - y):
            steps.append(floor - y)
    return steps


def test_bins_of_unequal_width_are_drawn_as_densities():
    first, second, third = heights(distribution("a", NUMBERS), "reference")
    assert second / first == pytest.approx(2.5, abs=0.05)
    assert third / first == pytest.approx(0.75, abs=0.05)  # 0.3 over twice the width


def test_histogram_says_where_each_side_is_densest():
    assert says(distribution("a", NUMBERS)) == "Histogram: the reference is densest from 1 to 2, now from 2 to 4"


def test_side_without_values_is_densest_nowhere():
    assert "now nowhere" in says(small_distribution("a", NumberShares((0.0, 1.0), (1.0,), (0.0,))))


def test_unit_stands_below_the_axis():
    assert "mg/dL" in texts(distribution("a", NUMBERS, "mg/dL"))


def test_levels_are_named_with_both_shares():
    svg = distribution("a", LevelShares(("no", "up"), (0.7, 0.3), (0.4, 0.6)))
    assert says(svg) == "Shares of levels, reference and now: no 70 %, now 40 %; up 30 %, now 60 %"
    assert {"no", "up"} <= set(texts(svg))


def test_many_levels_are_the_most_frequent_ones_and_the_others_together():
    names = tuple(f"level{n:02d}" for n in range(20))
    shares = tuple((20 - n) / 210 for n in range(20))
    new = (*(0.0,) * 19, 1.0)
    shown = [t for t in texts(distribution("a", LevelShares(names, shares, new))) if "level" in t or "others" in t]
    assert len(shown) == MOST_LEVELS
    assert {"level19", "level00", "13 others"} <= set(shown)


@pytest.mark.parametrize("shares", [LevelShares((), (), ()), LevelShares(("only",), (1.0,), (0.0,))])
@pytest.mark.parametrize("drawn", [distribution, small_distribution])
def test_few_levels_are_drawn_as_well(drawn, shares):
    assert says(drawn("a", shares)).startswith("Shares of levels")


def test_differences_say_where_most_of_them_lie():
    pair = ShadowPair("v3", "v4", 10, 10, 10, edges=(-0.1, 0.0, 0.1), counts=(2, 8))
    assert says(differences("a", pair)) == "Histogram of differences in probability, from 0 to 0.1 most often."
