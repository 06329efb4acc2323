"""Why an answer is what it is: what each raw column added to the number that decides its set.

Trees are explained by exact TreeSHAP, logistic regressions by their own terms; the rest is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

import numpy as np
import orjson

from ml_core.base.arrays import FeatureMatrix, FloatArray, IntArray, Label
from ml_core.base.errors import ArtefactError
from ml_core.serve.features.record import RecordReader
from ml_core.serve.features.versions import FeatureVersion
from ml_core.serve.model.bundle import LINEAR_FILE, NATIVE_FILES, TREES_FILE, Bundle
from ml_core.serve.model.scorer import Scorecard
from ml_core.serve.model.tree_shap import TreeShap
from ml_core.serve.model.trees import TreeForm, sums_of_runs

__all__ = ["EFFECTS", "METHODS", "SCALES", "Contribution", "Explainer", "Explanation"]

Method = Literal["tree_shap", "linear"]
METHODS: tuple[Method, ...] = ("tree_shap", "linear")
Scale = Literal["log_odds", "margin", "probability"]
SCALES: tuple[Scale, ...] = ("log_odds", "margin", "probability")
"""What is explained: the log-odds of the second of two labels, one label's part of a soft-max, or a mean of trees."""
Effect = Literal["raises", "lowers", "none"]
_SCALE_WORDS: Mapping[Scale, str] = {
    "log_odds": "the log-odds",
    "margin": "the score",
    "probability": "the probability",
}
EFFECTS: tuple[Effect, ...] = ("raises", "lowers", "none")

_NO_MODEL = "no model gave this answer: its set holds every label, whatever the record says"
_TOLERANCE = 1e-6
"""How far contributions may be from the margin."""
_GOLDEN_TOLERANCE: Mapping[Method, float] = {"tree_shap": 1e-6, "linear": 1e-5}
"""How far what explains may be from golden answers: trees are served in 64 bits, a logistic regression in 32."""


# Not frozen: of a frozen dataclass it takes three times as long to make the forty that an explanation has.
@dataclass(slots=True)
class Contribution:
    """What some raw columns added.

    Attributes
    ----------
    columns : one raw column; several where features are made of several, and the model sees these together only
    contribution : in the explanation's scale
    effect : its sign in a word
    """

    columns: tuple[str, ...]
    contribution: float
    effect: Effect

    def in_words(self, label: Label | None, scale: Scale | None) -> str:
        """The same for people. It tells how the model counts, never what causes what.

        Examples
        --------
        >>> Contribution(("age",), -0.25, "lowers").in_words(1, "log_odds")
        'age lowers the log-odds of 1 by 0.25'
        >>> Contribution(("labs", "days"), 0.5, "raises").in_words("ward", "margin")
        'labs and days together raise the score of ward by 0.5'
        """
        *others, last = self.columns
        names = f"{', '.join(others)} and {last} together" if others else last
        if self.effect == "none":
            return f"{names} change{'' if others else 's'} nothing"
        verb = self.effect.removesuffix("s") if others else self.effect
        return f"{names} {verb} {_SCALE_WORDS[scale or 'margin']} of {label} by {abs(self.contribution):.3g}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one answer is what it is, or the reason why nobody says so.

    Attributes
    ----------
    label : whose margin is explained: the second of two labels, else the predicted one
    method, scale : see ``METHODS`` and ``SCALES``
    base_value : the margin of no record in particular: the mean over the training rows; of a scorecard, at its centre
    margin : that of this record, which is ``base_value`` and all contributions together
    contributions : the largest first
    per : whether contributions are of raw columns, or of features where nobody says what these are made of
    reason : why there is none; then all else is empty
    """

    label: Label | None = None
    method: Method | None = None
    scale: Scale | None = None
    base_value: float | None = None
    margin: float | None = None
    contributions: tuple[Contribution, ...] = ()
    per: Literal["raw_column", "feature"] | None = None
    reason: str | None = None

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Explanation:
        """One that was written as JSON, in an answer or in the log."""
        parts = tuple(
            Contribution(tuple(each["columns"]), each["contribution"], each["effect"])
            for each in stored["contributions"]
        )
        return cls(**{**stored, "contributions": parts})


class Explainer:
    """Explains the answers of one artefact, by its model and by the scorecard beside it.

    What takes time to make is made when the first answer is explained.

    Parameters
    ----------
    bundle : the artefact
    reader : reads records of its feature version
    """

    def __init__(self, bundle: Bundle, reader: RecordReader) -> None:
        self._bundle, self._reader = bundle, reader
        self._classes = bundle.manifest.classes
        self._lines = _Lines.of(bundle.features)
        self._model: _Terms | _Trees | ArtefactError | None = None
        self._lock = Lock()

    def explain(self, slot: str, features: FeatureMatrix, predictions: IntArray) -> list[Explanation]:
        """Why answers are what they are.

        Parameters
        ----------
        slot : who gave them, as their lineage says: ``scorecard``, ``prior``, or any other for the model
        features, predictions : n rows as the model's matrix, (n, d), and the positions of their predicted labels, (n,)
        """
        if slot == "prior":
            return [Explanation(reason=_NO_MODEL)] * len(features)
        try:
            is_scorecard = slot == "scorecard"
            by = _Terms(self._bundle.fallback.get("scorecard", {}), self._lines) if is_scorecard else self._told_by()
            return self._rows(by, features, predictions)
        except ArtefactError as error:
            return [Explanation(reason=f"the model cannot be explained: {error}")] * len(features)

    def _rows(self, by: _Terms | _Trees, features: FeatureMatrix, predictions: IntArray) -> list[Explanation]:
        found: list[Explanation] = [Explanation()] * len(features)
        labels = np.full(len(predictions), 1) if len(self._classes) == 2 else predictions
        for label in np.unique(labels).tolist():
            rows = np.flatnonzero(labels == label)
            for row, one in zip(rows.tolist(), self._told(by, features[rows], label), strict=True):
                found[row] = one
        return found

    def _told(self, by: _Terms | _Trees, features: FeatureMatrix, label: int) -> Iterator[Explanation]:
        with self._lock:
            base = by.base(label)
        shares, margins = by.shares(features, label), by.margins(features, label)
        off = np.abs(base + shares.sum(axis=1) - margins) > _TOLERANCE * np.maximum(np.abs(margins), 1.0)
        per: Literal["raw_column", "feature"] = "raw_column" if self._lines.are_raw else "feature"
        order = np.argsort(-np.abs(shares), axis=1, kind="stable")
        names, name = self._lines.names, self._classes[label]
        for margin, is_off, row, places in zip(
            margins.tolist(), off.tolist(), shares.tolist(), order.tolist(), strict=True
        ):
            if is_off:
                yield Explanation(reason="its contributions do not add up to the model's output")
                continue
            contributions = tuple(
                Contribution(names[i], row[i], "raises" if row[i] > 0 else "lowers" if row[i] < 0 else "none")
                for i in places
            )
            yield Explanation(name, by.method, by.scale, base, margin, contributions, per)

    def _told_by(self) -> _Terms | _Trees:
        """What explains the model, once it is seen to give the golden answers.

        Raises
        ------
        ArtefactError
            Nothing does, or it gives others.
        """
        with self._lock:
            if self._model is None:
                try:
                    self._model = self._checked()
                except ArtefactError as error:
                    self._model = error
        if isinstance(self._model, ArtefactError):
            raise self._model
        return self._model

    def _checked(self) -> _Terms | _Trees:
        bundle = self._bundle
        if not bundle.trees and not bundle.linear:
            raise ArtefactError(TREES_FILE, _why_none(bundle.manifest.files))
        found: _Terms | _Trees
        if bundle.trees:
            found = _Trees(TreeForm.from_bytes(bundle.trees), self._lines)
        else:
            found = _Terms(orjson.loads(bundle.linear), self._lines)
        records = [self._reader.read(entry["record"]) for entry in bundle.golden]
        given = found.proba(bundle.features.transform(self._reader.arrays(records)))
        expected = np.array([entry["proba"] for entry in bundle.golden])
        if given.shape != expected.shape or not np.abs(given - expected).max() <= _GOLDEN_TOLERANCE[found.method]:
            raise ArtefactError(TREES_FILE if bundle.trees else LINEAR_FILE, "does not give the model's golden answers")
        return found


def _why_none(files: Mapping[str, Any]) -> str:
    if any(name in files for name in NATIVE_FILES):
        return "it is not there, since the model is older than such files: train or import it again"
    return "it is not there: only trees, and logistic regressions that were trained here, are explained exactly"


class _Trees:
    """Trees alone, by TreeSHAP."""

    method: Method = "tree_shap"

    def __init__(self, form: TreeForm, lines: _Lines) -> None:
        self._form, self._lines = form, lines
        self._by_label: dict[int, TreeShap] = {}
        self.proba = form.probabilities
        self.scale: Scale = "probability" if form.link == "mean" else "log_odds" if form.n_classes == 2 else "margin"

    def base(self, label: int) -> float:
        """The mean margin; makes what explains the label."""
        if label not in self._by_label:
            names, lines = self._lines.names, self._lines.of_feature
            self._by_label[label] = TreeShap(self._form, self._target(label), lines, len(names))
        return self._by_label[label].base

    def shares(self, features: FeatureMatrix, label: int) -> FloatArray:
        return self._by_label[label].shares(features)

    def margins(self, features: FeatureMatrix, label: int) -> FloatArray:
        return self._form.margins(features)[:, self._target(label)]

    def _target(self, label: int) -> int:
        return 0 if self._form.n_classes == 2 else label


class _Terms:
    """A logistic regression, by its own terms."""

    method: Method = "linear"

    def __init__(self, content: Mapping[str, Any], lines: _Lines) -> None:
        self._card, self._lines = Scorecard(content), lines
        self.proba, self.base = self._card.proba, self._card.base
        self.scale: Scale = "log_odds" if len(content["intercept"]) == 2 else "margin"

    def shares(self, features: FeatureMatrix, label: int) -> FloatArray:
        return self._lines.sums(self._card.shares(features, label))

    def margins(self, features: FeatureMatrix, label: int) -> FloatArray:
        terms = np.ascontiguousarray(self._card.shares(features, label).T)
        found: FloatArray = self._card.base(label) + sums_of_runs(terms, np.zeros(1, dtype=np.int64))[0]
        return found


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of an explanation.

    Attributes
    ----------
    names : raw columns of each line; those alone first, in table order, then those that are made into features together
    of_feature : (d,), line of each feature
    are_raw : whether the names are raw columns; else those of the features
    """

    names: tuple[tuple[str, ...], ...]
    of_feature: IntArray
    are_raw: bool

    @classmethod
    def of(cls, version: FeatureVersion) -> _Lines:
        if version.sources is None:
            names = tuple((name,) for name in version.feature_names)
            return cls(names, np.arange(len(names)), are_raw=False)
        order = {column.name: place for place, column in enumerate(version.features)}
        found = sorted(set(version.sources), key=lambda line: (len(line) > 1, [order[name] for name in line]))
        place = {line: number for number, line in enumerate(found)}
        return cls(tuple(found), np.array([place[line] for line in version.sources], dtype=np.int64), are_raw=True)

    def sums(self, shares: FloatArray) -> FloatArray:
        """Shares of the features (n, d) by line, (n, lines)."""
        order = np.argsort(self.of_feature, kind="stable")
        _, starts = np.unique(self.of_feature[order], return_index=True)
        return np.ascontiguousarray(sums_of_runs(np.ascontiguousarray(shares.T[order]), starts).T)
