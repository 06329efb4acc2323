"""What MLflow is told of a model's columns, so that the registry's page shows them, and an example of its input."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ml_core.serve.model.bundle import Bundle

__all__ = ["input_example", "mlflow_signature"]

_EXAMPLE_ROWS = 3
_BORDERS = 3  # golden records before the draws: lowest and highest values, and all missing


def mlflow_signature(bundle: Bundle) -> Any:
    """MLflow's signature: raw columns in, answers out, and the level as a parameter.

    Columns are of type "Any" and none is required: what a value may be and which columns must be there, the model says
    itself. MLflow would quote the rows, a person's values, in what it says of a missing column.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array

    manifest, features = bundle.manifest, bundle.features
    optional = [*bundle.beside, *(c for c in features.columns if c.role not in ("feature", "label"))]
    anything = AnyType()  # type: ignore[no-untyped-call]  # MLflow has types in part
    inputs: list[Any] = [ColSpec(anything, c.name, required=False) for c in (*features.features, *optional)]
    label = "long" if isinstance(manifest.classes[0], int) else "string"
    outputs: list[Any] = [
        ColSpec(label, "prediction"),
        ColSpec("double", "probability"),
        ColSpec(anything, "probabilities"),
        ColSpec(anything, "p_values"),
        ColSpec(Array(label), "prediction_set"),
        *([] if bundle.grouped is None else [ColSpec("string", "group")]),
    ]
    level = ParamSpec("confidence_level", "double", float(manifest.confidence_level))
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs), params=ParamSchema([level]))


def input_example(bundle: Bundle) -> pd.DataFrame:
    """A few records drawn from the bounds of the columns, nobody's; their answers are among the golden ones."""
    records = [entry["record"] for entry in bundle.golden]
    return pd.DataFrame(records[_BORDERS : _BORDERS + _EXAMPLE_ROWS] or records[:1])
