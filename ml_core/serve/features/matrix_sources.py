"""Which raw columns each column of a feature matrix is made of, so that what is said of one can be said of the others.

The standard transform makes each column of one raw column. A module says it in ``FEATURE_SOURCES``, by the names of its
features; what is said of v1 and v2, which are frozen, stands here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ml_core.base.errors import ConfigError
from ml_core.features.columns import Column, features_of
from ml_core.serve.features.standard import StandardTransform

__all__ = ["DECLARED", "Sources", "declared_sources", "standard_sources"]

Sources = tuple[tuple[str, ...], ...]
"""For each column of the matrix, in order, the raw columns that it is made of."""

_VISITS = ("number_outpatient", "number_emergency", "number_inpatient")
_DRUGS = ("metformin", "glimepiride", "glipizide", "glyburide", "pioglitazone", "rosiglitazone", "insulin")
_DIAGNOSES = ("diag_1", "diag_2", "diag_3")

DECLARED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "v1": {f"{name}_": (name,) for name in ("glucose", "bmi", "bp_systolic")},
    "v2": {
        "visits_year_before": _VISITS,
        "acute_visits_year_before": _VISITS[1:],
        "labs_per_day": ("num_lab_procedures", "time_in_hospital"),
        "medications_per_day": ("num_medications", "time_in_hospital"),
        "age_years": ("age",),
        "female": ("gender",),
        "admission_": ("admission_type_id",),
        "discharge_": ("discharge_disposition_id",),
        "source_": ("admission_source_id",),
        "specialty_": ("medical_specialty",),
        "glucose_": ("max_glu_serum",),
        "a1c_": ("A1Cresult",),
        "medication_changed": ("change",),
        "diabetes_medication": ("diabetesMed",),
        "drugs_": _DRUGS,
        "primary_": _DIAGNOSES[:1],
        "n_": _DIAGNOSES,
    },
}
"""By version: a feature, or all whose names begin with a text that ends in ``_``, and what they are made of."""


def standard_sources(columns: Sequence[Column]) -> Sources:
    """Of the standard transform of that table."""
    return tuple((column.name,) for column in features_of(columns) for _ in StandardTransform((column,)).names)


def declared_sources(
    version: str, features: Sequence[str], columns: Sequence[Column], declared: Mapping[str, Sequence[str]] | None
) -> Sources | None:
    """Of a module, as it declares them; None where it declares nothing.

    Parameters
    ----------
    version : its name, for messages
    features : names of the columns of its matrix
    columns : its table; a feature that is not declared is the raw column of its name
    declared : by feature, or by the beginning of its name where that ends in ``_``

    Raises
    ------
    ConfigError
        A feature is made of no column of the table.
    """
    if declared is None:
        return None
    if not isinstance(declared, Mapping):
        raise ConfigError(f"feature version {version}", "FEATURE_SOURCES is no mapping from features to raw columns")
    raw = {column.name for column in features_of(columns)}
    found = []
    for feature in features:
        named = _said(feature, declared)
        sources = (feature,) if named is None else tuple(named)
        if not sources or (raw and not raw.issuperset(sources)):
            problem = f"FEATURE_SOURCES does not say of which raw columns {feature!r} is made"
            raise ConfigError(f"feature version {version}", problem)
        found.append(sources)
    return tuple(found)


def _said(feature: str, declared: Mapping[str, Sequence[str]]) -> Sequence[str] | None:
    """What is declared of a feature: under its own name, else under the longest beginning."""
    if feature in declared:
        return declared[feature]
    beginnings = [name for name in declared if name.endswith("_") and feature.startswith(name)]
    return declared[max(beginnings, key=len)] if beginnings else None
