"""A bundle made ready to answer: records or columns in, probabilities, p-values and sets out, without HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import GoldenMismatch
from ml_core.features.columns import ColumnArrays
from ml_core.serve.features.record import RecordReader
from ml_core.serve.model.bundle import Bundle
from ml_core.serve.model.scorer import OnnxScorer, Scorer

__all__ = ["Label", "Predictions", "Predictor", "check_golden", "golden_entries"]

Label = int | str


@dataclass(frozen=True, slots=True)
class Predictions:
    """Answers for n rows and K classes.

    Attributes
    ----------
    proba : float64 (n, K), class probabilities
    p_values : float64 (n, K), conformal p-values in (0, 1]
    sets : bool (n, K), label k is in the prediction set of row i
    predictions : int (n,), position of the label with the largest p-value
    """

    proba: npt.NDArray[np.float64]
    p_values: npt.NDArray[np.float64]
    sets: npt.NDArray[np.bool_]
    predictions: npt.NDArray[np.intp]


class Predictor:
    """Scores rows with one bundle; the same bits online, offline and in the gate.

    Attributes
    ----------
    bundle : the verified artefact
    reader : reads records of its feature version
    scorer : its served model, in this process unless another one is given
    classes, level : labels in order, and the configured confidence level
    """

    def __init__(self, bundle: Bundle, scorer: Scorer | None = None) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.reader = RecordReader(bundle.features.columns)
        self.scorer: Scorer = scorer or OnnxScorer(bundle.onnx, manifest.n_features, len(manifest.classes))
        self.classes: tuple[Label, ...] = manifest.classes
        self.level: Decimal = manifest.confidence_level

    def proba(self, columns: ColumnArrays) -> npt.NDArray[np.float64]:
        """Class probabilities of the rows in these columns, float64 (n, K)."""
        return self.scorer.proba(self.bundle.features.transform(columns))

    def predict(self, columns: ColumnArrays, level: Decimal | None = None) -> Predictions:
        """Full answers for the rows in these columns, at ``level`` or the configured one."""
        return self.answer(self.proba(columns), level)

    def answer(self, proba: npt.NDArray[np.float64], level: Decimal | None = None) -> Predictions:
        """Full answers for rows whose probabilities (n, K) are known."""
        found = self.bundle.calibration.rows(proba, self.level if level is None else level)
        return Predictions(proba, found.p_values, found.sets, found.predictions)


def golden_entries(predictor: Predictor, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``golden.json``: each record beside the exact answer the predictor gives it today."""
    read = [predictor.reader.read(dict(record)) for record in records]
    found = predictor.predict(predictor.reader.arrays(read))
    return [
        {
            "record": dict(record),
            "proba": found.proba[i].tolist(),
            "p_values": found.p_values[i].tolist(),
            "set": found.sets[i].tolist(),
            "prediction": int(found.predictions[i]),
        }
        for i, record in enumerate(records)
    ]


def check_golden(predictor: Predictor) -> None:
    """Let the predictor answer its own golden records, and compare bit for bit.

    Raises
    ------
    GoldenMismatch
        An answer differs: other bytes, libraries or processor than the model was accepted with.
    """
    golden = predictor.bundle.golden
    if not golden:
        raise GoldenMismatch(0, "answer (there are no golden records)")
    try:
        now = golden_entries(predictor, [entry["record"] for entry in golden])
    except (KeyError, TypeError) as error:
        raise GoldenMismatch(0, "shape") from error
    for index, (before, after) in enumerate(zip(golden, now, strict=True)):
        for part in ("proba", "p_values", "set", "prediction"):
            if before.get(part) != after[part]:
                raise GoldenMismatch(index, part)
