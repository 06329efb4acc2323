"""Erases what is kept about a person: training rows, labels, matured answers, and what the log and its copies say.

What stays of an answer is its number, id, time, lineage and digest, so the chain still holds. Closed databases are
changed here, under their lock; those that workers write to are changed by the workers, who look for requests every few
seconds. Rows of bulk calls name no subject and are not found. What file systems and backups keep of a file is theirs.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ml_core.base.errors import LogBusy, LogDamaged
from ml_core.base.files import drafts_of
from ml_core.base.settings import Settings
from ml_core.lab.data.feature_store import FeatureStore, StoredRows
from ml_core.lab.data.people import names_of
from ml_core.lab.log_care.journal_marks import read_marks
from ml_core.lab.log_care.log_days import LogDay
from ml_core.lab.log_care.sealing import seal_day
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.erasure_requests import (
    Erasure,
    forget_ended_erasures,
    one_at_a_time,
    pending_erasures,
    request_erasure,
)
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import LabelStore
from ml_core.serve.log.log_files import LogFile
from ml_core.serve.log.log_places import LogPlace, place_of
from ml_core.serve.log.log_records import COPY_REMOVED, ERASED, LABELS_ERASED, LogRecords
from ml_core.serve.log.reader import PredictionLog

__all__ = ["Erased", "SubjectRows", "erase", "erase_person", "erase_training_rows", "find", "find_training_rows"]

TRAINING_ROWS_ERASED = "training_rows.erased"


def find_training_rows(settings: Settings, name: str, pseudonyms: Sequence[bytes]) -> list[StoredRows]:
    """What each table of the store has of a person; changes nothing.

    Parameters
    ----------
    name : of the person in raw rows
    pseudonyms : of the person under every key; answers that became training rows may have their names from these
    """
    found = [
        store.find_people(table, names_of(store.version(table), name, pseudonyms))
        for store in FeatureStore.every(settings)
        for table in store.tables()
    ]
    return [rows for rows in found if rows.files]


def erase_training_rows(settings: Settings, name: str, pseudonyms: Sequence[bytes]) -> list[StoredRows]:
    """Erase a person from every table that has rows of them, write it into the journal, and say what there was.

    A model keeps the version number of its training rows. After this the number names rows that are gone, and asking
    for them says so. Killed anywhere, it ends its work when it is run again.

    Raises
    ------
    DataError
        A table cannot be read or written.
    """
    journal = open_home(settings).journal
    for store in FeatureStore.every(settings):
        store.forget_copies()
    erased = []
    for found in find_training_rows(settings, name, pseudonyms):
        store = FeatureStore.of(settings, found.model or None)
        names = names_of(store.version(found.table), name, pseudonyms)
        # before the files go, since afterwards nobody could tell why these versions are missing
        facts = {"table": found.table, "of_model": found.model, "rows": found.rows, "versions_up_to": found.version}
        journal.append(TRAINING_ROWS_ERASED, facts)
        erased.append(store.erase_people(found.table, names))
    return erased


WAIT_S = 30.0
"""Longest wait for workers, who look for requests every five seconds."""
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class SubjectRows:
    """What one database has of a person.

    Attributes
    ----------
    rows : how many answers
    is_live : whether a worker writes to it
    problem : why it cannot be read, "" where it can
    """

    file: str
    rows: int
    is_live: bool
    problem: str = ""


@dataclass(slots=True)
class Erased:
    """What was done.

    Attributes
    ----------
    rows : numbers of the erased rows by database
    earlier : answers that were erased because of earlier requests, which had not been ended
    left : databases that still have to lose theirs, and why
    unsealed : days whose sealed copy was removed instead of being written anew, and why
    labels, matured : labels of these answers, corrections included, and their rows in the monitor's ledger
    training : what tables of the feature store had of the person
    """

    rows: dict[str, list[int]] = field(default_factory=dict)
    earlier: int = 0
    left: dict[str, str] = field(default_factory=dict)
    unsealed: dict[str, str] = field(default_factory=dict)
    labels: int = 0
    matured: int = 0
    training: list[StoredRows] = field(default_factory=list)

    @property
    def answers(self) -> int:
        """How many answers about the person were erased."""
        return sum(map(len, self.rows.values()))


def find(settings: Settings, pseudonyms: Sequence[bytes]) -> list[SubjectRows]:
    """What each database has of a person; changes nothing."""
    place = place_of(settings)
    return [_found(place, file, pseudonyms) for file in place.files()]


def erase_person(
    settings: Settings,
    pseudonyms: Sequence[bytes],
    name: str | None = None,
    *,
    step: Callable[[float], None] = lambda _share: None,
) -> Erased:
    """Erase a person from the feature store, labels, the monitor's ledger, the log and its sealed copies.

    The log comes last, since it knows which answers are theirs: killed anywhere, run it again.

    Parameters
    ----------
    pseudonyms : of the person under every key that was ever used
    name : of the person in raw rows; without it the feature store is left as it is
    step : told of progress; shares add up to one

    Raises
    ------
    DataError, LabelsNotStored, LogBusy, LogDamaged, HomeUnreachable, ArtefactError, OSError
        A store cannot be changed; what was erased before stays erased.
    """
    training = [] if name is None else erase_training_rows(settings, name, pseudonyms)
    log, records = PredictionLog.of(settings), LogRecords(settings)
    records.key()  # before the labels are held: a key that is made looks at them
    ids = log.ids_of_subjects(pseudonyms)
    store = LabelStore(open_label_tables(settings, settings.model_name), log.known)
    labels = store.erase(ids, lambda seqs: records.write(LABELS_ERASED, {"labels": list(seqs)}))
    if ids:  # also where an erasure that was cut short has taken the labels away already
        store.sweep()
    matured = Ledger.erase(open_ledger_tables(settings, settings.model_name), pseudonyms, ids)
    done = erase(settings, pseudonyms, step=step)
    done.labels, done.matured, done.training = labels, matured, training
    return done


def erase(
    settings: Settings,
    pseudonyms: Sequence[bytes],
    *,
    wait_s: float | None = None,
    step: Callable[[float], None] = lambda _share: None,
) -> Erased:
    """Erase a person from the log; earlier requests that were not ended are ended along with it.

    Killed anywhere, it goes on when it is run again, for whomever.

    Parameters
    ----------
    pseudonyms : of the person under every key that was ever used
    wait_s : longest wait for workers
    step : told of progress; shares add up to one

    Raises
    ------
    OSError
        The folder of requests cannot be written to.
    ArtefactError
        A pending request cannot be read.
    """
    with one_at_a_time(LogRecords(settings)):
        return _erase(settings, pseudonyms, WAIT_S if wait_s is None else wait_s, step)


def _erase(settings: Settings, pseudonyms: Sequence[bytes], wait_s: float, step: Callable[[float], None]) -> Erased:
    found = find(settings, pseudonyms)
    files = [x.file for x in found if (x.rows or x.is_live) and not x.problem]
    records = LogRecords(settings)
    forget_ended_erasures(records)
    asked = request_erasure(records, pseudonyms, files) if files else None
    done = Erased(left={x.file: x.problem for x in found if x.problem})
    ends = time.monotonic() + wait_s
    while True:
        left = _once(settings, records, asked, done)
        if not left or time.monotonic() >= ends:
            break
        time.sleep(_POLL_S)
        step(_POLL_S / wait_s)
    done.left |= left
    return done


def _once(settings: Settings, records: LogRecords, asked: Erasure | None, done: Erased) -> dict[str, str]:
    """Carry out all pending requests as far as possible; returns the files that are left, each with the reason."""
    left: dict[str, str] = {}
    for erasure in pending_erasures(records):
        waits = _carry_out(erasure)
        left |= waits
        if waits:
            continue
        rows = _end(settings, erasure, done)
        if asked is not None and erasure.path == asked.path:
            done.rows = rows
        else:
            done.earlier += sum(map(len, rows.values()))
    return left


def _carry_out(erasure: Erasure) -> dict[str, str]:
    place = erasure.records.place
    files = {file.name: file for file in place.files()}
    left: dict[str, str] = {}
    for name in erasure.request.files:
        if name not in files or erasure.is_done_in(name):
            continue
        try:
            with place.erasing(files[name]) as log:
                erasure.carry_out(log, name)
        except LogBusy:
            left[name] = "a worker writes to it, and has not done it yet"
        except (sqlite3.Error, LogDamaged) as error:
            left[name] = str(error)
    return left


def _end(settings: Settings, erasure: Erasure, done: Erased) -> dict[str, list[int]]:
    """Bring the sealed copies up to date, write it into the journal, and forget the request; which rows it was."""
    rows = {name: sorted(erasure.rows_in(name)) for name in erasure.request.files}
    rows = {name: numbers for name, numbers in rows.items() if numbers}
    place = erasure.records.place
    place.forget_clients()
    for day in sorted({file.day for file in place.files() if file.name in rows}):
        place.purge(day)
        problem = _renew(settings, erasure.records, LogDay(day, settings.log, place))
        if problem:
            done.unsealed[day] = problem
    facts = {"request": erasure.path.stem, "asked_at": erasure.request.at, "answers": sum(map(len, rows.values()))}
    erasure.records.write(ERASED, {**facts, "rows": rows})
    erasure.forget()
    return rows


def _renew(settings: Settings, records: LogRecords, day: LogDay) -> str:
    """Write the day's sealed copy anew; where that cannot be, remove it and say why."""
    problem = ""
    day.place.fetch(day.sealed_name)
    if day.sealed.exists():
        sealed = seal_day(settings, day, renew=True)
        if sealed.outcome in {"busy", "broken"}:
            problem = sealed.detail
            if day.name in read_marks(records).closed:
                records.write(COPY_REMOVED, {"day": day.name})
            day.place.discard(day.sealed_name)
            day.sealed.unlink(missing_ok=True)
    for draft in drafts_of(day.sealed):
        draft.unlink(missing_ok=True)
    return problem


def _found(place: LogPlace, file: LogFile, pseudonyms: Sequence[bytes]) -> SubjectRows:
    try:
        with place.reading(file) as rows:
            marks = ",".join("?" * len(pseudonyms))
            query = f"SELECT count(*) FROM entry WHERE subject IN ({marks})"  # noqa: S608 - marks alone
            n = int(rows.execute(query, list(pseudonyms)).fetchone()[0]) if pseudonyms else 0
    except (sqlite3.Error, LogDamaged) as error:
        return SubjectRows(file.name, 0, place.is_live(file), f"cannot be searched: {error}")
    return SubjectRows(file.name, n, place.is_live(file))
