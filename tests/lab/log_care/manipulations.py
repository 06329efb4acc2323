"""Ways to manipulate the log, who could do them, and what notices each; the table of docs/log.md is made from this list.

Day one is sealed; day two is over, not sealed, and had a head published after its eighth row of twelve. The key lies
outside the home.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ml_core.base.settings import Settings
from ml_core.lab.log_care.erasure import erase_person
from ml_core.lab.log_care.log_days import LogDay
from ml_core.lab.log_care.sealing import seal_day
from ml_core.serve.log.database import OpenLog, genesis_head
from ml_core.serve.log.entries import ERASED, next_head, row_digest, stored_digest
from ml_core.serve.log.label_tables import FIRST_HEAD, LABEL_TABLE, label_digest, next_label_head, open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelStore
from ml_core.serve.log.log_files import LogFile, log_files
from ml_core.serve.log.log_keys import LogKey
from ml_core.serve.log.log_records import LogRecords, publish_heads
from ml_core.serve.log.reader import PredictionLog
from tests.serve.log.filled import DAY, NAME, NEXT, bulk_row, fill, held, row, subject, tampering

__all__ = ["MANIPULATIONS", "Manipulation", "Stored", "make_store", "table"]

FILES, HOME, KEY = "the log's folder", "the whole home", "the home and the key"
FORGED = LogKey(b"not the key of this log, nor near")


@dataclass(frozen=True)
class Stored:
    """A home with a log in it, and the lines that a log collector has of its service."""

    settings: Settings
    heads: Path

    @property
    def key(self) -> LogKey:
        return LogRecords(self.settings).key()

    def file(self, name: str) -> LogFile:
        return next(file for file in log_files(self.settings.log) if file.path.name == name)

    def copied(self, to: Path) -> Stored:
        """A copy, to be manipulated."""
        shutil.copytree(self.settings.home.parent, to)
        return Stored(settings_at(to), to / "heads.jsonl")


ONE, TWO, THREE = f"predictions-{DAY}-w01.db", f"predictions-{DAY}-w02.db", f"predictions-{NEXT}-w01.db"
Change = Callable[[Stored], None]


@dataclass(frozen=True)
class Manipulation:
    """One way.

    Attributes
    ----------
    who : could do it: whoever may write to this
    change : does it
    without_key, with_key, with_heads : kind of the finding that names it; "" where nothing does
    """

    name: str
    who: str
    change: Change
    without_key: str
    with_key: str
    with_heads: str


def settings_at(place: Path) -> Settings:
    return Settings(home=place / "home", model_name=NAME, log_key_file=place / "outside.key")


def make_store(place: Path) -> Stored:
    """A log of two days with labels, a bulk call, an erased person, a sealed day and published heads."""
    place.mkdir(parents=True)
    (place / "outside.key").write_text("5e" * 32, encoding="ascii")
    settings = settings_at(place)
    records = LogRecords(settings)
    anna = subject(settings, "anna")
    bert = subject(settings, "bert")
    with held(settings, DAY) as log:
        log.commit([row(n, subject=anna if n == 2 else bert if n == 5 else None) for n in range(4)], durable=False)
        log.commit([row(n) for n in range(4, 8)], durable=False)
        fill(settings, [row(n) for n in range(8, 12)])
    fill(settings, [bulk_row(settings, 20)])
    bulk_row(settings, 21)  # belongs to no row
    store = LabelStore(
        open_label_tables(settings, settings.model_name), PredictionLog(settings.log).known, key=records.key
    )
    for n in range(8):
        store.add([AnswerLabel(row(n).request_id, n % 2)], "http")
    erase_person(settings, [anna])
    shutil.copytree(settings.home, place / "older")
    assert seal_day(settings, LogDay(DAY, settings.log)).outcome == "sealed"
    with held(settings, NEXT) as log:
        for n in range(0, 12, 2):
            if n == 8:
                published = publish_heads(records, {log.file.path.name: (log.seq, log.head.hex())})
            log.commit([row(n, NEXT, subject=bert if n == 10 else None), row(n + 1, NEXT)], durable=False)
    lines = [json.dumps({"event": "log.head", **line}) for line in published]
    (place / "heads.jsonl").write_text("\n".join(["Starting server", *lines, '{"event": "ready"}']) + "\n")
    return Stored(settings, place / "heads.jsonl")


# --- tools of who manipulates -----------------------------------------------------------------------------------------


def chain_anew(connection: sqlite3.Connection, file: LogFile, key: LogKey | None, claimed: str = "") -> None:
    """Make digests and heads fit what the rows say, with that key, or with none."""
    connection.row_factory = sqlite3.Row
    lineages = {r["id"]: r["digest"] for r in connection.execute("SELECT id, digest FROM lineage")}
    head, digests = genesis_head(file, key), []
    genesis = head.hex()
    for found in connection.execute("SELECT * FROM entry ORDER BY seq").fetchall():
        stored = dict(found)
        digest = stored["digest"]
        if stored["answer"] != ERASED:
            digest = stored_digest(stored, lineages[stored["lineage"]])
        digests.append(digest)
        connection.execute("UPDATE entry SET digest = ? WHERE seq = ?", (digest, stored["seq"]))
        if stored["head"] is not None:
            head = next_head(head, digests, key)
            digests = []
            connection.execute("UPDATE entry SET head = ? WHERE seq = ?", (head, stored["seq"]))
    connection.execute("UPDATE fact SET value = ? WHERE name = 'genesis'", (genesis,))
    connection.execute("UPDATE fact SET value = ? WHERE name = 'key'", (claimed or ("" if key is None else key.id),))


def sql(name: str, *statements: str, chain: str = "") -> Change:
    """Change a database; ``chain`` says how the chain is made to fit: "plain", "forged", "true", or not at all."""

    def change(stored: Stored) -> None:
        file = stored.file(name)
        with tampering(file) as connection:
            for statement in statements:
                connection.execute(statement)
            if chain == "plain":
                chain_anew(connection, file, None)
            elif chain == "claimed":
                chain_anew(connection, file, None, claimed=stored.key.id)
            elif chain == "forged":
                chain_anew(connection, file, FORGED)
            elif chain == "true":
                chain_anew(connection, file, stored.key)

    return change


def add_rows(name: str, day: str, key: Callable[[Stored], LogKey | None]) -> Change:
    """Append a row with a chain of that key."""

    def change(stored: Stored) -> None:
        file = stored.file(name)
        with tampering(file) as connection:
            last, head = connection.execute("SELECT seq, head FROM entry ORDER BY seq DESC LIMIT 1").fetchone()
            made = row(500, day)
            digest = row_digest(made, bytes(16))
            lineage = connection.execute("SELECT id FROM lineage WHERE digest = ?", (made.lineage.digest,)).fetchone()[
                0
            ]
            connection.execute(
                "INSERT INTO entry(seq, kind, request_id, at_us, lineage, answer, input, salt, digest, head) "
                "VALUES(?,0,?,?,?,?,?,?,?,?)",
                (last + 1, made.request_id, made.at_us, lineage, made.answer, made.input, bytes(16), digest,
                 next_head(head, [digest], key(stored))),
            )  # fmt: skip

    return change


def new_file(day: str, key: str) -> Change:
    """Put a whole database into a day."""

    def change(stored: Stored) -> None:
        made = {"true": stored.key, "forged": FORGED, "none": None}[key]
        log = OpenLog.of_day(stored.settings.log.parent / "made", day, key=made)
        log.commit([row(600, day)], durable=False)
        log.close()
        to = LogFile(day, 7, stored.settings.log)
        shutil.copy(log.file.path, to.path)
        with tampering(to) as connection:
            chain_anew(connection, to, made)
        shutil.rmtree(stored.settings.log.parent / "made")

    return change


def path(relative: str, do: Callable[[Path], Any]) -> Change:
    """Do something with a file below the log's folder."""
    return lambda stored: do(next(iter(sorted(stored.settings.log.glob(relative)))))


def spoil(place: Path) -> None:
    raw = bytearray(place.read_bytes())
    raw[len(raw) // 2] ^= 1
    place.write_bytes(raw)


def journal(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Change:
    """Change the journal's entries."""

    def apply(stored: Stored) -> None:
        place = stored.settings.journal
        lines = [orjson.loads(line) for line in place.read_bytes().splitlines()]
        place.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in change(lines)))

    return apply


def entry(event: str, **facts: Any) -> dict[str, Any]:
    return {"at": "2026-01-07T00:00:00Z", "event": event, "by": "x", "model": NAME, **facts}


def drop(event: str) -> Change:
    return journal(lambda lines: [line for line in lines if line["event"] != event])


def edit(event: str, **facts: Any) -> Change:
    return journal(lambda lines: [{**line, **facts} if line["event"] == event else line for line in lines])


def append(*lines: Mapping[str, Any]) -> Change:
    return journal(lambda found: [*found, *map(dict, lines)])


def both(*changes: Change) -> Change:
    def change(stored: Stored) -> None:
        for each in changes:
            each(stored)

    return change


def labels(*statements: str, key: LogKey | None = None, true: bool = False) -> Change:
    """Change the labels; with a key, make their chain fit."""

    def change(stored: Stored) -> None:
        used = stored.key if true else key
        with closing(sqlite3.connect(stored.settings.labels, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)
            if used is None:
                return
            head = FIRST_HEAD
            rows = {found[0]: found for found in connection.execute(LABEL_TABLE.select)}
            for n, seq, salt, digest in connection.execute("SELECT n, label, salt, digest FROM label_chain").fetchall():
                digest = label_digest(salt, rows[seq]) if seq in rows else digest
                head = next_label_head(head, n, seq, digest, used)
                connection.execute("UPDATE label_chain SET digest = ?, head = ? WHERE n = ?", (digest, head, n))

    return change


def forged_request(stored: Stored, name: str = "11111111-1111-1111-1111-111111111111") -> Path:
    """A request to erase whoever the fifth row of day two is about."""
    place = stored.settings.log / "erasures" / f"{name}.json"
    place.parent.mkdir(exist_ok=True)
    bert = subject(stored.settings, "bert").hex()
    place.write_text(json.dumps({"at": "2026-01-07T00:00:00Z", "pseudonyms": [bert], "files": [THREE]}))
    return place


def erase_by_hand(name: str, seq: int) -> Change:
    return sql(
        name,
        "UPDATE entry SET answer = x'', salt = x'', client_request_id = NULL, subject = NULL, batch_id = NULL, "
        f"batch_index = NULL, input = NULL WHERE seq = {seq}",
    )


def with_mark(stored: Stored) -> None:
    """A request, and a mark that says that a row was erased because of it."""
    place = forged_request(stored)
    place.with_name(f"{place.stem}.done-{THREE}").write_text('{"rows": [5], "key": "", "mac": ""}')
    erase_by_hand(THREE, 5)(stored)


def signed(event: str, **facts: Any) -> Change:
    """A journal entry by whoever has the key."""
    return lambda stored: LogRecords(stored.settings).write(event, facts)


def older_copy(stored: Stored) -> None:
    """Day two as it was at its sixth row."""
    sql(THREE, "DELETE FROM entry WHERE seq > 6")(stored)


def put_back(stored: Stored) -> None:
    """The home as it was before day one was sealed."""
    shutil.rmtree(stored.settings.home)
    shutil.copytree(stored.settings.home.parent / "older", stored.settings.home)


def heads_line(**facts: Any) -> Change:
    def change(stored: Stored) -> None:
        text = stored.heads.read_text().splitlines()
        line = {**json.loads(text[1]), **facts}
        stored.heads.write_text("\n".join([*text, json.dumps(line)]) + "\n")

    return change


NOTE = "UPDATE entry SET input = x'5b34302c2265617374222c2278225d' WHERE seq = {}"
DELETE_DAY = both(*(path(pattern, Path.unlink) for pattern in (ONE, TWO, "sealed/*.parquet")))
M = Manipulation
MANIPULATIONS = [
    # --- rows of a day that is not sealed
    M("a row's input is changed", FILES, sql(THREE, NOTE.format(3)), "row", "row", "row"),
    M("a row's answer is changed", FILES, sql(THREE, "UPDATE entry SET answer = CAST('{}' AS BLOB) WHERE seq = 3"), "row", "row", "row"),
    M("a row's time is changed", FILES, sql(THREE, "UPDATE entry SET at_us = at_us + 1 WHERE seq = 3"), "row", "row", "row"),
    M("a row's id is changed", FILES, sql(THREE, "UPDATE entry SET request_id = randomblob(16) WHERE seq = 3"), "row", "row", "row"),
    M("a row's subject is changed", FILES, sql(THREE, "UPDATE entry SET subject = randomblob(32) WHERE seq = 3"), "row", "row", "row"),
    M("a row is given another lineage", FILES, sql(THREE, "UPDATE entry SET lineage = (SELECT max(id) FROM lineage) + 1 - lineage WHERE seq = 3"), "row", "row", "row"),
    M("facts of a lineage are changed", FILES, sql(THREE, "UPDATE lineage SET facts = CAST('{}' AS BLOB)"), "row", "row", "row"),
    M("a row's salt is changed", FILES, sql(THREE, "UPDATE entry SET salt = randomblob(16) WHERE seq = 3"), "row", "row", "row"),
    M("a digest is changed", FILES, sql(THREE, "UPDATE entry SET digest = randomblob(32) WHERE seq = 3"), "row", "row", "row"),
    M("a head is changed", FILES, sql(THREE, "UPDATE entry SET head = randomblob(32) WHERE seq = 4"), "", "chain", "chain"),
    M("a head is removed", FILES, sql(THREE, "UPDATE entry SET head = NULL WHERE seq = 4"), "", "chain", "chain"),
    M("a row is removed", FILES, sql(THREE, "DELETE FROM entry WHERE seq = 3"), "row", "row", "row"),
    M("a row is removed, and the others are numbered anew", FILES, sql(THREE, "DELETE FROM entry WHERE seq = 3", "UPDATE entry SET seq = -seq WHERE seq > 3", "UPDATE entry SET seq = -seq - 1 WHERE seq < 0"), "", "chain", "chain"),
    M("two rows are swapped", FILES, sql(THREE, "UPDATE entry SET seq = -1 WHERE seq = 3", "UPDATE entry SET seq = 3 WHERE seq = 1", "UPDATE entry SET seq = 1 WHERE seq = -1"), "", "chain", "chain"),
    M("a row is changed, its digest with it", FILES, sql(THREE, NOTE.format(3), chain="claimed"), "", "chain", "chain"),
    M("a row is changed, and everything is chained anew without a key", FILES, sql(THREE, NOTE.format(3), chain="plain"), "unkeyed", "unkeyed", "unkeyed"),
    M("nothing is changed but the key, which is taken away", FILES, sql(THREE, chain="plain"), "unkeyed", "unkeyed", "unkeyed"),
    M("a row is changed, and everything is chained anew with a key of one's own", FILES, sql(THREE, NOTE.format(3), chain="forged"), "", "key", "key"),
    M("the file is said to have no key", FILES, sql(THREE, "UPDATE fact SET value = '' WHERE name = 'key'"), "chain", "chain", "chain"),
    M("a row is added without the key", FILES, add_rows(THREE, NEXT, lambda _: None), "", "chain", "chain"),
    M("a row is added with a key of one's own", FILES, add_rows(THREE, NEXT, lambda _: FORGED), "", "chain", "chain"),
    M("a file without a key is added", FILES, new_file(NEXT, "none"), "unkeyed", "unkeyed", "unkeyed"),
    M("a file with a key of one's own is added", FILES, new_file(NEXT, "forged"), "", "key", "key"),
    M("a file is copied under another name", FILES, path(THREE, lambda p: shutil.copy(p, p.with_name(f"predictions-{NEXT}-w05.db"))), "", "chain", "chain"),
    M("the index of ids is broken", FILES, sql(THREE, "DROP INDEX entry_client", "CREATE INDEX entry_client ON entry(client_request_id) WHERE client_request_id IS NULL", "PRAGMA writable_schema = ON", "UPDATE sqlite_master SET sql = replace(sql, 'IS NULL', 'IS NOT NULL') WHERE name = 'entry_client'"), "file", "file", "file"),
    M("a row is erased by hand", FILES, erase_by_hand(THREE, 3), "erasure", "erasure", "erasure"),
    M("a byte of a row is changed on the disk", FILES, path(THREE, lambda p: p.write_bytes(p.read_bytes().replace(b"note 3", b"note 4"))), "row", "row", "row"),
    # --- what only a published head shows
    M("the end is cut off, before the published head", FILES, older_copy, "", "", "heads"),
    M("the end is cut off, after the published head", FILES, sql(THREE, "DELETE FROM entry WHERE seq > 10"), "", "", ""),
    M("a file that was not sealed is removed", FILES, path(THREE, Path.unlink), "", "", "heads"),
    M("rows are changed before the published head, chained anew with the key", KEY, sql(THREE, NOTE.format(3), chain="true"), "", "", "heads"),
    M("rows are changed after the published head, chained anew with the key", KEY, sql(THREE, NOTE.format(11), chain="true"), "", "", ""),
    M("a row is added with the key", KEY, add_rows(THREE, NEXT, lambda stored: stored.key), "", "", ""),
    M("a file with the key is added", KEY, new_file(NEXT, "true"), "", "", ""),
    # --- a sealed day
    M("a sealed row is changed", FILES, sql(ONE, NOTE.format(5)), "row", "row", "row"),
    M("a sealed row is changed, chained anew without a key", FILES, sql(ONE, NOTE.format(5), chain="plain"), "chain", "chain", "chain"),
    M("a sealed row is changed, chained anew with the key", KEY, sql(ONE, NOTE.format(5), chain="true"), "chain", "chain", "chain"),
    M("a row is added to a sealed day without the key", FILES, add_rows(ONE, DAY, lambda _: None), "sealed-day", "chain", "chain"),
    M("a row is added to a sealed day with the key", KEY, add_rows(ONE, DAY, lambda stored: stored.key), "sealed-day", "sealed-day", "sealed-day"),
    M("a file without a key is added to a sealed day", FILES, new_file(DAY, "none"), "sealed-day", "sealed-day", "sealed-day"),
    M("a file with the key is added to a sealed day", KEY, new_file(DAY, "true"), "sealed-day", "sealed-day", "sealed-day"),
    M("the end of a sealed file is cut off", FILES, sql(ONE, "DELETE FROM entry WHERE seq > 4"), "row", "row", "row"),
    M("a sealed file is removed", FILES, path(ONE, Path.unlink), "missing", "missing", "missing"),
    M("a sealed day is removed", FILES, DELETE_DAY, "missing", "missing", "missing"),
    M("a sealed row is erased by hand", FILES, erase_by_hand(ONE, 5), "erasure", "erasure", "erasure"),
    M("the Parquet copy is changed", FILES, path("sealed/*.parquet", spoil), "sealed-copy", "sealed-copy", "sealed-copy"),
    M("the Parquet copy is removed", FILES, path("sealed/*.parquet", Path.unlink), "sealed-copy", "sealed-copy", "sealed-copy"),
    M("a Parquet copy of a day that is not sealed is added", FILES, path("sealed/*.parquet", lambda p: shutil.copy(p, p.with_name(f"predictions-{NEXT}.parquet"))), "", "", ""),
    M("the file of a bulk call is changed", FILES, lambda stored: spoil(bulk_of(stored)), "row", "row", "row"),
    M("the file of a bulk call is removed", FILES, lambda stored: bulk_of(stored).unlink(), "row", "row", "row"),
    M("a file of a bulk call is added to a sealed day", FILES, lambda stored: shutil.copy(bulk_of(stored), bulk_of(stored).with_name("more.arrow")) and None, "sealed-day", "sealed-day", "sealed-day"),
    M("a file of a bulk call that no row names is removed from a sealed day", FILES, lambda stored: orphan_of(stored).unlink(), "sealed-day", "sealed-day", "sealed-day"),
    # --- erasures
    M("a request to erase is forged", FILES, lambda stored: forged_request(stored) and None, "erasure", "erasure", "erasure"),
    M("a request to erase is forged, with a row erased and said to be", FILES, with_mark, "erasure", "erasure", "erasure"),
    M("a row is erased by hand, and an entry of the journal without a signature says so", HOME, both(erase_by_hand(THREE, 3), append(entry("log.erased", rows={THREE: [3]}))), "erasure", "erasure", "erasure"),
    M("a row is erased by hand, and a forged entry of the journal says so", HOME, both(erase_by_hand(THREE, 3), append(entry("log.erased", rows={THREE: [3]}, n=99, before="", key=FORGED.id, mac="00" * 32))), "journal", "journal", "journal"),
    M("a row is erased by hand, and a signed entry of the journal says so", KEY, both(erase_by_hand(THREE, 3), signed("log.erased", rows={THREE: [3]})), "", "", ""),
    M("a signed erasure is made to name more rows", HOME, both(erase_by_hand(THREE, 3), edit("log.erased", rows={ONE: [3], THREE: [3]})), "", "journal", "journal"),
    # --- the journal
    M("the entry of a sealed day is removed from the journal", HOME, drop("log.sealed"), "", "", "heads"),
    M("the entry of an erasure is removed from the journal", HOME, drop("log.erased"), "erasure", "journal", "journal"),
    M("all entries on the log are removed from the journal", HOME, journal(lambda _: []), "erasure", "erasure", "erasure"),
    M("the journal is removed", HOME, lambda stored: stored.settings.journal.unlink(), "erasure", "erasure", "erasure"),
    M("the rows of a sealed day's entry are changed", HOME, edit("log.sealed", files=[]), "sealed-day", "journal", "journal"),
    M("the time and the name in an entry are changed", HOME, edit("log.sealed", by="somebody else", at="2026-01-01T00:00:00Z"), "", "journal", "journal"),
    M("an entry of the journal is there twice", HOME, journal(lambda lines: [*lines, lines[0]]), "journal", "journal", "journal"),
    M("entries of the journal change places", HOME, journal(lambda lines: lines[::-1]), "journal", "journal", "journal"),
    M("an entry without a signature says that a missing file was pruned", HOME, both(path(TWO, Path.unlink), append(entry("log.pruned", day=DAY, file=TWO, rows=5, head="00"))), "missing", "missing", "missing"),
    M("an entry with a forged signature adopts a file without a key", HOME, both(new_file(NEXT, "none"), append(entry("log.adopted", files={}, labels=0, unsigned=0, sha256="", n=99, before="", key=FORGED.id, mac="00" * 32))), "journal", "journal", "journal"),
    M("a signed entry adopts a file without a key", KEY, both(new_file(NEXT, "none"), lambda stored: LogRecords(stored.settings).adopt() and None), "", "", ""),
    # --- labels
    M("a label is changed", HOME, labels("UPDATE label SET label = '7' WHERE seq = 2"), "labels", "labels", "labels"),
    M("a label is changed, its chain made with a key of one's own", HOME, labels("UPDATE label SET label = '7' WHERE seq = 2", key=FORGED), "", "labels", "labels"),
    M("a label is changed, its chain made with the key, before the published head", KEY, labels("UPDATE label SET label = '7' WHERE seq = 2", true=True), "", "", "heads"),
    M("a label is removed", HOME, labels("DELETE FROM label WHERE seq = 2"), "labels", "labels", "labels"),
    M("a label is removed, and said to be erased", HOME, labels("DELETE FROM label WHERE seq = 2", "UPDATE label_chain SET salt = x'' WHERE label = 2"), "labels", "labels", "labels"),
    M("a label is removed from the chain as well", HOME, labels("DELETE FROM label WHERE seq = 2", "DELETE FROM label_chain WHERE label = 2"), "labels", "labels", "labels"),
    M("the last label is removed from the chain as well", HOME, labels("DELETE FROM label WHERE seq = 8", "DELETE FROM label_chain WHERE label = 8"), "", "", "heads"),
    M("two labels change places", HOME, labels("UPDATE label SET seq = -1 WHERE seq = 2", "UPDATE label SET seq = 2 WHERE seq = 4", "UPDATE label SET seq = 4 WHERE seq = -1"), "labels", "labels", "labels"),
    M("a label is added", HOME, labels("INSERT INTO label(request_id, label, observed_at_us, received_at_us, source, outcome) SELECT request_id, '1', observed_at_us, received_at_us, source, outcome FROM label WHERE seq = 2"), "labels", "labels", "labels"),
    M("the chain of labels is removed", HOME, labels("DELETE FROM label_chain"), "", "labels", "labels"),
    M("all labels and their chain are removed", HOME, labels("DELETE FROM label", "DELETE FROM label_chain"), "", "", "heads"),
    M("the file of labels is removed", HOME, lambda stored: stored.settings.labels.unlink(), "", "", "heads"),
    # --- published heads and the key
    M("a published head is changed where lines are collected", "the collected lines", heads_line(head="00" * 32), "", "", "heads"),
    M("a head is made up where lines are collected", "the collected lines", heads_line(seq=6, mac="00" * 32), "", "", "heads"),
    M("another key is put in the key's place", KEY, lambda stored: stored.settings.log_key.write_text("7f" * 32) and None, "", "key", "key"),
    M("the whole home is put back to an older state", HOME, put_back, "", "", "heads"),
]  # fmt: skip


def bulk_of(stored: Stored) -> Path:
    """The file of the bulk call that a row names."""
    with tampering(stored.file(ONE) if has_bulk(stored.file(ONE)) else stored.file(TWO)) as connection:
        (answer,) = connection.execute("SELECT answer FROM entry WHERE kind = 1").fetchone()
    return stored.settings.log / str(orjson.loads(answer)["segment"])


def orphan_of(stored: Stored) -> Path:
    (found,) = (p for p in (stored.settings.log / "bulk" / DAY).glob("*.arrow") if p != bulk_of(stored))
    return found


def has_bulk(file: LogFile) -> bool:
    with tampering(file) as connection:
        return connection.execute("SELECT 1 FROM entry WHERE kind = 1").fetchone() is not None


def table() -> str:
    """The table of docs/log.md."""
    lines = ["| manipulation | by who may write to | `--without-key` | `verify` | `--heads` |", "|---|---|---|---|---|"]
    for each in MANIPULATIONS:
        kinds = (f"`{kind}`" if kind else "no" for kind in (each.without_key, each.with_key, each.with_heads))
        lines.append(f"| {each.name} | {each.who} | {' | '.join(kinds)} |")
    return "\n".join(lines)
