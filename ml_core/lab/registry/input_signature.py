"""What MLflow is told of a model's columns, so that the registry's page shows them, and an example of its input."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ml_core.features.columns import Column
from ml_core.serve.features.column_rules import OPTIONAL_ROLES, integer_levels
from ml_core.serve.model.bundle import Bundle

__all__ = ["input_example", "mlflow_signature"]

_EXAMPLE_ROWS = 3
_BORDERS = 3  # golden records before the draws: lowest and highest values, and all missing


def mlflow_signature(bundle: Bundle) -> Any:
    """MLflow's signature: raw columns in, answers out, and the level as a parameter.

    MLflow drops columns that are not in it before the model sees a frame. So every feature is required there, also one
    that may be null: a mistyped name is an error, and no missing value.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array

    manifest = bundle.manifest
    inputs = [ColSpec(_type_of(c), c.name) for c in bundle.features.features]
    asked_for_groups = [ColSpec(_type_of(c), c.name, required=False) for c in bundle.beside]
    optional = [ColSpec(AnyType(), c.name, required=False) for c in bundle.features.columns if c.role in OPTIONAL_ROLES]
    label = "long" if isinstance(manifest.classes[0], int) else "string"
    outputs = [
        ColSpec(label, "prediction"),
        ColSpec("double", "probability", required=False),
        ColSpec(AnyType(), "probabilities"),
        ColSpec(AnyType(), "p_values"),
        ColSpec(Array(label), "prediction_set"),
        *([] if bundle.grouped is None else [ColSpec("string", "group")]),
    ]
    level = ParamSpec("confidence_level", "double", float(manifest.confidence_level))
    return ModelSignature(
        inputs=Schema([*inputs, *asked_for_groups, *optional]), outputs=Schema(outputs), params=ParamSchema([level])
    )


def input_example(bundle: Bundle) -> pd.DataFrame:
    """A few records drawn from the bounds of the columns, nobody's; their answers are among the golden ones."""
    records = [entry["record"] for entry in bundle.golden[_BORDERS : _BORDERS + _EXAMPLE_ROWS]]
    frame = pd.DataFrame(records or [bundle.golden[0]["record"]])
    for column in (*bundle.features.features, *bundle.beside):
        if _type_of(column) == "double":
            frame[column.name] = frame[column.name].astype("float64")
        else:
            frame[column.name] = frame[column.name].astype(object)
    return frame


def _type_of(column: Column) -> Any:
    """Numbers are double, since a column with missing values is; whole ones stay exact, and texts texts."""
    from mlflow.types.schema import AnyType

    if column.dtype in ("int", "float") or (column.dtype == "category" and integer_levels(column)):
        return "double"
    return "string" if column.dtype in ("category", "text") else AnyType()
