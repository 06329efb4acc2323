"""Feature version v1: the clinical schema, four measurements at discharge.

The only data for it here is a synthetic cohort of known law (``surety data make``).

This module is frozen: its sha256 is part of every artefact, so a change to it must be a new version. It therefore
imports nothing but numpy and the column table, and uses only operations that give the same bits wherever a value
stands in its array.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ml_core.features.columns import Column, ColumnArrays

__all__ = ["COLUMNS", "FEATURE_DOCS", "FEATURE_NAMES", "transform"]

COLUMNS: tuple[Column, ...] = (
    Column(
        "patient_id",
        "text",
        "Identifies the patient; splits keep a patient whole.",
        role="group",
        pattern=r"[A-Za-z0-9._-]{1,64}",
    ),
    Column("encounter_date", "datetime", "Day, or moment, of the discharge.", role="time"),
    Column("age", "int", "Age in completed years.", unit="years", low=0, high=120),
    Column("glucose", "float", "Plasma glucose, last before discharge.", unit="mg/dL", low=30, high=600, nullable=True),
    Column("bmi", "float", "Body mass index.", unit="kg/m2", low=10, high=80, nullable=True),
    Column("bp_systolic", "float", "Systolic blood pressure at rest.", unit="mmHg", low=50, high=300, nullable=True),
    Column(
        "readmission_30d",
        "category",
        "1 if readmitted within 30 days of discharge, else 0.",
        role="label",
        levels=(0, 1),
    ),
)

_MEASURED = ("glucose", "bmi", "bp_systolic")

_LAYOUT = (
    ("age", "As recorded"),
    *((name, "As recorded; NaN if missing") for name in _MEASURED),
    *((f"{name}_missing", f"1 if {name} is missing; else 0") for name in _MEASURED),
    ("glucose_above_180", "How far glucose lies above 180 mg/dL, else 0; NaN if missing"),
    ("bmi_outside_normal", "How far bmi lies outside 18.5 to 25 kg/m2, else 0; NaN if missing"),
    ("bp_systolic_below_100", "How far bp_systolic lies below 100 mmHg, else 0; NaN if missing"),
    ("bp_systolic_above_140", "How far bp_systolic lies above 140 mmHg, else 0; NaN if missing"),
)
FEATURE_NAMES: tuple[str, ...] = tuple(name for name, _ in _LAYOUT)
FEATURE_DOCS: tuple[str, ...] = tuple(doc for _, doc in _LAYOUT)


def transform(columns: ColumnArrays) -> npt.NDArray[np.float32]:
    """The feature matrix of n encounters.

    Parameters
    ----------
    columns : arrays of shape (n,)
        ``age`` (years), ``glucose`` (mg/dL), ``bmi`` (kg/m2), ``bp_systolic`` (mmHg), NaN where missing. Others are
        not looked at.

    Returns
    -------
    float32, shape (n, 11), columns as in ``FEATURE_NAMES``
        A measurement and what is derived from it are NaN where it is missing. The thresholds are the usual clinical
        ones: 180 mg/dL, 18.5 to 25 kg/m2, 100 and 140 mmHg. Row i depends on row i alone.
    """
    glucose, bmi, pressure = (columns[name] for name in _MEASURED)
    out = np.empty((len(glucose), len(FEATURE_NAMES)), dtype=np.float32)
    out[:, 0] = columns["age"]
    for j, values in enumerate((glucose, bmi, pressure), start=1):
        out[:, j] = values
        out[:, j + 3] = np.isnan(values)
    out[:, 7] = np.maximum(glucose - 180.0, 0.0)
    out[:, 8] = np.maximum(np.maximum(18.5 - bmi, bmi - 25.0), 0.0)
    out[:, 9] = np.maximum(100.0 - pressure, 0.0)
    out[:, 10] = np.maximum(pressure - 140.0, 0.0)
    return out
