"""Due answers and missing outcomes by group of patients, on a real log, monitor and model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.lab.watching.live_performance import MaturedAnswers, matured_answers
from ml_core.lab.watching.outcomes_by_group import CellOutcomes, outcomes_by_group
from ml_core.serve.log.entries import id_bytes
from tests.lab.watching.ward import HORIZON_DAYS, Ward, patients
from tests.toy_models import grouped_toy

CAME = {"female": 1.0, "male": 0.4}
"""Chance that an outcome comes."""


class Hospital(Ward):
    """Its model promises coverage by sex, and measures it by age band."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, champion=grouped_toy().folder)
        self.covered: dict[tuple[str, int], list[bool]] = {}
        self.told: dict[str, int] = dict.fromkeys(CAME, 0)

    def see(self, n: int, seed: int, came: Mapping[str, float] = CAME) -> list[tuple[str, int]]:
        """Answer so many patients; ids and outcomes of those whose outcome will not come."""
        rng = np.random.default_rng(seed)
        sexes = rng.choice(list(CAME), n)
        answers = self.answer(patients(n, seed).assign(sex=sexes))
        outcome = {request_id: label for _, request_id, label in self.due}
        lost = []
        for sex, answer in zip(sexes.tolist(), answers, strict=True):
            label = outcome[answer.request_id]
            self.covered.setdefault((sex, label), []).append(label in answer.prediction_set)
            if rng.random() < came[sex]:
                self.told[sex] += 1
            else:
                lost.append((answer.request_id, label))
        missing = {request_id for request_id, _ in lost}
        self.due = [each for each in self.due if each[1] not in missing]
        return lost

    def found(self) -> MaturedAnswers:
        """After the horizon."""
        self.pass_days(HORIZON_DAYS + 2)
        self.look()
        return matured_answers(self.home.settings)

    def shares(self) -> dict[str, float]:
        """What the monitor publishes."""
        (health,) = self.look().state.models.values()
        return {f.group: f.value for f in health.figures if f.name == "group_returned"}

    def change(self, statement: str) -> None:
        """Change the ledger."""
        settings = self.home.settings
        with open_ledger_tables(settings, settings.model_name).writing() as connection:
            connection.execute(statement)


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    place = Hospital(tmp_path)
    yield place
    place.close()


def by_sex(found: MaturedAnswers) -> tuple[dict[str, CellOutcomes], float]:
    cells, p_value = outcomes_by_group(found.in_groups, found.targets, found.model.manifest, "sex")
    return {each.returned.cell.name: each for each in cells}, p_value


def counted(found: MaturedAnswers) -> dict[str, tuple[int, int]]:
    """Due answers and returned outcomes of the sexes that have any."""
    cells, _ = by_sex(found)
    return {name: (c.returned.due, c.returned.came) for name, c in cells.items() if c.returned.due}


def test_outcomes_are_missed_in_the_group_that_lacks_them(hospital: Hospital) -> None:
    lost = hospital.see(500, seed=1)
    found = hospital.found()
    cells, p_value = by_sex(found)
    women, men = cells["female"], cells["male"]
    assert (women.returned.due, men.returned.came) == (hospital.told["female"], hospital.told["male"])
    assert women.returned.due == women.returned.came
    assert men.returned.due - men.returned.came == len(lost) == found.outcomes.missing
    assert women.returned.due + men.returned.due == found.outcomes.due == 500
    assert p_value < 1e-9
    for sex, cell in (("female", women), ("male", men)):
        for label, of_class in cell.classes.items():
            assert of_class is not None
            assert of_class.bounds is not None
            true = float(np.mean(hospital.covered[sex, int(label)]))
            assert of_class.bounds.lowest <= true <= of_class.bounds.highest
            assert of_class.bounds.highest - of_class.bounds.lowest == pytest.approx(0.0) or sex == "male"
    assert hospital.shares() == {
        "sex=female": 1.0,
        "sex=male": round(men.returned.came / men.returned.due, 2),
        **{group: share for group, share in hospital.shares().items() if group.startswith("age_band")},
    }


def test_outcomes_that_come_alike_in_all_groups_are_not_told_apart(hospital: Hospital) -> None:
    hospital.see(500, seed=2, came={"female": 0.7, "male": 0.7})
    _, p_value = by_sex(hospital.found())
    assert p_value > 0.001


def test_an_outcome_that_comes_late_is_no_longer_missing(hospital: Hospital) -> None:
    lost = hospital.see(120, seed=3)
    before = counted(hospital.found())
    hospital.due = [(hospital.now, request_id, label) for request_id, label in lost]
    after = counted(hospital.found())
    assert before["male"] == (after["male"][0], after["male"][0] - len(lost))
    assert after["male"][0] == after["male"][1]


def test_an_erased_answer_leaves_no_trace_of_its_group(hospital: Hospital) -> None:
    lost = hospital.see(120, seed=4)
    before = counted(hospital.found())["male"]
    settings = hospital.home.settings
    tables, erased = open_ledger_tables(settings, settings.model_name), [id_bytes(r) for r, _ in lost[:5]]
    Ledger.erase(tables, [], erased)
    after = counted(matured_answers(hospital.home.settings))["male"]
    assert after == (before[0] - 5, before[1])
    with tables.reading() as connection:
        assert connection is not None
        kept = {row[0] for row in connection.execute("SELECT request_id FROM missing_outcome WHERE groups IS NOT NULL")}
    assert kept == {id_bytes(request_id) for request_id, _ in lost[5:]}


def test_hours_whose_missing_outcomes_have_no_group_are_left_out_as_a_whole(hospital: Hospital) -> None:
    hospital.see(80, seed=5)
    first = counted(hospital.found())
    hospital.change("UPDATE missing_outcome SET groups = NULL")  # counted by an earlier release
    assert counted(matured_answers(hospital.home.settings)) == {}
    assert hospital.shares() == {}
    hospital.see(80, seed=6)
    both = hospital.found()
    assert both.outcomes.due == 160
    assert sum(due for due, _ in counted(both).values()) == 80
    assert first


def test_answers_that_are_no_longer_waited_for_are_left_out_with_their_like(hospital: Hospital) -> None:
    hospital.see(80, seed=7)
    hospital.found()
    hospital.pass_days(hospital.home.settings.log_retention_days)
    hospital.see(80, seed=8)
    found = hospital.found()
    assert sum(due for due, _ in counted(found).values()) == 80


def test_few_patients_are_not_told(hospital: Hospital) -> None:
    hospital.see(60, seed=9, came={"female": 1.0, "male": 0.05})
    cells, _ = by_sex(hospital.found())
    men = cells["male"]
    assert not men.shown
    assert men.returned.came < 10
    assert set(men.classes.values()) == {None}
    assert men.returned.share == round(men.returned.came / men.returned.due, 2)
    assert cells["unknown"].returned.share is None
