"""The tables that labels lie in, and their chain.

Each stored label has a salted digest, and a head that chains it to those before, made by a key. A label that is erased
leaves its digest without the salt, so the chain still holds and tells nothing of it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from functools import lru_cache

import orjson

from ml_core.base.clock import microseconds, moment_of
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.table_stores import TableConnection, TableStore, open_tables
from ml_core.serve.home.tables import FileFormat, StoredTable, TableField
from ml_core.serve.log.entries import new_salts
from ml_core.serve.log.log_keys import LogKey

__all__ = [
    "CHAIN_TABLE",
    "FIRST_HEAD",
    "LABEL_FORMAT",
    "LABEL_TABLE",
    "blank_labels",
    "chain_labels",
    "label_digest",
    "label_text",
    "label_value",
    "next_label_head",
    "open_label_tables",
]

_BUSY_S = 5.0


def label_text(value: int | str) -> str:
    """A label as it is stored: JSON, so that 1 and "1" differ."""
    return json.dumps(value, ensure_ascii=False)


@lru_cache(maxsize=1_024)
def label_value(text: str) -> int | str:
    """The label that is stored so."""
    value: int | str = json.loads(text)
    return value


LABEL_TABLE = StoredTable(
    "label",
    (
        # AUTOINCREMENT: a number is never given twice, so whoever reads on from one misses nothing
        TableField("seq", "INTEGER PRIMARY KEY AUTOINCREMENT", is_numbered=True),
        "request_id BLOB NOT NULL CHECK (length(request_id) = 16)",
        TableField("label", "TEXT NOT NULL", write=label_text, read=label_value),
        TableField("observed_at_us", "INTEGER NOT NULL", 1, "observed_at", microseconds, moment_of),
        TableField("received_at_us", "INTEGER NOT NULL", 1, "received_at", microseconds, moment_of),
        "source TEXT NOT NULL",
        "outcome TEXT NOT NULL CHECK (outcome IN ('accepted', 'conflict', 'unknown'))",
    ),
)
"""What is stored of a label, as ``labels.StoredLabel`` has it."""
CHAIN_TABLE = StoredTable(
    "label_chain",
    (
        "n INTEGER PRIMARY KEY",
        "label INTEGER NOT NULL UNIQUE",
        "salt BLOB NOT NULL",
        "digest BLOB NOT NULL",
        "head BLOB NOT NULL",
        "key TEXT NOT NULL",
    ),
    since=2,
)
"""The chain: a row for each label, by its ``seq``, in the order in which they were chained."""
LABEL_FORMAT = FileFormat(
    "label store",
    0x53724C62,
    [LABEL_TABLE, CHAIN_TABLE],
    {1: ["CREATE INDEX label_request ON label(request_id, seq)"]},
)


def open_label_tables(settings: Settings, model: str, *, busy_s: float = _BUSY_S) -> TableStore:
    """The labels of one model's answers, in the home of these settings.

    Parameters
    ----------
    busy_s : longest wait for other processes, seconds
    """
    path = settings.home / "labels" / f"{model}.db"
    return open_tables(LABEL_FORMAT, path, open_home(settings).database, model, busy_s=busy_s)


FIRST_HEAD = b"surety-labels-1"
"""What the first label chains on."""


def label_digest(salt: bytes, stored: Sequence[object]) -> bytes:
    """Salted sha256 over a label as it is stored, 32 bytes.

    Parameters
    ----------
    stored : a row of ``LABEL_TABLE.select``
    """
    plain = [value.hex() if isinstance(value, bytes) else value for value in stored]
    return hashlib.sha256(salt + orjson.dumps(plain)).digest()


def next_label_head(head: bytes, number: int, seq: int, digest: bytes, key: LogKey) -> bytes:
    """Head of the chain after the label with this place in the chain and this number, 32 bytes."""
    return hmac.digest(key.labels, head + b"/%d/%d/" % (number, seq) + digest, "sha256")


def chain_labels(connection: TableConnection, key: LogKey, after: int = 0) -> int:
    """Chain the labels with higher numbers that are not chained yet, in the caller's transaction; how many they are."""
    last = connection.execute("SELECT n, head FROM label_chain ORDER BY n DESC LIMIT 1").fetchone()
    number, head = (0, FIRST_HEAD) if last is None else last
    query = f"{LABEL_TABLE.select} WHERE seq > ? AND seq NOT IN (SELECT label FROM label_chain) ORDER BY seq"  # noqa: S608 - text of ours
    rows = connection.execute(query, (after,)).fetchall()
    chained = []
    for salt, stored in zip(new_salts(len(rows)), rows, strict=True):
        number += 1
        digest = label_digest(salt, stored)
        head = next_label_head(head, number, stored[0], digest, key)
        chained.append((number, stored[0], salt, digest, head, key.id))
    connection.executemany(CHAIN_TABLE.insert, chained)
    return len(rows)


def blank_labels(connection: TableConnection, seqs: Sequence[int]) -> None:
    """Take the salts of labels that are being erased out of the chain."""
    connection.executemany("UPDATE label_chain SET salt = x'' WHERE label = ?", [(seq,) for seq in seqs])
