"""What the journal and the service's own log say of the prediction log: signed entries, and published heads.

An entry of the journal carries its number, the mark of the entry before it, and an HMAC over all it says. So one that
was changed, added, moved or taken out of the middle is seen. That the last ones were taken away shows against a
published head. Entries from before the key are believed where the statement that was made with the key pins them
down.

A published head is a line of the service's own log: what was true then can be held against the store later. It names
a file, the number of its last row and the head of its chain after it, and is signed with the log's key. The chain of
labels is published as the file ``labels``, the journal's entries on the log as ``journal``.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.errors import LabelsNotStored, LogDamaged, SuretyError
from ml_core.base.journal import who
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.database import end_of, key_of
from ml_core.serve.log.label_tables import chain_labels, open_label_tables
from ml_core.serve.log.log_keys import LogKey, LogKeys
from ml_core.serve.log.log_places import place_of

__all__ = [
    "ADOPTED",
    "ASKED",
    "COPY_REMOVED",
    "ERASED",
    "GIVEN_UP",
    "HEAD_EVENT",
    "JOURNAL",
    "JournalSays",
    "LABELS",
    "LABELS_ERASED",
    "LogRecords",
    "PRUNED",
    "SEALED",
    "head_facts",
    "is_signed_head",
    "publish_heads",
]

logger = logging.getLogger(__name__)

SEALED, PRUNED, ERASED = "log.sealed", "log.pruned", "log.erased"
ADOPTED, ASKED = "log.adopted", "log.erasure_asked"
LABELS_ERASED, COPY_REMOVED, GIVEN_UP = "log.labels_erased", "log.copy_removed", "log.given_up"
_EVENTS = {SEALED, PRUNED, ERASED, ADOPTED, ASKED, LABELS_ERASED, COPY_REMOVED, GIVEN_UP}
_SEAT_POLL_S = 0.2
_LOOK_S = 0.05
"""Longest wait for the labels of a look that the log's thread takes."""


@dataclass(frozen=True, slots=True)
class JournalSays:
    """What the journal says of one model's log.

    Attributes
    ----------
    entries : those that are believed, oldest first
    problems : what is wrong with the others
    marks : of all signed entries (hex), by their numbers
    """

    entries: tuple[Mapping[str, Any], ...]
    problems: tuple[str, ...]
    marks: Mapping[int, str]

    def of(self, event: str) -> list[Mapping[str, Any]]:
        """Entries of one kind."""
        return [entry for entry in self.entries if entry["event"] == event]


class LogRecords:
    """The journal's entries on the configured model's log, and the key that signs them.

    Parameters
    ----------
    with_key : check what the key has made; otherwise that is taken as it is

    Attributes
    ----------
    folder : of the log
    place : where its rows lie
    documents : of the home
    is_shared : whether other machines have the same home
    keys : of the log

    Raises
    ------
    ConfigError
        The key's file cannot be used.
    """

    def __init__(self, settings: Settings, *, with_key: bool = True) -> None:
        self.folder: Path = settings.log
        self.place = place_of(settings)
        self.model = settings.model_name
        self.with_key = with_key
        self.keys = LogKeys.of(settings)
        if with_key:
            self.keys.all()
        self._journal = open_home(settings).journal
        self.documents = open_home(settings).documents
        self._seat = open_home(settings).seat
        self.is_shared = open_home(settings).database is not None
        self._lock = f".log-records-{settings.model_name}.lock"
        self._labels = open_label_tables(settings, settings.model_name)
        self._label_look = open_label_tables(settings, settings.model_name, busy_s=_LOOK_S)

    @contextmanager
    def seat(self, name: str) -> Iterator[None]:
        """Keep commands on other machines away that take the same seat.

        Raises
        ------
        HomeUnreachable
            The home cannot be asked.
        """
        seat = self._seat(f"log/{self.model}/{name}") if self.is_shared else None
        while seat is not None and not seat.take():
            time.sleep(_SEAT_POLL_S)
        try:
            yield
        finally:
            if seat is not None:
                seat.leave()

    def key(self) -> LogKey:
        """The key that is used. Where it is made by this call, what is there without a key is adopted.

        Raises
        ------
        ConfigError
            The key's file cannot be used.
        OSError, LabelsNotStored
            The key, or the statement on what is there, cannot be written.
        """
        key, is_new = self.keys.used()
        if is_new:
            self.adopt()
        return key

    def adopt(self) -> Mapping[str, Any]:
        """State in the journal which files, entries and labels were there without a key; returns what was stated.

        Raises
        ------
        ConfigError, OSError, LabelsNotStored
            As :meth:`key`.
        """
        key, _ = self.keys.used()
        files: dict[str, Any] = {}
        labels = 0
        for file in self.place.files():
            # what cannot be read is not adopted
            with suppress(LogDamaged, sqlite3.Error), self.place.reading(file) as connection:
                if key_of(connection) == "":
                    files[file.name] = end_of(file, self.place.reading)
        if self._labels.is_made():
            with suppress(LogDamaged), self._labels.writing(LabelsNotStored) as connection:
                labels = chain_labels(connection, key)
        unsigned = [entry for entry in self._all() if "mac" not in entry]
        facts = {"files": files, "labels": labels, "unsigned": len(unsigned), "sha256": _sha256(unsigned)}
        if files or labels or unsigned:
            self.write(ADOPTED, facts)
        return facts

    def write(self, event: str, facts: Mapping[str, Any]) -> None:
        """Write a signed entry into the journal, and wait for the disk.

        Raises
        ------
        ConfigError, OSError
            As :meth:`key`.
        """
        key = self.key()
        with self.documents.locked(self._lock):
            marks = self.read().marks
            last = max(marks, default=0)
            entry = {
                "at": utc_text(utc_now()), "event": event, "by": who(), "model": self.model, **facts, "n": last + 1,
                "before": marks.get(last, ""), "key": key.id,
            }  # fmt: skip
            self._journal.append(event, {**entry, "mac": key.sign("journal", entry)})

    def read(self) -> JournalSays:
        """What the journal says.

        Raises
        ------
        ConfigError
            The key's file cannot be used.
        """
        keys = self.keys.all() if self.with_key else {}
        unsigned: list[dict[str, Any]] = []
        signed: list[dict[str, Any]] = []
        problems: list[str] = []
        marks: dict[int, str] = {}
        last, before = 0, ""
        for entry in self._all():
            if "mac" not in entry:
                unsigned.append(entry)
                continue
            name = f"entry {entry.get('n')} ({entry['event']})"
            if not _has_place(entry) or (self.with_key and not self._is_signed(entry, keys)):
                problems.append(f"{name} is not signed with the log's key")
                continue
            if entry["n"] in marks or entry["n"] <= last:
                problems.append(f"{name} is there again")
                continue
            if entry["n"] != last + 1 or entry["before"] != before:
                problems.append(f"entries {last + 1} to {entry['n'] - 1} are missing")
            last, before = entry["n"], entry["mac"]
            marks[last] = before
            signed.append(entry)
        believed = self._believed(unsigned, signed, is_keyed=bool(keys or signed))
        if len(believed) < len(unsigned):
            some = ", ".join(sorted({str(entry["event"]) for entry in unsigned[len(believed) :]}))
            problems.append(f"{len(unsigned) - len(believed)} entries without a signature are not believed: {some}")
        return JournalSays((*believed, *signed), tuple(problems), marks)

    def is_sealed(self, day: str) -> bool:
        """Whether that day (as ``2026-11-24``) was sealed, and is still there.

        Raises
        ------
        ConfigError
            The key's file cannot be used.
        OSError
            The journal cannot be read.
        """
        sealed = False
        for entry in self.read().entries:
            if entry.get("day") == day and entry["event"] in {SEALED, PRUNED}:
                sealed = entry["event"] == SEALED
        return sealed

    def label_end(self) -> tuple[int, str] | None:
        """Number and head (hex) of the last label in the chain of labels; None where there is none.

        Raises
        ------
        LogDamaged
            The labels cannot be read.
        """
        with self._label_look.reading() as connection:
            if connection is None:
                return None
            found = connection.execute("SELECT n, head FROM label_chain ORDER BY n DESC LIMIT 1").fetchone()
        return None if found is None else (int(found[0]), found[1].hex())

    def _all(self) -> list[dict[str, Any]]:
        entries = self._journal.entries()
        return [e for e in entries if e.get("event") in _EVENTS and e.get("model") == self.model]

    @staticmethod
    def _is_signed(entry: Mapping[str, Any], keys: Mapping[str, LogKey]) -> bool:
        key = keys.get(str(entry.get("key")))
        return key is not None and key.has_signed("journal", entry)

    @staticmethod
    def _believed(
        unsigned: list[dict[str, Any]], signed: list[dict[str, Any]], *, is_keyed: bool
    ) -> list[dict[str, Any]]:
        """Entries without a signature that a statement pins down; all of them where there has never been a key."""
        if not is_keyed:
            return unsigned
        for entry in reversed(signed):
            if entry["event"] == ADOPTED and _sha256(unsigned[: entry["unsigned"]]) == entry["sha256"]:
                return unsigned[: entry["unsigned"]]
        return []


def _has_place(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("n"), int) and all(isinstance(entry.get(name), str) for name in ("before", "mac"))


def _sha256(entries: list[dict[str, Any]]) -> str:
    return hashlib.sha256(orjson.dumps(entries, option=orjson.OPT_SORT_KEYS)).hexdigest()


HEAD_EVENT = "log.head"
LABELS, JOURNAL = "labels", "journal"
_SIGNED = ("model", "file", "day", "seq", "head", "published_at")


def publish_heads(records: LogRecords, ends: Mapping[str, tuple[int, str]]) -> list[dict[str, Any]]:
    """Write a line for each of these databases, for the labels and for the journal; the facts of the lines.

    Parameters
    ----------
    ends : number of the last row, and head (hex), by name of the database

    Raises
    ------
    ConfigError, OSError
        The log's key cannot be used.
    """
    found = dict(ends)
    with suppress(SuretyError):  # labels that cannot be read are told of elsewhere
        labels = records.label_end()
        found |= {} if labels is None else {LABELS: labels}
    marks = records.read().marks
    if marks:
        found[JOURNAL] = max(marks), marks[max(marks)]
    lines = [head_facts(records, file, seq, head) for file, (seq, head) in found.items()]
    for line in lines:
        logger.info(HEAD_EVENT, extra=line)
    return lines


def head_facts(records: LogRecords, file: str, seq: int, head: str) -> dict[str, Any]:
    """What a line says.

    Parameters
    ----------
    seq, head : number of the last row, and head of the chain after it (hex)
    """
    key = records.key()
    now = utc_text(utc_now())
    day = file[12:22] if file.startswith("predictions-") else now[:10]
    facts = {"model": records.model, "file": file, "day": day, "seq": seq, "head": head, "published_at": now}
    return {**facts, "key": key.id, "mac": key.sign("head", facts)}


def is_signed_head(records: LogRecords, line: Mapping[str, Any]) -> bool:
    """Whether the log's key has signed a line."""
    key = records.keys.all().get(str(line.get("key")))
    facts = {name: line.get(name) for name in (*_SIGNED, "mac")}
    return key is not None and key.has_signed("head", facts)
