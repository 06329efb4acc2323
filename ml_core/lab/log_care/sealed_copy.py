"""The sealed copy of a day: one flat Parquet file for everything that reads Parquet.

The databases stay what is believed; the copy says in its metadata which state of them it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ml_core.base.files import drafts_of, write_whole
from ml_core.serve.log import fields
from ml_core.serve.log.logged_answers import LoggedAnswer

__all__ = ["shown_by", "write_copy"]

_BATCH_ROWS = 10_000
"""Rows in memory at a time, beside one bulk call."""
_META = b"surety"
_FORMAT = 1

SealedState = Sequence[Mapping[str, Any]]
"""What a copy shows: of each database its name, rows, head (hex) and erased rows."""


def shown_by(path: Path) -> SealedState | None:
    """The state that a copy shows; None where there is none that could be read."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
        said = orjson.loads(metadata[_META])
    except (OSError, pa.ArrowException, KeyError, orjson.JSONDecodeError):
        return None
    files: SealedState | None = said["files"] if isinstance(said, dict) and said.get("format") == _FORMAT else None
    return files


def write_copy(
    path: Path,
    answers: Iterable[tuple[LoggedAnswer, bytes]],
    state: SealedState,
    *,
    labels_are_whole: bool,
    step: Callable[[int], None],
) -> int:
    """Write the copy, whole or not at all; how many answers it has.

    Parameters
    ----------
    answers : each with the digest of its row
    labels_are_whole : whether labels are whole numbers and not texts
    step : told how many answers more are written

    Raises
    ------
    OSError
        The place cannot be written to.
    """
    meta = {_META: orjson.dumps({"format": _FORMAT, "files": state})}
    schema = _schema(pa.int64() if labels_are_whole else pa.string()).with_metadata(meta)
    for left in drafts_of(path):  # the day is held, so whoever began them is gone
        left.unlink(missing_ok=True)
    rows = 0
    with write_whole(path, durable=True) as draft, pq.ParquetWriter(draft, schema, compression="zstd") as writer:
        for batch in _batches(answers, _BATCH_ROWS):
            columns = _columns(batch, int if labels_are_whole else str)
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=schema))
            rows += len(batch)
            step(len(batch))
    return rows


def _schema(label: pa.DataType) -> pa.Schema:
    text = pa.string()
    types: Mapping[fields.ValueKind, pa.DataType] = {
        "id": text, "hash": text, "text": text, "record": text, "object": text, "whole": pa.int64(),
        "moment": pa.timestamp("us", tz="UTC"), "label": label, "labels": pa.list_(label),
        "reals": pa.list_(pa.float64()), "texts": pa.list_(text),
    }  # fmt: skip
    sealed = {each.shown_as: types[each.kind] for each in fields.LAYOUT.sealed}
    return pa.schema({**sealed, "digest": text, "file": text})


def _columns(batch: Sequence[tuple[LoggedAnswer, bytes]], label: Callable[[Any], Any]) -> dict[str, list[Any]]:
    plain: Mapping[fields.ValueKind, Callable[[Any], Any]] = {
        "hash": bytes.hex,
        "record": lambda record: orjson.dumps(record).decode(),
        "object": lambda found: orjson.dumps(found).decode(),
        "label": label,
        "labels": lambda labels: [label(name) for name in labels],
    }
    answers = [answer for answer, _ in batch]
    found = {}
    for each in fields.LAYOUT.sealed:
        make = plain.get(each.kind)
        values = [
            answer.lineage.get(each.name) if each.place == "lineage" else getattr(answer, each.shown_as)
            for answer in answers
        ]
        found[each.shown_as] = values if make is None else [None if v is None else make(v) for v in values]
    return {**found, "digest": [digest.hex() for _, digest in batch], "file": [answer.file for answer in answers]}


def _batches(
    answers: Iterable[tuple[LoggedAnswer, bytes]], rows: int
) -> Iterator[Sequence[tuple[LoggedAnswer, bytes]]]:
    rest = iter(answers)
    while batch := list(islice(rest, rows)):
        yield batch
