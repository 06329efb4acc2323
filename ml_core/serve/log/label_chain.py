"""The chain of labels: each stored label has a salted digest, and a head that chains it to those before, made by a key.

A label that is erased leaves its digest without the salt, so the chain still holds and tells nothing of it.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from collections.abc import Sequence

import orjson

from ml_core.serve.log.entries import new_salts
from ml_core.serve.log.label_file import LABEL_TABLE
from ml_core.serve.log.log_key import LogKey

__all__ = ["FIRST_HEAD", "blank_labels", "chain_labels", "has_chain", "label_digest", "next_label_head"]

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


def chain_labels(connection: sqlite3.Connection, key: LogKey, after: int = 0) -> int:
    """Chain the labels with higher numbers that are not chained yet, in the caller's transaction; how many they are."""
    last = connection.execute("SELECT n, head FROM label_chain ORDER BY n DESC LIMIT 1").fetchone()
    number, head = (0, FIRST_HEAD) if last is None else last
    query = f"{LABEL_TABLE.select} WHERE seq > ? AND seq NOT IN (SELECT label FROM label_chain) ORDER BY seq"  # noqa: S608 - text of ours
    rows = connection.execute(query, (after,)).fetchall()
    for salt, stored in zip(new_salts(len(rows)), rows, strict=True):
        number += 1
        digest = label_digest(salt, stored)
        head = next_label_head(head, number, stored[0], digest, key)
        connection.execute(
            "INSERT INTO label_chain VALUES(?,?,?,?,?,?)", (number, stored[0], salt, digest, head, key.id)
        )
    return len(rows)


def has_chain(connection: sqlite3.Connection) -> bool:
    """Whether the file is of a version with a chain."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'label_chain'").fetchone() is not None


def blank_labels(connection: sqlite3.Connection, seqs: Sequence[int]) -> None:
    """Take the salts of labels that are being erased out of the chain."""
    connection.executemany("UPDATE label_chain SET salt = x'' WHERE label = ?", [(seq,) for seq in seqs])
