"""Fifty seeded replays of the whole path: log, outcomes that come early or late, horizon, monitor and two workers.

False alarms stay within what is stated, a shift makes both workers suspect and names the class, and a new model ends it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import binom

from ml_core.lab.data.cohort import CohortKnobs
from ml_core.lab.measuring.coverage_detector import BLOCK, THRESHOLD
from tests.lab.watching.ward import HORIZON_DAYS, Ward, patients
from tests.statistical.replays import (
    CALM,
    DRIFT_THRESHOLD,
    SHARP_THRESHOLD,
    Replay,
    Toy,
    found_at_least,
    law,
    monitored_from_afar,
    replay,
    stream,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

REPLAYS, MODELS = 50, 25
NOISE = 1e-6  # chance that a limit of this file fails without cause
TURNED = CohortKnobs(signal=-1.0)
"""The record says of the outcome the opposite of what it said; the same patients come."""
OLDER = CohortKnobs(shift_age=18.0)
"""The law is the same, and patients come who are 18 years older."""
LOST = {TURNED: 1, OLDER: 0}
"""The class that loses its coverage."""


def most_by_chance(chances: Sequence[float]) -> int:
    """Times that events of these chances, each given the ones before, will not exceed."""
    return int(binom(len(chances), np.minimum(chances, 1.0).mean()).ppf(1 - NOISE))


def least_by_chance(chances: Sequence[float]) -> int:
    return int(binom(len(chances), np.mean(chances)).ppf(NOISE))


@pytest.fixture(scope="module")
def replays(tmp_path_factory: pytest.TempPathFactory) -> list[Replay]:
    """Every second one has the one shift, the others the other."""
    found = []
    for n in range(REPLAYS):
        shift = (TURNED, OLDER)[n % 2]
        folder = tmp_path_factory.mktemp("replay")
        found.append(replay(n, Toy(200 + n % MODELS), shift, LOST[shift], Toy(301, shift), folder))
    return found


# --- without a shift ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "threshold"), [(0, THRESHOLD), (1, THRESHOLD), (1, SHARP_THRESHOLD)])
def test_without_shift_coverage_alarms_are_as_rare_as_stated(
    replays: list[Replay], label: int, threshold: float
) -> None:
    """Of models whose chance of a miss lies below what their detector allows: at most labels / threshold each.

    The others have an unlucky calibration, and about them nothing is stated in labels.
    """
    judged = [found for found in replays if stream(found.model, label).keeps_its_promise]
    assert len(judged) >= 20
    alarms = [f"coverage:{label}" in (found.calm if threshold == THRESHOLD else found.sharp) for found in judged]
    assert sum(alarms) <= most_by_chance([found.late.n_per_class[label] / threshold for found in judged])


def test_without_shift_drift_alarms_are_as_rare_as_stated(replays: list[Replay]) -> None:
    assert min(found.windows for found in replays) >= 4
    alarms = sum("drift" in found.calm for found in replays)
    assert alarms <= most_by_chance([found.windows / DRIFT_THRESHOLD for found in replays])


# --- with a shift -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [TURNED, OLDER])
def test_a_shift_makes_both_workers_suspect_at_the_look_that_finds_it_and_names_the_class(
    replays: list[Replay], shift: CohortKnobs
) -> None:
    label = LOST[shift]
    shifted = [found for found in replays if found.shift == shift]
    named = [
        found
        for found in shifted
        if len(found.at_alarm) == 2
        and all(word == "suspect" and f"coverage:{label}" in why for word, why in found.at_alarm)
    ]
    chances = [
        found_at_least(
            found.shifted_labels[label], stream(found.model, label, shift).surely,
            stream(found.model, label).limit, THRESHOLD, stream(found.model, label).block,
            (found.late.n_per_class[label], stream(found.model, label).rate),
        )
        for found in shifted
    ]  # fmt: skip
    suspect_before = [found for found in shifted if f"coverage:{label}" in found.calm]  # an alarm that was on stays on
    assert len(named) + len(suspect_before) >= least_by_chance(chances) > len(shifted) / 2


def test_answers_carry_the_reasons_that_the_journal_has(replays: list[Replay]) -> None:
    for found in replays:
        ((_, reasons),) = found.suspect
        assert reasons == found.journal


def test_only_a_change_of_who_comes_is_drift(replays: list[Replay]) -> None:
    drifted = {shift: ["drift" in found.journal for found in replays if found.shift == shift] for shift in LOST}
    assert all(drifted[OLDER])
    windows = [2 * found.windows / DRIFT_THRESHOLD for found in replays if found.shift == TURNED]
    assert sum(drifted[TURNED]) <= most_by_chance(windows)


def test_after_the_promotion_of_a_model_of_the_new_law_answers_are_valid_and_stay_so(replays: list[Replay]) -> None:
    for shift in LOST:
        for label in (0, 1):
            assert stream(Toy(301, shift), label, shift).keeps_its_promise
    assert {told for found in replays for told in found.recovered} == {("valid", frozenset())}
    chances = [sum(f.new_labels) / THRESHOLD + f.new_windows / DRIFT_THRESHOLD for f in replays]
    assert min(sum(found.new_labels) for found in replays) > 500
    assert sum(found.stayed != {("valid", frozenset())} for found in replays) <= most_by_chance(chances)


# --- labels before their horizon ----------------------------------------------------------------------------------


def test_labels_before_their_horizon_show_another_ward_but_the_same_coverage_of_a_class(replays: list[Replay]) -> None:
    """On the ninth day only readmissions are known: their share is one, and AUC and Brier score are of another world."""
    share = law(CALM)[1].mean()
    n, positive = np.sum([(found.late.n, found.late.n_per_class[1]) for found in replays], axis=0)
    assert binom(n, share).ppf(NOISE) <= positive <= binom(n, share).ppf(1 - NOISE)
    for found in replays:
        assert (found.early.n_per_class[0], found.early.n_per_class[1]) == (0, found.late.n_per_class[1])
        assert (found.early.auc, found.late.auc is None) == (None, False)
        assert found.early.brier is not None
        assert found.late.brier is not None
        assert found.early.brier > 2 * found.late.brier
        assert found.early.coverage[2] == found.late.coverage[2]


@pytest.fixture(scope="module")
def marginal(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Toy, int, bool, bool]]:
    """Of models with one promise for all classes: model, labels of the sixth day, and whether it alarmed then and later.

    The sixth day is that of a monitor that takes labels as they come; the other one waits for the horizon.
    """
    found = []
    for n in range(REPLAYS):
        toy = Toy(200 + n % 10, guarantee="marginal")
        ward = Ward(tmp_path_factory.mktemp("marginal"), champion=toy.packed.folder)
        ward.answer(patients(900, 50_000 + n))
        ward.pass_days(6)
        early, accused = monitored_from_afar(ward, "early", label_horizon_days=0.0)
        ward.pass_days(HORIZON_DAYS)
        _, later = monitored_from_afar(ward, "late")
        ward.close()
        found.append((toy, early.n, "coverage:all" in accused, "coverage:all" in later))
    return found


def test_labels_before_their_horizon_would_accuse_a_model_that_keeps_its_marginal_promise(
    marginal: list[tuple[Toy, int, bool, bool]],
) -> None:
    chances = [
        found_at_least(n, stream(toy, 1).surely, stream(toy, None).limit, THRESHOLD, BLOCK) for toy, n, _, _ in marginal
    ]
    assert sum(accused for _, _, accused, _ in marginal) >= least_by_chance(chances) > REPLAYS / 2


def test_a_marginal_promise_is_not_accused_once_labels_wait_for_their_horizon(
    marginal: list[tuple[Toy, int, bool, bool]],
) -> None:
    kept = [later for toy, _, _, later in marginal if stream(toy, None).keeps_its_promise]
    assert len(kept) >= 20
    assert sum(kept) <= most_by_chance([900 / THRESHOLD] * len(kept))
