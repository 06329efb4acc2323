"""Answers for many rows as arrays, each row knowing whose answer it is and why it is not the model's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from ml_core.features.columns import ColumnArrays
from ml_core.serve.answering.live import ORIGINS, Live, LiveModel, Origin
from ml_core.serve.model.prediction_sets import BatchAnswer
from ml_core.serve.rollout.rollout_state import Slot
from ml_core.serve.running.guard import FallbackReason
from ml_core.serve.running.runner import Probabilities

__all__ = ["REASONS", "TableAnswer", "answering_model", "blocks", "fill", "joined", "members_of", "whole"]

_BLOCK_ROWS = 8_192

REASONS: tuple[FallbackReason | None, ...] = (
    None, "circuit_open", "model_not_loaded", "runner_lost", "stuck", "deadline", "model_error", "bad_output",
)  # fmt: skip
"""Reasons by the number that stands for them in arrays; 0 is an ordinary answer."""
_REASON_NUMBER = {reason: number for number, reason in enumerate(REASONS)}
_ORIGIN_NUMBER = {origin: number for number, origin in enumerate(ORIGINS)}


@dataclass(frozen=True, slots=True)
class TableAnswer:
    """Answers for the n rows of a table, as arrays.

    Attributes
    ----------
    proba : float64 (n, K)
    answer : p-values (n, K), sets bool (n, K), predictions (n,) as class positions
    origins, reasons : int8 (n,), positions in ``ORIGINS`` and ``REASONS``
    level : the confidence level of the sets
    """

    proba: Probabilities
    answer: BatchAnswer
    origins: npt.NDArray[np.int8]
    reasons: npt.NDArray[np.int8]
    level: Decimal


def answering_model(live: Live, asked: Slot, origin: Origin) -> LiveModel:
    """The model an answer's lineage names: the one in that slot, or the one asked, whose baseline answered."""
    named = live.at(origin) if origin in ("champion", "challenger", "previous") else live.at(asked)
    return named or live.champion


def whole(
    proba: Probabilities, answer: BatchAnswer, origin: Origin, reason: FallbackReason | None, level: Decimal
) -> TableAnswer:
    """A table whose rows all come from one origin."""
    n = len(proba)
    origins = np.full(n, _ORIGIN_NUMBER[origin], dtype=np.int8)
    return TableAnswer(proba, answer, origins, np.full(n, _REASON_NUMBER[reason], dtype=np.int8), level)


def fill(
    table: TableAnswer,
    rows: npt.NDArray[np.bool_],
    answer: BatchAnswer,
    proba: Probabilities,
    origin: Origin,
    reason: FallbackReason | None = None,
) -> None:
    """Put the answers of another origin into some rows."""
    table.proba[rows] = proba
    for mine, theirs in zip(table.answer, answer, strict=True):
        mine[rows] = theirs
    table.origins[rows] = _ORIGIN_NUMBER[origin]
    table.reasons[rows] = _REASON_NUMBER[reason]


def joined(tables: Sequence[TableAnswer]) -> TableAnswer:
    """The rows of all tables, one after another."""
    if len(tables) == 1:
        return tables[0]
    return TableAnswer(
        proba=np.concatenate([t.proba for t in tables]),
        answer=BatchAnswer(*(np.concatenate(parts) for parts in zip(*(t.answer for t in tables), strict=True))),
        origins=np.concatenate([t.origins for t in tables]),
        reasons=np.concatenate([t.reasons for t in tables]),
        level=tables[0].level,
    )


def blocks(columns: ColumnArrays) -> Iterator[ColumnArrays]:
    """The columns in blocks of rows, so that the matrix of a million rows is never in memory whole."""
    n = len(next(iter(columns.values())))
    for start in range(0, max(n, 1), _BLOCK_ROWS):
        yield {name: values[start : start + _BLOCK_ROWS] for name, values in columns.items()}


def members_of(sets: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Positions of the labels in each row's set."""
    return [[k for k, inside in enumerate(row) if inside] for row in sets.tolist()]
