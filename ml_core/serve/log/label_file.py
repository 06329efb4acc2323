"""The file that labels lie in: its tables, connections that read it and transactions that write it, and their chain.

It has a rollback journal and no WAL file. Several processes write it, and SQLite up to 3.51.2 can, very rarely, damage
a WAL file that one connection writes while another checkpoints it.

Each stored label has a salted digest, and a head that chains it to those before, made by a key. A label that is erased
leaves its digest without the salt, so the chain still holds and tells nothing of it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path

import orjson

from ml_core.base.clock import microseconds, moment_of
from ml_core.base.errors import LabelsNotStored, LogDamaged, SuretyError
from ml_core.serve.log.entries import new_salts
from ml_core.serve.log.log_keys import LogKey
from ml_core.serve.log.tables import FileFormat, StoredTable, TableField, Transaction

__all__ = [
    "FIRST_HEAD",
    "LABEL_TABLE",
    "LabelFile",
    "blank_labels",
    "chain_labels",
    "has_chain",
    "label_digest",
    "label_text",
    "label_value",
    "next_label_head",
]

_RETRY_S = 0.002


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
_CHAIN = (
    "CREATE TABLE label_chain(n INTEGER PRIMARY KEY, label INTEGER NOT NULL UNIQUE, salt BLOB NOT NULL, "
    "digest BLOB NOT NULL, head BLOB NOT NULL, key TEXT NOT NULL) STRICT"
)
_FORMAT = FileFormat(
    "label store",
    0x53724C62,
    [LABEL_TABLE],
    {
        1: ["CREATE INDEX label_request ON label(request_id, seq)"],
        2: [_CHAIN],
    },
)


class LabelFile:
    """One SQLite file. A connection lives for one call, so any thread may make it and a lost file is not held.

    Parameters
    ----------
    path : made with its folder on the first write
    busy_s : longest wait for other processes, seconds
    """

    def __init__(self, path: Path, busy_s: float) -> None:
        self.path = path
        self._busy_s = busy_s

    @contextmanager
    def reading(self, failing: Callable[[str, str], SuretyError] = LogDamaged) -> Iterator[sqlite3.Connection | None]:
        """A connection that changes nothing, or None where nothing has been stored yet.

        It is not opened read-only: a writer that was killed may have left a journal, which must be undone first.

        Parameters
        ----------
        failing : makes the error of a file that is locked or out of reach, from its name and the reason

        Raises
        ------
        LogDamaged
            The file is no label store of this version or an earlier one.
        """
        with self._as_our_errors(failing):
            if not self.path.exists():
                yield None
                return
            with self._connected(f"{self.path.absolute().as_uri()}?mode=rw") as connection:
                is_made = _FORMAT.open(connection, self.path.name, may_write=False)
                connection.execute("PRAGMA query_only=ON")
                yield connection if is_made else None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction: committed and flushed at the end, undone on any error.

        Raises
        ------
        LabelsNotStored
            The disk is full or read-only, or others hold the file too long.
        LogDamaged
            The file is no label store of this version or an earlier one.
        """
        with self._as_our_errors(LabelsNotStored):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._connected(f"{self.path.absolute().as_uri()}?mode=rwc") as connection:
                # FULL flushes a truncated journal too; a deleted one may come back after a power cut and undo a commit
                connection.execute("PRAGMA journal_mode=TRUNCATE").fetchall()
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA secure_delete=ON")  # what is erased leaves no copy in the file
                with Transaction(connection):
                    _FORMAT.bring_up_to_date(connection, self.path.name)
                    yield connection

    def _connected(self, uri: str) -> closing[_WaitingConnection]:
        connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, factory=_WaitingConnection)
        connection.busy_s = self._busy_s
        return closing(connection)

    @contextmanager
    def _as_our_errors(self, failing: Callable[[str, str], SuretyError]) -> Iterator[None]:
        """Our errors for those of SQLite and the system; their words name no value."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
            raise failing(self.path.name, reason) from error
        except sqlite3.DatabaseError as error:
            raise LogDamaged(self.path.name, f"cannot be read: {error}") from error


class _WaitingConnection(sqlite3.Connection):
    """A connection whose statements wait ``busy_s`` seconds for a lock, asking for it every few milliseconds.

    SQLite's own wait ends in asking ten times a second. Beside somebody who writes without a pause, as an import does,
    it misses every gap for seconds (measured: refused after five).
    """

    busy_s = 0.0

    def execute(self, sql: str, parameters: Sequence[object] = (), /) -> sqlite3.Cursor:  # type: ignore[override]
        """As SQLite's; a COMMIT that waits for readers keeps new ones out meanwhile."""
        ends = time.monotonic() + self.busy_s
        while True:
            try:
                return super().execute(sql, parameters)
            except sqlite3.OperationalError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= ends:
                    raise
                time.sleep(_RETRY_S)


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
