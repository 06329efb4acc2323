"""The synthetic cohort: its law is the one documented, its knobs do what they say."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ml_core.base.errors import ConfigError
from ml_core.lab.data.cohort import CohortKnobs, make_cohort, true_probability
from ml_core.lab.data.schemas import validate_frame

NAN = float("nan")


@pytest.mark.parametrize(
    ("age", "glucose", "bmi", "pressure", "logit"),
    [
        (62, 110, 25, 120, -2.30 + 0 - 0.45 - 0.15 - 0.15),
        (76, 200, 37, 95, -2.30 + 0.85 + 1.55 + 0.55 + 0.20 + 0.85 * 1.55 / 2 + 0.20 / 2),
        (48, NAN, 16.5, 165, -2.30 - 0.85 + 0.55 - 0.01 + 0.21 - 0.85 * 0.55 / 2),
        (62, 110, NAN, NAN, -2.30 - 0.45 + 0.05 + 0.10),
    ],
)
def test_the_law_is_the_documented_one(age, glucose, bmi, pressure, logit):
    p = true_probability(*(np.array([float(x)]) for x in (age, glucose, bmi, pressure)))
    assert p == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-12)


def test_the_usual_cohort_has_the_promised_difficulty_and_passes_its_schema():
    frame, probability = make_cohort(50_000, seed=7)
    assert frame["readmission_30d"].mean() == pytest.approx(0.15, abs=0.01)
    assert roc_auc_score(frame["readmission_30d"], probability) == pytest.approx(0.80, abs=0.015)
    assert frame["patient_id"].nunique() < 0.6 * len(frame)  # patients come back
    assert validate_frame(frame, "v1").good.all()


def test_labels_follow_the_probability_they_were_drawn_with():
    frame, probability = make_cohort(100_000, seed=8)
    for low in np.arange(0, 1, 0.1):
        rows = (probability >= low) & (probability < low + 0.1)
        sd = np.sqrt((probability * (1 - probability))[rows].sum())
        assert abs(frame["readmission_30d"][rows].sum() - probability[rows].sum()) < 4.5 * sd


def test_the_same_seed_gives_the_same_cohort_and_another_does_not():
    (a, p), (b, q), (c, _) = (make_cohort(500, seed=s) for s in (1, 1, 2))
    assert a.equals(b)
    assert (p == q).all()
    assert not a.equals(c)


def test_shifts_move_the_means():
    usual, _ = make_cohort(20_000, seed=3)
    moved, _ = make_cohort(20_000, seed=3, knobs=CohortKnobs(shift_age=5, shift_glucose=20))
    assert moved["age"].mean() - usual["age"].mean() == pytest.approx(5, abs=0.3)
    # older patients also have more sugar: 0.25 mg/dL a year
    assert moved["glucose"].mean() - usual["glucose"].mean() == pytest.approx(20 + 0.25 * 5, abs=1)


def test_missingness_is_the_share_asked_for():
    frame, _ = make_cohort(20_000, seed=4, knobs=CohortKnobs(missing=0.3))
    assert frame[["glucose", "bmi", "bp_systolic"]].isna().mean().tolist() == pytest.approx([0.3] * 3, abs=0.02)


def test_prevalence_is_a_label_shift_with_its_own_true_probability():
    frame, probability = make_cohort(60_000, seed=5, knobs=CohortKnobs(prevalence=0.4))
    usual, _ = make_cohort(60_000, seed=6)
    assert frame["readmission_30d"].mean() == pytest.approx(0.4, abs=0.01)
    assert probability.mean() == pytest.approx(0.4, abs=0.01)
    for label in (0, 1):  # what each class looks like stays the same
        a, b = (f["age"][f["readmission_30d"] == label] for f in (frame, usual))
        assert abs(a.mean() - b.mean()) < 5 * np.sqrt(a.var() / len(a) + b.var() / len(b))


def test_half_the_signal_is_harder():
    frame, probability = make_cohort(20_000, seed=6, knobs=CohortKnobs(signal=0.5))
    assert roc_auc_score(frame["readmission_30d"], probability) < 0.75


def test_a_unit_error_shows_in_glucose_and_leaves_the_law_alone():
    right, p = make_cohort(5_000, seed=7)
    wrong, q = make_cohort(5_000, seed=7, knobs=CohortKnobs(unit_error=0.1))
    changed = (right["glucose"] != wrong["glucose"]) & right["glucose"].notna()
    assert changed.mean() == pytest.approx(0.1 * 0.92, abs=0.02)
    assert (p == q).all()
    assert validate_frame(wrong, "v1").problems[0][:2] == ("glucose", "too low")


@pytest.mark.parametrize("knobs", [{"missing": 0.95}, {"unit_error": -0.1}, {"prevalence": 1.0}])
def test_impossible_knobs_are_refused(knobs):
    with pytest.raises(ConfigError, match=next(iter(knobs))):
        CohortKnobs(**knobs)


def test_no_rows_are_refused():
    with pytest.raises(ConfigError, match="rows"):
        make_cohort(0, seed=1)
