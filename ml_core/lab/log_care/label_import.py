"""Labels from a table file into the label store: all rows are judged first, then stored batch by batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ml_core.base.clock import utc_now
from ml_core.base.errors import DataError, InvalidRequest
from ml_core.lab.data.table_frames import column_names, is_csv, read_table
from ml_core.serve.log.label_requests import MAX_TEXT, FieldReader, field_readers, read_row
from ml_core.serve.log.labels import AnswerLabel, LabelCounts, LabelStore

__all__ = ["ImportedLabels", "Resolve", "import_labels"]

Resolve = Callable[[Sequence[str]], Mapping[str, Sequence[bytes]]]
"""Gives the request ids of the predictions that callers named so themselves; several may bear one name, or none."""

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)", re.ASCII)
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class ImportedLabels:
    """What became of a table.

    Attributes
    ----------
    rows : of the table
    unresolved : rows whose client_request_id no prediction bears; they could not be kept
    counts : of labels; a row makes one for each prediction that bears its client_request_id
    """

    rows: int
    unresolved: int
    counts: LabelCounts


def import_labels(
    table: Path,
    store: LabelStore,
    *,
    source: str,
    batch_rows: int,
    classes: Sequence[int | str] | None = None,
    resolve: Resolve | None = None,
    dry_run: bool = False,
    counted: Callable[[LabelCounts], None] = lambda _counts: None,
    clock: Callable[[], datetime] = utc_now,
    step: Callable[[float], None] = lambda _share: None,
) -> ImportedLabels:
    """Bring in a ``.parquet`` or ``.csv`` file with the columns request_id, label and, where it is known, observed_at.

    In place of request_id the callers' own client_request_id will do. An import that broke off is simply run again.

    Parameters
    ----------
    source : where the labels come from, kept beside each
    batch_rows : labels stored in one transaction
    classes : labels of the model; without them texts of a CSV file that are whole numbers are taken for numbers
    resolve : finds predictions by client_request_id
    dry_run : count and store nothing
    counted : told the counts of each batch once it is stored
    step : told the share of the labels stored, as they are

    Raises
    ------
    DataError
        The file cannot be read, lacks a column, or has rows that cannot be taken; then nothing is stored. Rows are told
        by number and field, never by value.
    LabelsNotStored
        The disk is full or read-only, or others hold the file too long; batches before that one are stored.
    """
    rows = _read(table, classes, clock(), resolve)
    labels, unresolved = _resolved(rows, resolve)
    if dry_run:
        return ImportedLabels(len(rows), unresolved, store.preview(labels))
    counts = LabelCounts()
    for first in range(0, len(labels), batch_rows):
        batch = labels[first : first + batch_rows]
        added = store.add(batch, source)
        counted(added)
        counts += added
        step(len(batch) / len(labels))
    return ImportedLabels(len(rows), unresolved, counts)


def _read(
    table: Path, classes: Sequence[int | str] | None, now: datetime, resolve: Resolve | None
) -> list[dict[str, Any]]:
    """Every row of the table, read field by field."""
    present = column_names(table)
    by = "request_id" if "request_id" in present or resolve is None else "client_request_id"
    wanted = [by, "label", *(name for name in ("observed_at",) if name in present)]
    frame = read_table(table, wanted)
    readers: dict[str, FieldReader] = {"client_request_id": _client_request_id, **field_readers(classes, now)}
    readers = {name: readers[name] for name in wanted}
    of_text = is_csv(table)
    first = 2 if of_text else 1  # the header of a CSV file is its row 1
    rows: list[dict[str, Any]] = []
    problems: dict[tuple[str, str], list[int]] = {}
    for number, cells in enumerate(zip(*(_cells(frame[name]) for name in wanted), strict=True), start=first):
        row = dict(zip(wanted, cells, strict=True))
        try:
            rows.append(read_row(_typed(row, classes) if of_text else row, readers))
        except InvalidRequest as error:
            for wrong in error.fields:
                problems.setdefault((wrong.field, wrong.problem), []).append(number)
    if problems:
        raise DataError(str(table), _refusal(problems, len(frame)))
    return rows


def _cells(column: pd.Series[Any]) -> Iterator[object]:
    """Plain values, None where there is none."""
    for value, is_null in zip(column.tolist(), column.isna().tolist(), strict=True):
        if is_null:
            yield None
        elif isinstance(value, pd.Timestamp):
            yield value.to_pydatetime(warn=False)  # nanoseconds are let go
        else:
            yield value


def _typed(row: Mapping[str, object], classes: Sequence[int | str] | None) -> dict[str, object]:
    """A row of texts, with a whole number for its label where the model's labels are numbers."""
    cells = {
        name: cell.strip() if isinstance(cell, str) and name != "client_request_id" else cell
        for name, cell in row.items()
    }
    label = cells["label"]
    wants_number = classes is None or isinstance(classes[0], int)
    if wants_number and isinstance(label, str) and len(label) <= MAX_TEXT and _WHOLE.fullmatch(label):
        cells["label"] = int(label)
    return cells


def _client_request_id(value: object) -> str:
    if value is None:
        raise ValueError("is missing")
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
        raise ValueError(f"must be text of 1 to {MAX_TEXT} printable characters")
    return value


def _resolved(rows: Sequence[Mapping[str, Any]], resolve: Resolve | None) -> tuple[list[AnswerLabel], int]:
    """A label for each prediction that a row is about, and the number of rows that are about none."""
    if resolve is None or not rows or "request_id" in rows[0]:
        return [AnswerLabel(row["request_id"], row["label"], row.get("observed_at")) for row in rows], 0
    named = resolve(list(dict.fromkeys(row["client_request_id"] for row in rows)))
    ids = [named.get(row["client_request_id"], ()) for row in rows]
    labels = [
        AnswerLabel(request_id, row["label"], row.get("observed_at"))
        for row, found in zip(rows, ids, strict=True)
        for request_id in found
    ]
    return labels, sum(not found for found in ids)


def _refusal(problems: Mapping[tuple[str, str], Sequence[int]], total: int) -> str:
    wrong = len({number for numbers in problems.values() for number in numbers})
    told = [f"{field} {problem} ({_numbers(numbers)})" for (field, problem), numbers in problems.items()]
    return f"{wrong} of {total} rows cannot be taken, so none was: {'; '.join(told)}"


def _numbers(numbers: Sequence[int]) -> str:
    more = len(numbers) - _SHOWN
    first = ", ".join(map(str, numbers[:_SHOWN]))
    return f"{'row' if len(numbers) == 1 else 'rows'} {first}" + (f" and {more} more" if more > 0 else "")
