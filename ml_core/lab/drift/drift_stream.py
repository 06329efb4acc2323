"""The rows of many tables summarised for a drift check, piece by piece, whoever looks at a piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ml_core.base.arrays import FloatArray
from ml_core.lab.batch.engines import Engine, in_order
from ml_core.lab.batch.row_groups import Piece
from ml_core.lab.drift.current_stream import MedianBins, SeenRows, near_medians
from ml_core.lab.drift.current_window import CurrentColumn
from ml_core.lab.drift.drift_table import DriftTable
from ml_core.lab.drift.reference_window import ReferenceWindow
from ml_core.lab.drift.repeat_counts import RepeatCounts

__all__ = ["summarised_table"]


@dataclass(frozen=True)
class _Look:
    """What a process needs to know to look at a piece.

    Attributes
    ----------
    window : the reference
    table : the current rows
    extended : also what the rule ``extended`` needs
    patient : column that says of whom a row is, where that is asked
    wanted : where the medians lie, in the second pass
    """

    window: ReferenceWindow
    table: DriftTable
    extended: bool
    patient: str | None
    wanted: Mapping[str, MedianBins] | None = None


def summarised_table(
    window: ReferenceWindow,
    table: DriftTable,
    engine: Engine,
    *,
    extended: bool,
    patient: str | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> tuple[Mapping[str, CurrentColumn], RepeatCounts]:
    """Every column of the reference as the rows of a table have it, and how often people repeat among them.

    Pieces are added up in their order, so the numbers are the same to the last bit on every engine. See
    ``current_stream.SeenRows`` for what they are.

    Parameters
    ----------
    extended : also what the rule ``extended`` needs
    patient : column that says of whom a row is; nobody repeats without it
    advance : told the share of the work that has just been done
    """
    pieces = table.pieces()
    look = _Look(window, table if engine.is_here else table.seen_from_anywhere(), extended, patient)
    passes = 2 if extended else 1
    seen, people = SeenRows(window, extended=extended), RepeatCounts()
    for piece, (found, counted) in zip(pieces, in_order(engine, _first, look, pieces, "surety-drift"), strict=True):
        seen.include(found)
        people.include(counted)
        advance(piece.rows / table.rows / passes)
    wanted = seen.medians_wanted()
    if wanted:
        again = replace(look, wanted=wanted)
        for piece, near in zip(pieces, in_order(engine, _second, again, pieces, "surety-drift-medians"), strict=True):
            seen.keep(near)
            advance(piece.rows / table.rows / passes)
    return seen.summary(), people


def _first(look: _Look, piece: Piece) -> tuple[SeenRows, RepeatCounts]:
    seen, people = SeenRows(look.window, extended=look.extended), RepeatCounts()
    names = list(look.window.columns)
    asked = [*names, *([] if look.patient is None or look.patient in names else [look.patient])]
    for rows in look.table.batches(asked, piece):
        seen.add(rows)
        if look.patient is not None:
            people.add(rows[look.patient])
    return seen, people


def _second(look: _Look, piece: Piece) -> dict[str, FloatArray]:
    assert look.wanted is not None
    return near_medians(look.window, look.wanted, look.table.batches(list(look.wanted), piece), piece.number)
