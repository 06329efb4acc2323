"""Walks the chain of labels."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ml_core.base.errors import LogDamaged
from ml_core.lab.log_care.findings import Finding
from ml_core.serve.log.label_file import FIRST_HEAD, LABEL_TABLE, LabelFile, has_chain, label_digest, next_label_head
from ml_core.serve.log.log_keys import LogKey
from ml_core.serve.log.log_records import LogRecords

__all__ = ["check_labels"]

_BUSY_S = 5.0


def check_labels(path: Path, records: LogRecords, erased: Collection[int]) -> list[Finding]:
    """What is wrong with the labels; nothing where the log has never had a key.

    Parameters
    ----------
    erased : numbers of labels that the journal says were erased
    """
    keys = records.keys.all() if records.with_key else {}
    try:
        with LabelFile(path, _BUSY_S).reading() as connection:
            if connection is None:
                return []
            connection.execute("BEGIN")
            return list(_problems(connection, path.name, keys, set(erased), with_key=records.with_key))
    except (LogDamaged, sqlite3.Error, TypeError, ValueError) as error:
        return [Finding("labels", path.name, f"cannot be read: {error}")]


def _problems(
    connection: sqlite3.Connection, name: str, keys: Mapping[str, LogKey], erased: set[int], *, with_key: bool
) -> Iterator[Finding]:
    labels = {row[0]: row for row in connection.execute(LABEL_TABLE.select)}
    chain = connection.execute("SELECT * FROM label_chain ORDER BY n").fetchall() if has_chain(connection) else []
    if not (keys or chain):
        return
    head = FIRST_HEAD
    for number, (n, seq, salt, digest, said, key_id) in enumerate(chain, start=1):
        if n != number:
            yield Finding("labels", name, "labels before it are missing", seq)
            return
        stored = labels.pop(seq, None)
        if stored is None and (salt or seq not in erased):
            yield Finding("labels", name, "it is missing, and nobody asked for its erasure", seq)
        elif stored is not None and label_digest(salt, stored) != digest:
            yield Finding("labels", name, "it is not what was stored", seq)
        key = keys.get(key_id)
        if with_key and (key is None or next_label_head(head, n, seq, digest, key) != said):
            yield Finding("labels", name, "the chain breaks: labels were changed, moved or added here", seq)
            return
        head = said
    for seq in sorted(labels):
        yield Finding("labels", name, "it is in no chain: `surety log adopt` vouches for what is yours", seq)
