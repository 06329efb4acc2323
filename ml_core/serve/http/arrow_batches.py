"""Bulk calls: an Arrow IPC stream of records in, an Arrow IPC stream of answers out.

``arrow_reader`` reads the stream, nanoarrow (1 MB) writes the reply. A record batch in is a record batch out.
Categories sent dictionary-encoded are the fastest. Lineage stands once, in the metadata of the reply's schema; a row's
``slot`` says whose it is.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import nanoarrow as na
import numpy as np
import numpy.typing as npt
from nanoarrow import ipc
from nanoarrow.c_array import c_array_from_buffers
from nanoarrow.c_array_stream import CArrayStream

from ml_core.base.arrays import BoolArray, Label
from ml_core.base.clock import utc_now
from ml_core.base.errors import FieldProblem, InvalidRecord
from ml_core.features.columns import Column
from ml_core.serve.answering.answers import REASONS, Answers, lineage_of
from ml_core.serve.answering.envelope import Responder
from ml_core.serve.answering.inference import UNMONITORED, Elsewhere, InferenceService
from ml_core.serve.answering.live import ORIGINS, Live, LiveModel, Origin
from ml_core.serve.answering.recording import BulkCall
from ml_core.serve.answering.requests import IdArray, OnError, id_texts, new_id, new_ids
from ml_core.serve.features.table import EncodedTable, encode_table
from ml_core.serve.http.arrow_reader import StreamLimits, read_records
from ml_core.serve.model.prediction_sets import Predictions
from ml_core.serve.rollout.rollout_state import Slot

__all__ = ["answer_stream"]

_PROBLEMS_NAMED = 100


async def answer_stream(
    service: InferenceService,
    body: bytes,
    limits: StreamLimits,
    elsewhere: Elsewhere,
    *,
    on_error: OnError,
    level: Decimal | None,
) -> tuple[str, bytes, LiveModel]:
    """Batch id, reply stream and the model that was asked, for a request stream; one slot answers it all.

    Parameters
    ----------
    limits : what the stream may hold
    elsewhere : runs the reading and writing off the event loop

    Raises
    ------
    Refused
        Not an Arrow IPC stream, a column type that cannot be read, or more than the limits allow.
    InvalidRecord
        ``on_error`` is ``reject`` and a row is bad.
    ModelUnavailable, Overloaded
        The model cannot answer for now.
    LogUnavailable
        Strict mode, and the answers cannot be stored.
    """
    live = service.ready()
    slot = live.route(None, None)
    columns = live.champion.accepted
    tables: list[EncodedTable] = await elsewhere(lambda: _read(body, columns, limits))
    if on_error == "reject":
        _reject(tables)
    parts = [await _answered(service, live, slot, table, level, elsewhere) for table in tables]
    answers = [part.answers for part in parts if part.answers is not None]
    model = live.asked(slot)
    call: BulkCall = await elsewhere(
        lambda: BulkCall(
            batch_id=new_id(),
            at=utc_now(),
            ids=np.concatenate([np.empty((0, 16), np.uint8), *(part.ids[part.table.good] for part in parts)]),
            validity=service.validity.get(model.model_hash, UNMONITORED),
            input_hash=hashlib.sha256(body).hexdigest(),
        )
    )
    head = _Head(live, slot, live.level(slot, level), call, service.responder)
    reply: bytes = await elsewhere(lambda: _write(head, parts))
    await service.record_bulk(answers, call if answers else None, elsewhere)
    return str(call.batch_id), reply, model


@dataclass(frozen=True, slots=True)
class _Head:
    """What a reply says once for all its rows: who was asked, at which level, in which call, and what answers here."""

    live: Live
    slot: Slot
    level: Decimal
    call: BulkCall
    responder: Responder


@dataclass(frozen=True, slots=True)
class _Part:
    """One table of the stream: its rows, their ids (n, 16), and the answers to its good rows, if it has any."""

    table: EncodedTable
    ids: IdArray
    answers: Answers | None


async def _answered(
    service: InferenceService, live: Live, slot: Slot, table: EncodedTable, level: Decimal | None, elsewhere: Elsewhere
) -> _Part:
    """Answers to a table's good rows; its bad ones reach no model."""
    ids, good = new_ids(table.n_rows), table.good
    if not good.any():
        return _Part(table, ids, None)
    columns = table.arrays if good.all() else {name: values[good] for name, values in table.arrays.items()}
    return _Part(table, ids, await service.ask_table(live, slot, columns, level, elsewhere))


# --- in -----------------------------------------------------------------------------------------------------------


def _read(body: bytes, columns: Sequence[Column], limits: StreamLimits) -> list[EncodedTable]:
    names = {column.name for column in columns}
    return [encode_table(columns, cells) for cells in read_records(body, names, limits)]


def _reject(tables: Sequence[EncodedTable]) -> None:
    problems: list[FieldProblem] = []
    before = 0
    for table in tables:
        for row in table.problems if table.problems.everywhere else sorted(table.problems):
            faults = table.problems[row]
            problems += [FieldProblem(f"records[{before + row}].{f.field}", f.problem) for f in faults]
            if len(problems) >= _PROBLEMS_NAMED:
                raise InvalidRecord(problems[:_PROBLEMS_NAMED])
        before += table.n_rows
    if problems:
        raise InvalidRecord(problems)


# --- out ----------------------------------------------------------------------------------------------------------


def _write(head: _Head, parts: Sequence[_Part]) -> bytes:
    asked, (validity, validity_reasons) = head.live.asked(head.slot), head.call.validity
    answers = [part.answers for part in parts if part.answers is not None]
    metadata = {
        "batch_id": str(head.call.batch_id),
        "confidence_level": str(head.level),
        "guarantee": asked.manifest.guarantee,
        "validity": validity,
        "validity_reasons": ",".join(validity_reasons),
        "fallback_used": "true" if any(one.reasons.any() for one in answers) else "false",
        **_lineage(head, asked, head.slot, "lineage"),
    }
    others = {origin: model for one in answers for origin, model in one.named().items() if origin != head.slot}
    for origin, model in sorted(others.items()):
        metadata |= _lineage(head, model, origin, f"lineage_of.{origin}")
    by_group = asked.grouped is not None
    fields = _fields(asked.classes, by_group=by_group)
    schema = na.c_schema(na.Schema(na.Type.STRUCT, fields=fields, metadata=metadata, nullable=False))
    batches = [_record_batch(schema, asked.classes, part, by_group=by_group) for part in parts]
    out = io.BytesIO()
    ipc.StreamWriter.from_writable(out).serialize_stream(CArrayStream.from_c_arrays(batches, schema))
    return out.getvalue()


def _lineage(head: _Head, model: LiveModel, origin: Origin, prefix: str) -> dict[str, str]:
    facts = asdict(lineage_of(model, origin, head.call.input_hash, head.responder, head.call.at))
    facts |= {f"served_by.{name}": value for name, value in facts.pop("served_by").items()}
    return {f"{prefix}.{k}": "" if v is None else str(v) for k, v in facts.items()}


def _fields(classes: Sequence[Label], *, by_group: bool = False) -> dict[str, Any]:
    label = na.int64() if isinstance(classes[0], int) else na.string()
    return {
        "request_id": na.string(nullable=False),
        "prediction": label,
        "probability": na.float64(),
        "confidence": na.float64(),
        **{f"probability_{c}": na.float64() for c in classes},
        **{f"p_value_{c}": na.float64() for c in classes},
        **{f"in_set_{c}": na.bool_() for c in classes},
        **({"group": na.string()} if by_group else {}),
        "slot": na.string(),
        "fallback_reason": na.string(),
        "error": na.string(),
    }


def _record_batch(schema: Any, classes: Sequence[Label], part: _Part, *, by_group: bool = False) -> Any:
    table, n, k = part.table, part.table.n_rows, len(classes)
    found, origins, reasons = _spread(part, k)
    valid = None if not table.problems else _bits(table.good)
    columns: list[list[Any]] = [
        [None, np.arange(0, 36 * n + 1, 36, dtype=np.int32), id_texts(part.ids).ravel()],
        [valid, np.array(classes, dtype=np.int64)[found.predictions]]
        if isinstance(classes[0], int)
        else _text_buffers([str(label) for label in found.labels(classes)], np.arange(n), n, valid),
        [valid, np.ascontiguousarray(found.proba[:, 1])] if k == 2 else [_bits(np.zeros(n, np.bool_)), np.zeros(n)],
        [valid, found.confidence()],
        *([valid, np.ascontiguousarray(found.proba[:, c])] for c in range(k)),
        *([valid, np.ascontiguousarray(found.p_values[:, c])] for c in range(k)),
        *([valid, _bits(found.sets[:, c])] for c in range(k)),
        *([_group_buffers(part)] if by_group else []),
        _coded_buffers(ORIGINS, origins, table.good),
        _coded_buffers(REASONS, reasons, table.good & (reasons > 0)),
        _error_buffers(table),
    ]
    children = [
        c_array_from_buffers(field, n, buffers) for field, buffers in zip(schema.children, columns, strict=True)
    ]
    return c_array_from_buffers(schema, n, [None], children=children)


def _spread(part: _Part, n_classes: int) -> tuple[Predictions, npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """Predictions, origins and reasons of all rows of a table, its bad rows blank."""
    answers, table = part.answers, part.table
    if answers is not None and not table.problems:
        return answers.predictions, answers.origins, answers.reasons
    n = table.n_rows
    found, origins, reasons = Predictions.blank(n, n_classes), np.zeros(n, np.int8), np.zeros(n, np.int8)
    if answers is not None:
        found.put(table.good, answers.predictions)
        origins[table.good], reasons[table.good] = answers.origins, answers.reasons
    return found, origins, reasons


def _group_buffers(part: _Part) -> list[Any]:
    """Buffers of the column that names each row's group; null for a bad row, and for a model without such groups."""
    n = part.table.n_rows
    names = np.full(n, None, dtype=np.object_)
    if part.answers is not None:
        names[part.table.good] = part.answers.group_names()
    rows = np.array([row for row, name in enumerate(names) if name is not None], dtype=np.intp)
    present = np.zeros(n, dtype=np.bool_)
    present[rows] = True
    return _text_buffers(names[rows].tolist(), rows, n, _bits(present))


def _coded_buffers(texts: Sequence[str | None], codes: npt.NDArray[np.int8], present: BoolArray) -> list[Any]:
    """Buffers of a text column given by codes; the usual cases, all alike or all missing, cost next to nothing."""
    n = len(codes)
    if not present.any():
        return [_bits(present), np.zeros(n + 1, dtype=np.int32), np.empty(0, dtype=np.uint8)]
    if present.all() and (codes == codes[0]).all():
        raw = np.frombuffer(str(texts[codes[0]]).encode(), dtype=np.uint8)
        return [None, np.arange(0, len(raw) * n + 1, len(raw), dtype=np.int32), np.tile(raw, n)]
    rows = np.flatnonzero(present)
    return _text_buffers([str(texts[code]) for code in codes[rows].tolist()], rows, n, _bits(present))


def _error_buffers(table: EncodedTable) -> list[Any]:
    """One text per bad row, ``field: problem; field: problem``; null for a good one."""
    if table.problems.everywhere and not table.problems.of_row:  # one text for all: made once
        raw, n = np.frombuffer(str(table.problem_text(0)).encode(), dtype=np.uint8), table.n_rows
        return [None, np.arange(0, len(raw) * n + 1, len(raw), dtype=np.int32), np.tile(raw, n)]
    rows = sorted(table.problems)
    return _text_buffers(
        [str(table.problem_text(row)) for row in rows], np.array(rows, dtype=np.intp), table.n_rows, _bits(~table.good)
    )


def _text_buffers(texts: Sequence[str], rows: npt.NDArray[np.intp], n: int, valid: Any) -> list[Any]:
    """Buffers of a text column of ``n`` rows of which only ``rows``, ascending, have a text."""
    encoded = [text.encode() for text in texts]
    ends = np.zeros(n + 1, dtype=np.int32)
    ends[rows + 1] = [len(e) for e in encoded]
    np.cumsum(ends, out=ends)
    return [valid, ends, np.frombuffer(b"".join(encoded), dtype=np.uint8)]


def _bits(flags: BoolArray) -> npt.NDArray[np.uint8]:
    return np.packbits(flags, bitorder="little")
