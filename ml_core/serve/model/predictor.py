"""A bundle made ready to answer: records or columns in, probabilities, p-values and sets out, without HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import Any

from ml_core.base.arrays import FeatureMatrix, Label, Probabilities
from ml_core.base.errors import GoldenMismatch
from ml_core.features.columns import ColumnArrays
from ml_core.serve.features.record import RecordReader
from ml_core.serve.model.bundle import Bundle
from ml_core.serve.model.explanations import Explainer
from ml_core.serve.model.prediction_sets import Predictions
from ml_core.serve.model.scorer import OnnxScorer, Scorer, check_probabilities

__all__ = ["Predictor", "check_golden", "golden_entries"]


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
        self.reader = RecordReader(bundle.features.columns, bundle.beside)
        self.scorer: Scorer = scorer or OnnxScorer(bundle.onnx, manifest.n_features, len(manifest.classes))
        self.classes: tuple[Label, ...] = manifest.classes
        self.level: Decimal = manifest.confidence_level

    @cached_property
    def explainer(self) -> Explainer:
        """Says why answers are what they are."""
        return Explainer(self.bundle, self.reader)

    def proba(self, columns: ColumnArrays) -> Probabilities:
        """Class probabilities of the rows in these columns, (n, K).

        Raises
        ------
        BadModelOutput
            The model gives numbers that are no probabilities.
        """
        return self.score(self.bundle.features.transform(columns))

    def score(self, features: FeatureMatrix) -> Probabilities:
        """Class probabilities of the rows of a matrix (n, d); errors as :meth:`proba`."""
        return check_probabilities(self.scorer.proba(features))

    def predict(self, columns: ColumnArrays, level: Decimal | None = None) -> Predictions:
        """Full answers for the rows in these columns, at ``level`` or the configured one; errors as :meth:`proba`.

        Parameters
        ----------
        columns : the feature columns, and those beside them that a grouping looks at; without one its rows are in the
            cell ``unknown``
        """
        return self.sets(self.proba(columns), columns, level)

    def sets(
        self, proba: Probabilities, columns: ColumnArrays, level: Decimal | None = None, *, of_scorecard: bool = False
    ) -> Predictions:
        """The same from probabilities that are known already, (n, K), of the model or of its scorecard."""
        bundle, chosen = self.bundle, self.level if level is None else level
        weighted = bundle.weighted_scorecard if of_scorecard else bundle.weighted
        if weighted is not None:
            return weighted.rows(proba, chosen, weighted.ratio.weights(bundle.features.transform(columns)))
        grouped = bundle.grouped_scorecard if of_scorecard else bundle.grouped
        if grouped is None:
            return (bundle.scorecard_calibration if of_scorecard else bundle.calibration).rows(proba, chosen)
        return grouped.rows(proba, chosen, grouped.cells(columns))


def golden_entries(predictor: Predictor, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``golden.json``: each record beside the exact answer the predictor gives it today."""
    read = [predictor.reader.read(dict(record)) for record in records]
    found = predictor.predict(predictor.reader.arrays(read))
    return [
        {
            "record": dict(record),
            "proba": row.proba,
            "p_values": row.p_values,
            "set": sets,
            "prediction": row.prediction,
        }
        for record, row, sets in zip(records, found.rows(), found.sets.tolist(), strict=True)
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
