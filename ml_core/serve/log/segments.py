"""A bulk call in the log: its rows in one Arrow IPC file, which one entry of the database names and vouches for.

Every column is numbers of fixed width: ids as 16 bytes, categories and texts as codes whose levels stand in the
schema's metadata, so that a hundred thousand rows take some milliseconds to write. Anything that reads Arrow reads it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nanoarrow as na
import numpy as np
import numpy.typing as npt
import orjson
from nanoarrow import ipc
from nanoarrow.c_array import c_array_from_buffers
from nanoarrow.c_array_stream import CArrayStream

from ml_core.base.clock import moment_of, utc_text
from ml_core.base.errors import LogDamaged
from ml_core.base.files import write_whole
from ml_core.features.columns import Column, ColumnArrays, coded_levels

__all__ = ["Segment", "SegmentEntry", "read_segment", "write_segment"]

_META = "surety"
_CODED = ("category", "bool")
_GROUP = "group."
_OF_CALL = ("slot_names", "reason_names", "level", "validity", "validity_reasons", "input_hash", "lineages")
"""What all rows of a segment have in common; it stands in the file's metadata."""
_DTYPES: Mapping[str, Any] = {"double": np.float64, "int32": np.int32, "int16": np.int16, "int8": np.int8}


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """What the database says of a segment.

    Attributes
    ----------
    segment : path of the file below the log's folder
    rows : answers in it
    sha256 : of its bytes, hex
    first_ms, last_ms : range of the times in its rows' ids
    elapsed_us : time the models took
    """

    segment: str
    rows: int
    sha256: str
    first_ms: int
    last_ms: int
    elapsed_us: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The answers of a bulk call as arrays, n rows, K classes.

    Attributes
    ----------
    ids : uint8 (n, 16)
    inputs : feature columns as in ``ColumnArrays``, each (n,); None where inputs are not kept
    probabilities, p_values : float64 (n, K); ``sets`` : bool (n, K); ``predictions`` : int (n,), class positions
    slots, reasons : int8 or int16 (n,), positions in ``slot_names`` and ``reason_names``
    level : confidence level of the sets, decimal text
    validity, validity_reasons : of the whole call
    input_hash : sha256 of the request's body, hex
    lineages : facts by slot name
    groups : int16 (n, groupings), positions in ``group_cells``; None for a model without groups of patients
    group_cells : names of the cells by grouping
    beside : names of the input columns that are no features
    kinds, levels : what an input column holds, and what the codes of a category stand for; known once it was read
    """

    ids: npt.NDArray[np.uint8]
    inputs: ColumnArrays | None
    probabilities: npt.NDArray[np.float64]
    p_values: npt.NDArray[np.float64]
    sets: npt.NDArray[np.bool_]
    predictions: npt.NDArray[Any]
    slots: npt.NDArray[np.int8] | npt.NDArray[np.int16]
    reasons: npt.NDArray[np.int8]
    slot_names: Sequence[str]
    reason_names: Sequence[str | None]
    level: str
    validity: str
    validity_reasons: Sequence[str]
    input_hash: str
    lineages: Mapping[str, Mapping[str, Any]]
    groups: npt.NDArray[np.int16] | None = None
    group_cells: Mapping[str, Sequence[str]] = field(default_factory=dict)
    beside: Sequence[str] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def records(self, places: Sequence[int]) -> Iterator[dict[str, Any] | None]:
        """Feature values of some rows as a request has them; None where inputs are not kept."""
        if self.inputs is None:
            return iter([None] * len(places))
        names = [name for name in self.kinds if name not in self.beside]
        return (dict(zip(names, values, strict=True)) for values in self._values(names, places))

    def sent_beside(self, places: Sequence[int]) -> Iterator[dict[str, Any]]:
        """What was sent beside the features to tell the groups of some rows; nothing where inputs are not kept."""
        if self.inputs is None or not self.beside:
            return iter([{}] * len(places))
        pairs = (zip(self.beside, values, strict=True) for values in self._values(self.beside, places))
        return ({name: value for name, value in row if value is not None} for row in pairs)

    def groups_of(self, place: int) -> dict[str, str] | None:
        """The cell of a row by grouping; None for a model without groups of patients."""
        if self.groups is None:
            return None
        cells = zip(self.group_cells.items(), self.groups[place].tolist(), strict=True)
        return {name: names[at] for (name, names), at in cells}

    def _values(self, names: Sequence[str], places: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """The values of these columns, row by row."""
        inputs: ColumnArrays = self.inputs or {}
        columns = [_plain(self.kinds[name], inputs[name][places], self.levels.get(name, ())) for name in names]
        return zip(*columns, strict=True)


def write_segment(
    folder: Path,
    day: str,
    batch_id: str,
    segment: Segment,
    columns: Sequence[Column],
    *,
    durable: bool,
    elapsed_us: int,
) -> SegmentEntry:
    """Write the file, whole or not at all.

    Parameters
    ----------
    folder : of the log
    columns : the feature columns
    durable : wait for the disk

    Raises
    ------
    OSError
        It cannot be written.
    """
    raw = _encoded(segment, columns)
    name = f"bulk/{day}/{batch_id}.arrow"
    path = folder / name
    with write_whole(path, durable=durable) as draft:
        draft.write_bytes(raw)
    times = _milliseconds(segment.ids)
    return SegmentEntry(
        name, len(segment), hashlib.sha256(raw).hexdigest(), int(times.min()), int(times.max()), elapsed_us
    )


def read_segment(folder: Path, entry: SegmentEntry, *, verify: bool = True) -> Segment:
    """The segment that an entry of the database names.

    Raises
    ------
    LogDamaged
        Its file is missing, is not the one that was written, or cannot be read.
    """
    path = folder / entry.segment
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise LogDamaged(entry.segment, f"cannot be read: {type(error).__name__}") from error
    if verify and hashlib.sha256(raw).hexdigest() != entry.sha256:
        raise LogDamaged(entry.segment, "is not the file that was written")
    try:
        return _decoded(raw)
    except (na._utils.NanoarrowException, ValueError, LookupError, TypeError) as error:  # noqa: SLF001 - it has no public name
        raise LogDamaged(entry.segment, "is no segment") from error


def _encoded(segment: Segment, columns: Sequence[Column]) -> bytes:
    n, k = segment.p_values.shape
    arrays: dict[str, npt.NDArray[Any]] = {}
    levels: dict[str, Sequence[Any]] = {}
    for column in columns if segment.inputs is not None else ():
        values = segment.inputs[column.name]  # type: ignore[index]  # columns are empty without inputs
        arrays[f"input.{column.name}"], found = _coded(column, values)
        if found is not None:
            levels[column.name] = found
    for c in range(k):
        arrays[f"probability.{c}"] = np.ascontiguousarray(segment.probabilities[:, c])
        arrays[f"p_value.{c}"] = np.ascontiguousarray(segment.p_values[:, c])
        arrays[f"in_set.{c}"] = segment.sets[:, c].astype(np.int8)
    for g, name in enumerate(segment.group_cells if segment.groups is not None else ()):
        arrays[f"{_GROUP}{name}"] = np.ascontiguousarray(segment.groups[:, g])  # type: ignore[index]
    arrays |= {"prediction": segment.predictions.astype(np.int32), "slot": segment.slots, "reason": segment.reasons}
    meta = {
        "levels": levels,
        "kinds": {column.name: column.dtype for column in columns} if segment.inputs is not None else None,
        **{name: getattr(segment, name) for name in _OF_CALL},
        **({} if segment.groups is None else {"group_cells": segment.group_cells, "beside": segment.beside}),
    }
    fields = {
        "request_id": na.fixed_size_binary(16, nullable=False),
        **{name: getattr(na, a.dtype.name)(nullable=False) for name, a in arrays.items()},
    }
    schema = na.c_schema(
        na.Schema(na.Type.STRUCT, fields=fields, metadata={_META: orjson.dumps(meta).decode()}, nullable=False)
    )
    buffers = [np.ascontiguousarray(segment.ids), *arrays.values()]
    children = [
        c_array_from_buffers(field, n, [None, buffer]) for field, buffer in zip(schema.children, buffers, strict=True)
    ]
    batch = c_array_from_buffers(schema, n, [None], children=children)
    out = io.BytesIO()
    ipc.StreamWriter.from_writable(out).serialize_stream(CArrayStream.from_c_arrays([batch], schema))
    return out.getvalue()


def _coded(column: Column, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Sequence[Any] | None]:
    """A column as numbers, and the levels that its codes stand for."""
    if levels := coded_levels(column):
        return values.astype(np.int16), list(levels)
    if column.dtype == "text":
        known: dict[Any, int] = {None: -1}
        codes = [known.setdefault(text, len(known) - 1) for text in values.tolist()]
        return np.array(codes, dtype=np.int32), [text for text in known if text is not None]
    return np.ascontiguousarray(values, dtype=np.float64), None


def _decoded(raw: bytes) -> Segment:
    with na.c_array_stream(ipc.InputStream.from_readable(io.BytesIO(raw))) as stream:
        schema = stream.get_schema()
        meta = orjson.loads(dict((schema.metadata or {}).items())[_META.encode()])
        names = [field.name for field in schema.children]
        (batch,) = list(stream)
        views = {name: batch.child(i).view() for i, name in enumerate(names)}
        ids = np.frombuffer(bytes(views.pop("request_id").buffer(1)), np.uint8).reshape(-1, 16)
        arrays = {
            name: np.frombuffer(bytes(view.buffer(1)), _DTYPES[view.storage_type]) for name, view in views.items()
        }
    k = sum(name.startswith("p_value.") for name in arrays)
    kinds = meta["kinds"]
    inputs = None
    if kinds is not None:
        inputs = {
            name: _uncoded(kind, arrays[f"input.{name}"], meta["levels"].get(name)) for name, kind in kinds.items()
        }
    group_cells: dict[str, list[str]] = meta.get("group_cells", {})
    return Segment(
        ids=ids,
        inputs=inputs,
        probabilities=np.stack([arrays[f"probability.{c}"] for c in range(k)], axis=1),
        p_values=np.stack([arrays[f"p_value.{c}"] for c in range(k)], axis=1),
        sets=np.stack([arrays[f"in_set.{c}"] for c in range(k)], axis=1).astype(np.bool_),
        predictions=arrays["prediction"],
        slots=arrays["slot"],
        reasons=arrays["reason"],
        **{name: meta[name] for name in _OF_CALL},
        groups=np.stack([arrays[f"{_GROUP}{name}"] for name in group_cells], axis=1) if group_cells else None,
        group_cells=group_cells,
        beside=meta.get("beside", ()),
        kinds=kinds or {},
        levels=meta["levels"],
    )


def _plain(kind: str, values: npt.NDArray[Any], levels: Sequence[Any]) -> list[Any]:
    """A column's values as a request has them."""
    if kind in _CODED:
        return [None if code < 0 else levels[code] for code in values.tolist()]
    if kind == "text":
        return list(values.tolist())
    if kind == "datetime":
        return [None if value != value else utc_text(moment_of(int(value))) for value in values.tolist()]  # noqa: PLR0124
    if kind == "int":
        return [None if value != value else int(value) for value in values.tolist()]  # noqa: PLR0124 - NaN
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 - NaN


def _uncoded(kind: str, codes: npt.NDArray[Any], levels: Sequence[Any] | None) -> npt.NDArray[Any]:
    """A column as ``ColumnArrays`` has it."""
    if kind in _CODED:
        return codes.astype(np.int64)
    if kind == "text":
        texts = np.array([*(levels or ()), None], dtype=np.object_)
        found: npt.NDArray[Any] = texts[codes]
        return found
    return codes


def _milliseconds(ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Unix milliseconds in the first 48 bits of UUIDv7, shape (n,)."""
    wide = np.zeros((len(ids), 8), dtype=np.uint8)
    wide[:, 2:] = ids[:, :6]
    return wide.view(">i8").ravel().astype(np.int64)
