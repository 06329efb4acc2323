"""How a live model has done on its own matured answers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import DataError, LogDamaged
from ml_core.base.settings import Settings
from ml_core.lab.data.cohort import CohortKnobs
from ml_core.lab.measuring.live_coverage import CoverageTarget
from ml_core.lab.watching.ledger import MaturedRow
from ml_core.lab.watching.live_performance import (
    MaturedAnswers,
    bands_of,
    expected_of,
    lost_skill,
    matured_answers,
    performance_of,
)
from ml_core.lab.watching.matured_arrays import arrays_of, cells_of
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.rollout import changes
from tests.lab.watching.answered import matured_row
from tests.lab.watching.ward import Ward, patients
from tests.toy_models import grouped_toy

DAYS = 31


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    place = Ward(tmp_path)
    yield place
    place.close()


def of_rows(found: MaturedAnswers, rows: tuple[MaturedRow, ...], promise: CoverageTarget | None) -> MaturedAnswers:
    return replace(found, rows=rows, targets={} if promise is None else {"c" * 64: promise})


@pytest.fixture
def nothing_yet(ward: Ward) -> MaturedAnswers:
    """A live model of which nothing has matured."""
    ward.look()
    return matured_answers(ward.home.settings)


def test_where_nothing_is_live_nothing_has_done_anything(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="start the service"):
        matured_answers(Settings(home=tmp_path, model_name="toy"))


def test_where_the_monitor_has_never_run_it_is_asked_for(ward: Ward) -> None:
    with pytest.raises(DataError, match="surety monitor"):
        matured_answers(ward.home.settings)


def test_a_slot_without_a_model_is_named(ward: Ward) -> None:
    ward.look()
    with pytest.raises(DataError, match="challenger"):
        matured_answers(ward.home.settings, slot="challenger")


def test_a_ledger_that_cannot_be_read_is_no_empty_one(ward: Ward) -> None:
    ward.look()
    (ward.home.settings.monitor / f"{ward.home.settings.model_name}.ledger.db").write_bytes(b"no database " * 100)
    with pytest.raises(LogDamaged):
        matured_answers(ward.home.settings)


def test_without_matured_answers_there_are_neither_bands_nor_numbers(nothing_yet: MaturedAnswers) -> None:
    assert (nothing_yet.targets, nothing_yet.rows, nothing_yet.detectors) == ({}, (), {})
    assert (bands_of(nothing_yet), performance_of(nothing_yet)) == ((), None)


def test_answers_are_those_of_the_asked_for_time(ward: Ward) -> None:
    ward.answer(patients(50, seed=1))
    ward.pass_days(10)
    middle = ward.now
    ward.answer(patients(70, seed=2))
    ward.pass_days(DAYS)
    ward.look()
    assert len(matured_answers(ward.home.settings).rows) == 120
    later = matured_answers(ward.home.settings, since=middle)
    assert (len(later.rows), later.rows[0].at_us) == (70, round(middle.timestamp() * 1e6))
    assert later.detectors == matured_answers(ward.home.settings).detectors  # they have seen everything


def test_each_slot_has_the_answers_of_its_model_alone(ward: Ward) -> None:
    ward.answer(patients(50, seed=1))
    ward.home.change(changes.full(ward.home.v2))
    ward.look()
    ward.answer(patients(30, seed=2))
    ward.pass_days(DAYS)
    ward.look()
    found = {slot: matured_answers(ward.home.settings, slot=slot) for slot in ("champion", "previous")}
    assert {slot: (f.model.tag, len(f.rows)) for slot, f in found.items()} == {
        "champion": (ward.home.v2, 30),
        "previous": (ward.home.v1, 50),
    }
    assert {slot: sum(d.labels for d in f.detectors.values()) for slot, f in found.items()} == {
        "champion": 30,
        "previous": 50,
    }


def test_the_promise_is_that_of_the_artefact_with_the_effects_of_its_calibration_rows(ward: Ward) -> None:
    ward.answer(patients(20, seed=1))
    ward.pass_days(DAYS)
    ward.look()
    found = matured_answers(ward.home.settings)
    (promise,), manifest = found.targets.values(), found.model.manifest
    assert promise.effects is not None
    assert (promise.classes, promise.level, promise.guarantee) == (
        manifest.classes,
        manifest.confidence_level,
        manifest.guarantee,
    )
    assert promise.effects.per_class == tuple(manifest.metrics[f"calibration_effect_class_{k}"] for k in (0, 1))


def test_answers_about_one_patient_belong_together_and_others_to_nobody_else(ward: Ward) -> None:
    rows = (
        matured_row(1, subject=b"p" * 32),
        matured_row(2, subject=b"p" * 32),
        matured_row(3),
        matured_row(4),
    )
    groups = arrays_of(rows).groups
    assert groups is not None
    assert (groups[0] == groups[1], len(set(groups))) == (True, 3)


def test_three_classes_have_three_bands_and_the_mean_of_three_areas(nothing_yet: MaturedAnswers) -> None:
    labels = ("home", "again", "dead")
    promise = CoverageTarget(labels, (9, 19, 4), Decimal("0.9"))
    rows = tuple(
        matured_row(n, label=labels[n % 3], probabilities=(0.5, 0.3, 0.2), p_values=(0.1, 0.15, 0.2)) for n in range(90)
    )
    found = of_rows(nothing_yet, rows, promise)
    bands = {band.label: (band.n, band.covered) for band in bands_of(found)}
    assert bands == {None: (90, 60), "home": (30, 0), "again": (30, 30), "dead": (30, 30)}
    judged = performance_of(found)
    assert judged is not None
    assert (judged.n_per_class, judged.unjudged) == ((30, 30, 30), {"calibration_slope": "not_binary"})
    assert judged.auc is not None
    assert judged.auc.value == 0.5  # all answers are alike
    assert judged.brier == pytest.approx(((0.5**2 + 0.7**2 + 0.2**2) + (0.5**2 + 0.3**2 + 0.8**2) + 0.38) / 3)


def test_a_ledger_of_another_version_is_refused(ward: Ward) -> None:
    ward.look()
    with closing(
        sqlite3.connect(ward.home.settings.monitor / f"{ward.home.settings.model_name}.ledger.db")
    ) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(LogDamaged, match="version"):
        matured_answers(ward.home.settings)


# --- skill that was lost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signal", "lost"), [(1.0, False), (0.0, True)])
def test_skill_is_lost_where_outcomes_no_longer_hang_on_what_is_asked(ward: Ward, signal: float, *, lost: bool) -> None:
    ward.answer(patients(800, seed=61, knobs=CohortKnobs(signal=signal)))
    ward.pass_days(DAYS)
    ward.look()
    told = lost_skill(ward.home.settings, 1_000)
    assert (told is not None) == lost
    assert told is None or ("skill was lost" in told and "800 outcomes" in told)


def test_only_the_newest_outcomes_say_whether_skill_was_lost(ward: Ward) -> None:
    for seed, signal in ((62, 1.0), (63, 0.0)):
        ward.answer(patients(600, seed=seed, knobs=CohortKnobs(signal=signal)))
        ward.pass_days(1)
    ward.pass_days(DAYS)
    ward.look()
    told = lost_skill(ward.home.settings, 600)
    assert told is not None
    assert "600 outcomes" in told


def test_where_too_little_is_known_no_skill_is_called_lost(ward: Ward, tmp_path: Path) -> None:
    assert lost_skill(Settings(home=tmp_path / "elsewhere", model_name="toy"), 100) is None
    assert lost_skill(ward.home.settings, 100) is None
    ward.answer(patients(40, seed=64, knobs=CohortKnobs(signal=0.0)))
    ward.pass_days(DAYS)
    ward.look()
    assert lost_skill(ward.home.settings, 100) is None


# --- groups ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def grouped(tmp_path: Path) -> Iterator[Ward]:
    """A ward whose model promises its coverage by sex, and measures it by age band."""
    place = Ward(tmp_path, champion=grouped_toy().folder)
    yield place
    place.close()


def of_both_sexes(n: int, seed: int) -> pd.DataFrame:
    """Patients of whom some have no sex on record."""
    rows, rng = patients(n, seed=seed), np.random.default_rng(seed)
    return rows.assign(sex=rng.choice(np.array(["female", "male", None]), n, p=[0.5, 0.4, 0.1]))


def test_answers_of_every_cell_count_in_coverage_and_performance(grouped: Ward) -> None:
    grouped.answer(of_both_sexes(300, seed=1))
    grouped.pass_days(DAYS)
    grouped.look()
    found = matured_answers(grouped.home.settings)
    assert len(found.rows) == 300
    assert len({row.calibration_id for row in found.rows}) == 3  # women, men, and all for those who are neither
    overall, *classes = bands_of(found)
    assert overall.n == sum(band.n for band in classes) == 300
    judged = performance_of(found)
    assert judged is not None
    assert judged.coverage == (overall, *classes)
    sets = [set(answer.prediction_set) for answer in grouped.log.rows()]
    assert judged.mean_set_size == pytest.approx(sum(map(len, sets)) / 300)


def test_what_is_expected_of_a_model_with_groups_is_of_all_its_answers(grouped: Ward) -> None:
    grouped.answer(of_both_sexes(120, seed=2))
    grouped.look()
    found = expected_of(grouped.home.settings, matured_answers(grouped.home.settings).model.model_hash)
    assert found is not None
    assert found.found.answers == 120


def test_coverage_by_group_is_that_of_the_answers_it_names(grouped: Ward) -> None:
    rows = of_both_sexes(400, seed=3)
    grouped.answer(rows)
    grouped.pass_days(DAYS)
    grouped.look()
    found = matured_answers(grouped.home.settings)
    measured = cells_of(found.rows, found.targets, found.model.manifest.groups)
    assert [m.cell.group for m in measured] == [
        "sex=female", "sex=male", "sex=unknown",
        "age_band=below 50", "age_band=50 to below 70", "age_band=70 and above", "age_band=unknown",
    ]  # fmt: skip
    assert [m.cell.is_promised for m in measured] == [True, True, False, False, False, False, False]
    labels = grouped.labels.current([row.request_id for row in found.rows])
    wanted: dict[tuple[str, int], list[bool]] = {}
    for answer in grouped.log.rows():
        label = labels[id_bytes(answer.request_id)].label
        for name, cell in (answer.groups or {}).items():
            wanted.setdefault((f"{name}={cell}", int(label)), []).append(label in answer.prediction_set)
    shown = {(m.cell.group, c.label): c.band for m in measured for c in m.classes if c.band is not None}
    assert {key: (band.n, band.covered) for key, band in shown.items()} == {
        key: (len(held), sum(held)) for key, held in wanted.items() if key in shown
    }
    assert {key for key, held in wanted.items() if len(held) < 10}.isdisjoint(shown)
    assert ("age_band=unknown", 0) not in shown
    by_age = cells_of(found.rows, found.targets, found.model.manifest.groups, "age_band")
    assert by_age == measured[3:]


def test_rows_without_a_group_are_in_no_cell(grouped: Ward) -> None:
    grouped.answer(of_both_sexes(60, seed=4))
    grouped.pass_days(DAYS)
    grouped.look()
    found = matured_answers(grouped.home.settings)
    facts, earlier = found.model.manifest.groups, [replace(row, groups=None) for row in found.rows]
    assert cells_of(earlier, found.targets, facts) == ()
    half = cells_of([*found.rows[:30], *earlier[30:]], found.targets, facts, "age_band")
    assert half == cells_of(found.rows[:30], found.targets, facts, "age_band")
    assert cells_of(found.rows, found.targets, None) == ()
