from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from ml_core.lab.report.distributions import MOST_LEVELS, differences, distribution, small_distribution
from ml_core.lab.report.facts import LevelShares, NumberShares, ShadowPair

NUMBERS = NumberShares((0.0, 1.0, 2.0, 4.0), (0.2, 0.5, 0.3), (0.1, 0.2, 0.7))


def says(svg):
    return ET.fromstring(svg).attrib["aria-label"]


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter("text")]


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
