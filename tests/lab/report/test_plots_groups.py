"""Pictures on groups: a line for each, what is below its band, what is not shown; and reliability."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from ml_core.lab.report.facts_outcomes import GroupClass, GroupOutcomes
from ml_core.lab.report.plots_groups import group_coverage, group_slopes, reliability
from tests.lab.report.example_facts import group_of, groups
from tests.lab.report.example_facts import reliability as example
from tests.lab.report.test_plots import marks, says, texts

SEXES, AGES = groups().cells[:3], groups().cells[3:]


def dashed(svg: str) -> bool:
    return any("stroke-dasharray" in element.attrib.get("style", "") for element in ET.fromstring(svg).iter())


def test_every_group_has_a_line_and_those_below_their_band_another_shape_and_colour() -> None:
    picture = group_coverage("x", AGES, "0", 0.9)
    assert [name for name in texts(picture) if name in {"below 50", "50 to below 70", "80 and above"}] == [
        "below 50", "50 to below 70", "80 and above",
    ]  # fmt: skip
    assert (len(marks(picture, "current")), len(marks(picture, "alarm"))) == (3, 1)
    assert "80 and above 84.1 %" in says(picture)


def test_groups_of_few_patients_say_so_and_show_no_number() -> None:
    picture = group_coverage("x", AGES, "1", 0.9)
    assert texts(picture).count("too few subjects") == 1
    assert "unknown too few subjects" in says(picture)


def test_the_line_of_the_level_is_dashed_where_no_group_has_a_promise() -> None:
    assert [dashed(group_coverage("x", cells, "1", 0.9)) for cells in (SEXES, AGES)] == [False, True]


def test_nothing_but_few_patients_is_drawn_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    none = [group_of("sex", "female", 0, 0.0, 0.0)]
    assert "too few subjects" in texts(group_coverage("x", none, "0", 0.9))
    assert "too few subjects" in texts(group_slopes("y", none))
    assert not recwarn.list


def test_slopes_say_each_group() -> None:
    told = says(group_slopes("x", SEXES))
    assert told == "Calibration slope by group: female 0.901; male 0.9; unknown not known"


def test_reliability_says_predicted_and_observed() -> None:
    found = example()
    picture = reliability(found)
    assert says(picture).startswith("Reliability of P(1): 2 % predicted, 6.6 % observed; ")
    assert {"predicted", "observed"} <= set(texts(picture))
    alone = replace(found, points=(replace(found.points[0], predicted=0.0, observed=0.0),))
    assert "0 % predicted, 0 % observed" in says(reliability(alone))


def test_a_promise_to_all_classes_together_is_drawn_as_one() -> None:
    cell = GroupOutcomes("sex", "female", False, 40, (GroupClass("all", 40, 40, 0.95, None, 0.8, 1.0),))
    assert "female 95 %" in says(group_coverage("x", [cell], "all", 0.9))
