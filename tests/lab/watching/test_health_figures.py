"""What the monitor publishes in numbers of the latest matured answers, overall and by group of patients."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml_core.lab.watching.live_performance import matured_answers, performance_of
from ml_core.lab.watching.matured_arrays import cells_of
from ml_core.lab.watching.outcomes_by_group import outcomes_by_group
from ml_core.serve import metrics
from tests.lab.watching.ward import HORIZON_DAYS, Ward, patients
from tests.toy_models import grouped_toy

Figures = dict[tuple[str, str, str], float]


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    """Its model promises coverage by sex, and measures it by age band."""
    place = Ward(tmp_path, champion=grouped_toy().folder)
    yield place
    place.close()


def of_both_sexes(n: int, seed: int) -> pd.DataFrame:
    rows = patients(n, seed=seed)
    return rows.assign(sex=np.random.default_rng(seed).choice(["female", "male"], n))


def matured(ward: Ward, n: int, seed: int) -> None:
    ward.answer(of_both_sexes(n, seed))
    ward.pass_days(HORIZON_DAYS + 1)


def measured(ward: Ward) -> Figures:
    """One look, and what it publishes of the groups and of the calibration, by name, label and group."""
    (health,) = ward.look().state.models.values()
    return {
        (f.name, f.label, f.group): f.value for f in health.figures if f.name.startswith(("group_", "calibration_"))
    }


def test_figures_by_group_are_those_of_the_command(ward: Ward) -> None:
    matured(ward, 400, seed=1)
    figures = measured(ward)
    found = matured_answers(ward.home.settings)
    wanted: Figures = {}
    for each in cells_of(found.rows, found.targets, found.model.manifest.groups):
        for of_class in each.classes:
            if of_class.band is not None and of_class.band.observed is not None:
                of = (str(of_class.label), each.cell.group)
                wanted["group_coverage", *of] = of_class.band.observed
                wanted["group_coverage_answers", *of] = of_class.band.n
                wanted["group_coverage_lowest", *of] = of_class.band.lower
        if each.performance is not None and each.performance.calibration_slope is not None:
            wanted["calibration_slope", "", each.cell.group] = each.performance.calibration_slope.value
            wanted["calibration_slope_error", "", each.cell.group] = each.performance.calibration_slope.standard_error
    for grouping in ("sex", "age_band"):
        for cell in outcomes_by_group(found.in_groups, found.targets, found.model.manifest, grouping)[0]:
            if cell.returned.due >= 10:
                wanted["group_returned", "", cell.returned.cell.group] = 1.0
    judged = performance_of(found)
    assert judged is not None
    assert judged.calibration_slope is not None
    wanted["calibration_slope", "", ""] = judged.calibration_slope.value
    wanted["calibration_slope_error", "", ""] = judged.calibration_slope.standard_error
    assert figures == pytest.approx(wanted)
    assert {group for _, _, group in figures} >= {"", "sex=female", "sex=male", "age_band=70 and above"}
    assert "age_band=unknown" not in {group for _, _, group in figures}
    assert {name for name, _, _ in figures} <= metrics.HEALTH.keys()


def test_names_of_groups_are_bounded_by_what_the_model_declares(ward: Ward) -> None:
    matured(ward, 300, seed=2)
    (health,) = ward.look().state.models.values()
    facts = grouped_toy().bundle.manifest.groups
    assert facts is not None
    declared = {f"{g.name}={cell}" for g in facts.declared for cell in (*g.cells, "unknown")}
    assert {f.group for f in health.figures} <= {"", *declared}


def answers(figures: Figures) -> float:
    """How many answers are behind the coverage by sex."""
    return sum(n for (name, _, group), n in figures.items() if name.endswith("_answers") and group.startswith("sex"))


def test_they_are_made_anew_when_labels_have_matured_and_a_minute_has_passed(ward: Ward) -> None:
    ward.answer(of_both_sexes(200, seed=3))
    ward.now += timedelta(hours=1)
    ward.answer(of_both_sexes(150, seed=4))
    ward.pass_days(HORIZON_DAYS - 0.5 / 24)
    first = measured(ward)
    assert answers(first) == 200
    ward.pass_days(1 / 24)
    second = measured(ward)
    assert answers(second) == 350
    assert measured(ward) == second


def test_within_the_minute_the_last_ones_stand_and_nothing_is_lost(ward: Ward) -> None:
    ward.answer(of_both_sexes(200, seed=5))
    ward.now += timedelta(seconds=30)
    ward.answer(of_both_sexes(150, seed=6))
    ward.pass_days(HORIZON_DAYS - 20 / 86_400)
    first = measured(ward)
    ward.pass_days(25 / 86_400)
    assert ward.watch.look().matured == 150
    assert measured(ward) == first
    ward.now += timedelta(seconds=61)
    assert (answers(first), answers(measured(ward))) == (200, 350)


def test_without_matured_answers_nothing_is_measured(ward: Ward) -> None:
    ward.answer(of_both_sexes(50, seed=7))
    assert measured(ward) == {}
