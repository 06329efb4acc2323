"""The artefact as MLflow sees it: a pyfunc that answers frames exactly as the service answers records.

MLflow keeps this file with the model and runs it when the model is loaded, in a process that need not know this
project; the modules it imports travel with the model as well.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from ml_core.base.errors import DataError, InvalidRows
from ml_core.lab.data.frames import encode_frame
from ml_core.serve.model.bundle import read_bundle
from ml_core.serve.model.prediction_sets import level_from_json
from ml_core.serve.model.predictor import Predictor, check_golden

__all__ = ["SuretyModel"]


class SuretyModel(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc]  # MLflow is untyped
    """Prediction sets for a frame of raw columns."""

    def load_context(self, context: Any) -> None:
        """Verify the artefact, parse it, and let it give its golden answers before it may give others."""
        self._predictor = Predictor(read_bundle(Path(context.artifacts["bundle"])))
        check_golden(self._predictor)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Answers for the rows of a frame, in their order and with their index.

        Parameters
        ----------
        model_input : the feature version's raw columns; id, group and time columns may be there, and those that only
            tell a group of rows. MLflow drops all others first
        params : ``confidence_level``, in [0.5, 0.999]; the configured level where it is missing or 0

        Returns
        -------
        DataFrame
            ``prediction`` (label), ``probability`` (of label 1; missing where there are more than two),
            ``probabilities`` and ``p_values`` (by label as text), ``prediction_set`` (list of labels); ``group`` where
            the coverage is promised by groups.

        Raises
        ------
        DataError
            A feature has no column, also one that may be null: a mistyped name is an error, and no missing value.
        InvalidRows
            Rows that a request with them would be refused for; columns, checks and counts are named, values are not.
        InvalidRequest
            The level is out of range.
        """
        predictor = self._predictor
        bundle = predictor.bundle
        frame = pd.DataFrame(model_input)
        absent = [column.name for column in bundle.features.features if column.name not in frame.columns]
        if absent:
            raise DataError("input", f"has no column {', '.join(absent)}")
        table = encode_frame(frame, bundle.features, bundle.beside)
        if table.problems:
            checks = [(column, check, count) for (column, check), count in sorted(table.checks.items())]
            raise InvalidRows("input", len(table.problems), table.n_rows, checks)
        found = predictor.predict(table.arrays, _level(params, predictor.level))
        labels, keys, rows = predictor.classes, [str(label) for label in predictor.classes], list(found.rows())
        grouped = bundle.grouped
        cells = [] if grouped is None or not table.n_rows else grouped.cells(table.arrays).tolist()
        return pd.DataFrame(
            {
                "prediction": found.labels(labels),
                "probability": found.proba[:, 1] if len(labels) == 2 else np.nan,
                "probabilities": [dict(zip(keys, row.proba, strict=True)) for row in rows],
                "p_values": [dict(zip(keys, row.p_values, strict=True)) for row in rows],
                "prediction_set": [[labels[k] for k in row.members] for row in rows],
                **({} if grouped is None else {"group": [grouped.names[cell] for cell in cells]}),
            },
            index=model_input.index,
        )


def _level(params: dict[str, Any] | None, configured: Decimal) -> Decimal:
    asked = (params or {}).get("confidence_level")
    return configured if not asked else level_from_json(asked)


mlflow.models.set_model(SuretyModel())
