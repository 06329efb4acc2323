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
from ml_core.serve.log.logged_answers import LoggedAnswer

__all__ = ["shown_by", "write_copy"]

BATCH_ROWS = 10_000
"""Rows in memory at a time, beside one bulk call."""
_META = b"surety"
_FORMAT = 1
_MODEL_FACTS = ("model_name", "model_version", "model_hash", "feature_version", "calibration_id", "slot", "bento")

State = Sequence[Mapping[str, Any]]
"""What a copy shows: of each database its name, rows, head (hex) and erased rows."""


def shown_by(path: Path) -> State | None:
    """The state that a copy shows; None where there is none that could be read."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
        said = orjson.loads(metadata[_META])
    except (OSError, pa.ArrowException, KeyError, orjson.JSONDecodeError):
        return None
    files: State | None = said["files"] if isinstance(said, dict) and said.get("format") == _FORMAT else None
    return files


def write_copy(
    path: Path,
    answers: Iterable[tuple[LoggedAnswer, bytes]],
    state: State,
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
        for batch in _batches(answers, BATCH_ROWS):
            columns = _columns(batch, int if labels_are_whole else str)
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=schema))
            rows += len(batch)
            step(len(batch))
    return rows


def _schema(label: pa.DataType) -> pa.Schema:
    text, reals = pa.string(), pa.list_(pa.float64())
    return pa.schema(
        {
            "request_id": text,
            "at": pa.timestamp("us", tz="UTC"),
            "client_request_id": text,
            "subject": text,
            "batch_id": text,
            "batch_index": pa.int64(),
            **dict.fromkeys(_MODEL_FACTS, text),
            "classes": pa.list_(label),
            "prediction": label,
            "probabilities": reals,
            "p_values": reals,
            "prediction_set": pa.list_(label),
            "level": text,
            "reason": text,
            "validity": text,
            "validity_reasons": pa.list_(text),
            "elapsed_us": pa.int64(),
            "input": text,
            "input_hash": text,
            "digest": text,
            "file": text,
        }
    )


def _columns(batch: Sequence[tuple[LoggedAnswer, bytes]], label: Callable[[Any], Any]) -> dict[str, list[Any]]:
    rows = [_row(answer, digest, label) for answer, digest in batch]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _row(answer: LoggedAnswer, digest: bytes, label: Callable[[Any], Any]) -> dict[str, Any]:
    facts = answer.lineage
    return {
        "request_id": answer.request_id,
        "at": answer.at,
        "client_request_id": answer.client_request_id,
        "subject": None if answer.subject is None else answer.subject.hex(),
        "batch_id": answer.batch_id,
        "batch_index": answer.batch_index,
        **{name: facts.get(name) for name in _MODEL_FACTS},
        "classes": [label(name) for name in facts["classes"]],
        "prediction": label(answer.prediction),
        "probabilities": answer.probabilities,
        "p_values": answer.p_values,
        "prediction_set": [label(name) for name in answer.prediction_set],
        "level": answer.level,
        "reason": answer.reason,
        "validity": answer.validity,
        "validity_reasons": answer.validity_reasons,
        "elapsed_us": answer.elapsed_us,
        "input": None if answer.input is None else orjson.dumps(answer.input).decode(),
        "input_hash": answer.input_hash,
        "digest": digest.hex(),
        "file": answer.file,
    }


def _batches(
    answers: Iterable[tuple[LoggedAnswer, bytes]], rows: int
) -> Iterator[Sequence[tuple[LoggedAnswer, bytes]]]:
    rest = iter(answers)
    while batch := list(islice(rest, rows)):
        yield batch
