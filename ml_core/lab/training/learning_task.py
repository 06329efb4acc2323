"""What a learner is given, and what it gives back: the same for every learner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import FeatureMatrix, FloatArray, IntArray, Label
from ml_core.base.errors import ConfigError, DataError
from ml_core.base.near_names import meant
from ml_core.lab.config import ModelConfig, TrainingConfig
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.packing import Note

__all__ = ["LearningTask", "TaskRows", "TrainedScorer", "class_factors", "learning_task"]

Proba = Callable[[FeatureMatrix], npt.NDArray[np.float64]]

_ROWS_PER_THREAD = 25_000
_MOST_THREADS = 4


@dataclass(frozen=True, eq=False)
class TaskRows:
    """Rows to learn from, or to watch while learning.

    Attributes
    ----------
    matrix : float32 (n, d)
    y_index : (n,), class indices
    weights : (n,), how much each row counts; None where all count alike
    """

    matrix: FeatureMatrix
    y_index: IntArray
    weights: FloatArray | None

    def __len__(self) -> int:
        return len(self.y_index)


@dataclass(frozen=True, eq=False)
class LearningTask:
    """Everything that decides a scorer.

    Attributes
    ----------
    asked : the configuration's section
    seed : of every generator
    train, validation : learn, and stop or choose among rounds
    n_classes : K; every class has rows in both parts
    feature_names : the d columns of the matrix
    note : called with what is done, in words
    """

    asked: TrainingConfig
    seed: int
    train: TaskRows
    validation: TaskRows
    n_classes: int
    feature_names: tuple[str, ...]
    note: Note

    @property
    def threads(self) -> int:
        """From the rows, up to four, and never from the machine: the order of sums must not change with it."""
        return min(1 + len(self.train) // _ROWS_PER_THREAD, _MOST_THREADS)


@dataclass(frozen=True, eq=False)
class TrainedScorer:
    """A classifier fresh from its learner.

    Attributes
    ----------
    name : of the library, for people
    estimator : import path of its class; empty for XGBoost, whose artefact holds ``model.ubj``
    proba : class probabilities by the library itself, float64 (n, K)
    onnx : the same, converted
    limit : largest difference between the two that conversion may make
    params : hyper-parameters, as given and as found
    files : its own form, where one can be read without running code
    libraries : that decide its bytes, with their editions
    """

    name: str
    estimator: str
    proba: Proba
    onnx: bytes
    limit: float
    params: Mapping[str, float | int | str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)


def learning_task(config: ModelConfig, rows: LabelledRows, note: Note) -> LearningTask:
    """The task that a configuration and its rows set.

    Raises
    ------
    DataError
        Train or validation rows lack a class.
    ConfigError
        ``training.class_weight`` names a label that is none.
    """
    parts = {name: rows.part(name) for name in ("train", "validation")}
    for name, part in parts.items():
        if len(set(part.y_index.tolist())) < len(rows.classes):
            raise DataError(rows.origin, f"its {name} {rows.subjects} lack a class: add rows")
    factors = class_factors(config.training, rows.classes, parts["train"].y_index, parts["train"].weights)
    train, validation = (
        TaskRows(part.matrix, part.y_index, _weights(part, factors, parts["train"])) for part in parts.values()
    )
    names = tuple(rows.features.feature_names)
    return LearningTask(config.training, config.seed, train, validation, len(rows.classes), names, note)


def class_factors(
    asked: TrainingConfig, classes: Sequence[Label], y_index: IntArray, weights: FloatArray | None
) -> FloatArray | None:
    """By how much each class's rows count more, shape (K,); None where nothing was asked.

    ``balanced``: all classes weigh the same together, as in scikit-learn. A table of labels: one that is not in it
    counts once.

    Parameters
    ----------
    y_index, weights : of the training rows, (n,)

    Raises
    ------
    ConfigError
        A name in the table is no label.
    """
    if asked.class_weight is None:
        return None
    if asked.class_weight == "balanced":
        mass = np.bincount(y_index, weights=weights, minlength=len(classes))
        balanced: FloatArray = mass.sum() / (len(classes) * mass)
        return balanced
    names = [str(label) for label in classes]
    for name in asked.class_weight:
        if str(name) not in names:
            problem = f"is no label of these rows; {meant(str(name), names)}"
            raise ConfigError(f"training.class_weight.{name}", problem)
    table = {str(name): weight for name, weight in asked.class_weight.items()}
    return np.array([table.get(name, 1.0) for name in names], dtype=np.float64)


def _weights(part: LabelledRows, factors: FloatArray | None, train: LabelledRows) -> FloatArray | None:
    """Weight of each row of a part: its own in units of the mean training row's, times its class's."""
    if part.weights is None and factors is None:
        return None
    own = np.ones(len(part)) if part.weights is None or train.weights is None else part.weights / train.weights.mean()
    found: FloatArray = own if factors is None else own * factors[part.y_index]
    return found
