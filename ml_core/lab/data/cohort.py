"""A synthetic cohort for v1 whose law is known, so that every claim can be checked against the truth.

It is a demonstration, never evidence, and no patient stands behind it. The law of readmission within 30 days, given
what is recorded of an encounter (age in years, glucose in mg/dL, bmi in kg/m2, bp = systolic pressure in mmHg)::

    logit P(y = 1) = -2.30 + signal * (a + g + b + p + a*g/2 + [g > 1] * p/2)

    a = 0.85 * (age - 62) / 14                                 older, more often
    g = max(glucose - 110, 0) / 45 - 0.45                      0.55 if glucose was not measured
    b = 0.07 * max(18.5 - bmi, bmi - 27, 0) - 0.15             0.05 if missing; thin and heavy, more often
    p = 0.035 * max(105 - bp, 0)
      + 0.018 * max(bp - 145, 0) - 0.15                        0.10 if missing; too low is worse than too high

so old age and high sugar make each other worse (a*g/2), and blood pressure counts half as much again where sugar is
high. That a value is missing is itself a recorded fact, and the law speaks about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_core.base.errors import ConfigError

__all__ = ["CohortKnobs", "make_cohort", "true_probability"]

_FloatArray = npt.NDArray[np.float64]
_Draw = tuple[dict[str, _FloatArray], _FloatArray, npt.NDArray[np.int64]]  # measurements, true probability, label

_INTERCEPT = -2.30
_MG_PER_MMOL = 18.016  # mg/dL of glucose in one mmol/L
_ENCOUNTERS_PER_PATIENT = 1.4


@dataclass(frozen=True, slots=True)
class CohortKnobs:
    """How a cohort differs from the usual one; every default means "not at all".

    Attributes
    ----------
    shift_age : years added to everyone's age
    shift_glucose : mg/dL added to everyone's glucose
    missing : share in [0, 0.9] of each measurement that was not taken
    prevalence : share in (0, 1) readmitted; reached by drawing more or fewer of the readmitted (label shift: what the
        readmitted look like stays the same). None leaves what the law gives, about 0.15
    signal : factor on the law's slopes; 0.5 halves what can be known (concept drift)
    unit_error : share in [0, 1] of glucose values entered in mmol/L
    """

    shift_age: float = 0.0
    shift_glucose: float = 0.0
    missing: float = 0.08
    prevalence: float | None = None
    signal: float = 1.0
    unit_error: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (("missing", 0.0, 0.9), ("unit_error", 0.0, 1.0)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(name, f"must lie in [{low:g}, {high:g}]")
        if self.prevalence is not None and not 0 < self.prevalence < 1:
            raise ConfigError("prevalence", "must lie in (0, 1)")


def true_probability(
    age: _FloatArray, glucose: _FloatArray, bmi: _FloatArray, bp_systolic: _FloatArray, signal: float = 1.0
) -> _FloatArray:
    """The law: P(readmitted within 30 days | what is recorded), shape (n,), NaN meaning "not measured"."""
    a = 0.85 * (age - 62) / 14
    g = np.where(np.isnan(glucose), 0.55, np.maximum(glucose - 110, 0) / 45 - 0.45)
    b = np.where(np.isnan(bmi), 0.05, 0.07 * np.maximum(np.maximum(18.5 - bmi, bmi - 27), 0) - 0.15)
    low, high = np.maximum(105 - bp_systolic, 0), np.maximum(bp_systolic - 145, 0)
    p = np.where(np.isnan(bp_systolic), 0.10, 0.035 * low + 0.018 * high - 0.15)
    logit = _INTERCEPT + signal * (a + g + b + p + a * g / 2 + (g > 1) * p / 2)
    return 1 / (1 + np.exp(-logit))


def make_cohort(
    n: int, seed: int, knobs: CohortKnobs = CohortKnobs(), start: str = "2026-01-01", days: int = 365
) -> tuple[pd.DataFrame, _FloatArray]:
    """A cohort of n encounters and the probability each label was drawn with.

    Parameters
    ----------
    n : encounters, at least 1
    seed : the same seed and knobs give the same cohort
    knobs : drift
    start, days : the encounters' dates spread evenly from this day over this many days

    Returns
    -------
    frame : columns as in v1, in order of date; about 1.4 encounters to a patient
    probability : float64, shape (n,)
        True P(y = 1 | recorded values) of each row, after any label shift and before any unit error.
    """
    if n < 1:
        raise ConfigError("rows", "must be at least 1")
    rng = np.random.default_rng(seed)
    if knobs.prevalence is None:
        columns, probability, label = _draw(n, rng, knobs)
    else:
        columns, probability, label = _draw_at_prevalence(n, rng, knobs, knobs.prevalence)
    glucose = columns["glucose"]
    in_mmol = rng.random(n) < knobs.unit_error
    columns["glucose"] = np.where(in_mmol, np.round(glucose / _MG_PER_MMOL, 1), glucose)
    frame = pd.DataFrame(
        {
            "patient_id": _patients(n, rng),
            "encounter_date": pd.Timestamp(start) + pd.to_timedelta(np.arange(n) * days // n, unit="D").as_unit("us"),
            **columns,
            "readmission_30d": label,
        }
    )
    frame["age"] = frame["age"].astype("int64")
    return frame, probability


def _draw(n: int, rng: np.random.Generator, knobs: CohortKnobs) -> _Draw:
    age = np.clip(np.round(rng.normal(62, 14, n) + knobs.shift_age), 18, 104)
    glucose = np.clip(85 + rng.gamma(1.6, 28, n) + 0.25 * (age - 62) + knobs.shift_glucose, 45, 580).round(0)
    bmi = np.clip(rng.normal(28, 5.5, n), 12, 65).round(1)
    pressure = np.clip(rng.normal(132, 22, n) + 0.2 * (age - 62), 60, 250).round(0)
    measured = {"glucose": glucose, "bmi": bmi, "bp_systolic": pressure}
    for name, values in measured.items():
        measured[name] = np.where(rng.random(n) < knobs.missing, np.nan, values)
    probability = true_probability(age, **measured, signal=knobs.signal)
    label = (rng.random(n) < probability).astype(np.int64)
    return {"age": age, **measured}, probability, label


def _draw_at_prevalence(n: int, rng: np.random.Generator, knobs: CohortKnobs, wanted: float) -> _Draw:
    """Label shift: the readmitted and the others as ever, but mixed in another proportion.

    With prevalence pi in the usual cohort, Bayes' rule gives P'(1|x) = p w1 / (p w1 + (1 - p) w0) where
    w1 = pi'/pi and w0 = (1 - pi')/(1 - pi).
    """
    n_positive = int(rng.binomial(n, wanted))
    wanted_rows = {1: n_positive, 0: n - n_positive}
    kept: dict[int, list[int]] = {0: [], 1: []}
    usual = _usual_prevalence(rng, knobs)
    pool = int(1.2 * n * max(wanted / usual, (1 - wanted) / (1 - usual))) + 100
    while True:  # the pool is ample; it grows only if luck was very bad
        columns, probability, label = _draw(pool, rng, knobs)
        kept = {k: np.flatnonzero(label == k)[: wanted_rows[k]].tolist() for k in (0, 1)}
        if all(len(kept[k]) == wanted_rows[k] for k in (0, 1)):
            break
        pool *= 2
    rows = rng.permutation(np.array(kept[0] + kept[1], dtype=np.intp))
    w1, w0 = wanted / usual, (1 - wanted) / (1 - usual)
    p = probability[rows]
    shifted = p * w1 / (p * w1 + (1 - p) * w0)
    return {name: values[rows] for name, values in columns.items()}, shifted, label[rows]


def _usual_prevalence(rng: np.random.Generator, knobs: CohortKnobs) -> float:
    """Mean of the law over 200,000 encounters drawn with these knobs (standard error below 0.0005)."""
    _, probability, _ = _draw(200_000, rng, knobs)
    return float(probability.mean())


def _patients(n: int, rng: np.random.Generator) -> list[str]:
    return [f"P{number:07d}" for number in rng.integers(0, max(1, round(n / _ENCOUNTERS_PER_PATIENT)), n)]
