"""What the log holds of one answer, and the digest that makes a change of it visible."""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from ml_core.serve.log import fields
from ml_core.serve.log.log_keys import LogKey

__all__ = [
    "ERASED",
    "Lineage",
    "Row",
    "SALT_BYTES",
    "answer_json",
    "as_json",
    "id_bytes",
    "id_text",
    "new_salts",
    "next_head",
    "row_digest",
    "stored_digest",
]

SALT_BYTES = 16
ERASED = b""
"""Stands for the answer of a row whose subject was erased; a stored answer is never empty."""
_LENGTHS = struct.Struct("<16sqIII")


@dataclass(frozen=True, slots=True, eq=False)
class Lineage:
    """Where answers came from, stored once and named by its digest.

    Attributes
    ----------
    facts : JSON-able: model name, version and hash, feature version, calibration id, slot, bento, classes, level,
        columns of the input in their order, software versions
    digest : sha256 over the facts as JSON, 32 bytes
    """

    facts: Mapping[str, Any]
    digest: bytes
    text: bytes

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Lineage:
        """The lineage with these facts."""
        text = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
        return cls(facts, hashlib.sha256(text).digest(), text)


class Row(NamedTuple):
    """One row as the writer takes it.

    Attributes
    ----------
    request_id : 16 bytes
    at_us : UTC, microseconds since 1970
    client_request_id : as the caller named it, or None
    subject : keyed HMAC of the subject, 32 bytes, or None
    batch_id, batch_index : of the batch call it was part of, or None
    lineage : where it came from
    answer : JSON, see ``answer_json``; of a bulk call, see ``segments.SegmentEntry``
    input : JSON list of the feature values in the lineage's column order; None where inputs are not kept
    groups : JSON object, cell by grouping; None for a model without groups of patients
    group_values : JSON object, values of columns that are no features and were sent to tell the groups; None where
        nothing was, or where inputs are not kept
    explanation : JSON object, as in the answer; None where it was not asked for
    kind : 0 for an answer, 1 for a bulk call whose rows lie in a segment
    answers : how many answers it stands for
    """

    request_id: bytes
    at_us: int
    client_request_id: str | None
    subject: bytes | None
    batch_id: bytes | None
    batch_index: int | None
    lineage: Lineage
    answer: bytes
    input: bytes | None
    groups: bytes | None
    group_values: bytes | None
    explanation: bytes | None
    kind: int = 0
    answers: int = 1


def id_bytes(text: str) -> bytes:
    """The 16 bytes of an id written as a UUID.

    Raises
    ------
    ValueError
        It is none.
    """
    return uuid.UUID(text).bytes


def id_text(raw: bytes) -> str:
    """The id as it is written in answers."""
    return str(uuid.UUID(bytes=raw))


def as_json(value: Any) -> bytes:
    """JSON that takes no more memory than its length: many rows may wait, and orjson's own bytes hold 4 kB each."""
    return bytes(memoryview(orjson.dumps(value)))


def answer_json(
    *,
    prediction: int,
    probabilities: Sequence[float],
    p_values: Sequence[float],
    members: Sequence[int],
    level: str,
    reason: str | None,
    validity: str,
    validity_reasons: Sequence[str],
    elapsed_us: int,
    input_hash: str,
) -> bytes:
    """The answer as JSON; floats are written so that they read back to the same bits.

    Parameters
    ----------
    prediction, members : positions in the lineage's classes
    probabilities, p_values : of every class
    level : confidence level of the set, as decimal text
    reason : why it is not the model's own answer, or None
    elapsed_us : time the model took
    """
    return as_json(
        {
            "prediction": prediction,
            "probabilities": probabilities,
            "p_values": p_values,
            "members": members,
            "level": level,
            "reason": reason,
            "validity": validity,
            "validity_reasons": validity_reasons,
            "elapsed_us": elapsed_us,
            "input_hash": input_hash,
        }
    )


def row_digest(row: Row, salt: bytes) -> bytes:
    """Salted sha256 over everything a row says, 32 bytes.

    Without its salt a digest tells nothing about what was erased, however few values a field can have.
    """
    layout = fields.LAYOUT
    later = layout.later_of(row)
    rest = _rest(
        row.client_request_id, row.subject, row.batch_id, row.batch_index, row.lineage.digest,
        None if later == layout.none_later else dict(zip(layout.later_in_digest, later, strict=True)),
    )  # fmt: skip
    return _digest(salt, row.request_id, row.at_us, row.answer, row.input, rest)


def stored_digest(stored: Mapping[str, Any], lineage_digest: bytes) -> bytes:
    """The same over a row as it lies in the database, by column name."""
    rest = _rest(
        stored["client_request_id"], stored["subject"], stored["batch_id"], stored["batch_index"], lineage_digest,
        {name: stored[name] for name in fields.LAYOUT.later_in_digest},
    )  # fmt: skip
    return _digest(stored["salt"], stored["request_id"], stored["at_us"], stored["answer"], stored["input"], rest)


def _digest(salt: bytes, request_id: bytes, at_us: int, answer: bytes, input_: bytes | None, rest: bytes) -> bytes:
    known = b"" if input_ is None else input_
    lengths = _LENGTHS.pack(request_id, at_us, len(answer), len(known), len(rest))
    return hashlib.sha256(b"".join((salt, lengths, answer, known, rest))).digest()


def _rest(
    client_request_id: str | None,
    subject: bytes | None,
    batch_id: bytes | None,
    batch_index: int | None,
    lineage: bytes,
    later: Mapping[str, Any] | None,
) -> bytes:
    """Everything else that a digest covers, as JSON.

    Parameters
    ----------
    later : fields that came after version 1. Those without a value are left out, so older digests stay what they are
    """
    added = {name: _plain(value) for name, value in later.items() if value is not None} if later else None
    if client_request_id is None and subject is None and batch_id is None and batch_index is None and not added:
        return _bare(lineage)
    listed = [client_request_id, _plain(subject), _plain(batch_id), lineage.hex(), batch_index]
    return orjson.dumps([*listed, added] if added else listed)


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value


@lru_cache(maxsize=256)
def _bare(lineage: bytes) -> bytes:
    return orjson.dumps([None, None, None, lineage.hex(), None])


def next_head(head: bytes, digests: Sequence[bytes], key: LogKey | None = None) -> bytes:
    """Head of the chain after one more commit: over the last head and the digests of the commit's rows, 32 bytes.

    Parameters
    ----------
    key : makes an HMAC-SHA-256; None for the plain sha256 of files without a key
    """
    said = head + b"".join(digests)
    return hashlib.sha256(said).digest() if key is None else hmac.digest(key.chain, said, "sha256")


def new_salts(n: int) -> list[bytes]:
    """``n`` fresh salts."""
    raw = os.urandom(SALT_BYTES * n)
    return [raw[i : i + SALT_BYTES] for i in range(0, len(raw), SALT_BYTES)]
