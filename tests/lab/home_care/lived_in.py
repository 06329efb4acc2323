"""A home in a folder in which something of every kind lies, and a reader that shares nothing with what copies homes."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml_core.base.settings import Settings
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.log_care.log_days import LogDay
from ml_core.lab.log_care.sealing import seal_day
from ml_core.lab.watching.ledger import Ledger, Waiting, open_ledger_tables
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.object_stores import FolderObjects, open_objects
from ml_core.serve.http.api_keys import add_key
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelStore
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL
from ml_core.serve.rollout.rollout_store import RolloutStore
from tests import toy_models
from tests.lab.watching.answered import matured_row
from tests.serve.log.filled import DAY, NEXT, bulk_row, fill, row, subject

MODEL = toy_models.NAME
VERSION = "v3-{}"
NEEDLE = "needle of anna"
SEEN_AT = datetime(2026, 1, 8, tzinfo=UTC)


def lived_in(home: Path, rows: int = 24) -> Settings:
    """Answers of two days (one sealed), a bulk call, labels, a ledger, decisions, a model, a feature table, API keys."""
    settings = Settings(home=home, model_name=MODEL, api_keys_file=home / "api_keys.json")
    place = open_home(settings)
    place.name()
    tag = put_model(settings)
    RolloutStore(settings).begin(tag, "", toy_models.toy_model().model_hash, why="first")
    place.documents.write("gates/aa.json", b'{"not": "read"}')
    add_key(home / "api_keys.json", "ward-7", ["predict"])
    anna = subject(settings, "anna")
    of_anna = {"subject": anna, "note": NEEDLE}
    fill(settings, [*(row(n, **(of_anna if n % 5 == 0 else {})) for n in range(rows)), bulk_row(settings, rows)])
    fill(settings, [row(n, NEXT) for n in range(rows)], NEXT)
    seal_day(settings, LogDay(DAY, settings.log))
    answers = [row(n).request_id for n in range(rows)]
    labels = LabelStore(open_label_tables(settings, MODEL), lambda ids: set(ids), key=LogRecords(settings).key)
    labels.add([AnswerLabel(answer, n % 2, SEEN_AT) for n, answer in enumerate(answers)], "test")
    with Ledger.changing(open_ledger_tables(settings, MODEL)) as ledger:
        ledger.remember("labels_seen", rows)
        ledger.wait_for([Waiting(answer, 5, 1) for answer in answers[:3]])
        ledger.add_matured([matured_row(n) for n in range(3)])
    FeatureStore(settings.feature_store, MODEL).overwrite("v1", _frame())
    FolderObjects(settings.feature_store).put("columns/ab.json", b"[]")
    for n in range(5):
        place.journal.append("test.decided", {"n": n, "share": 0.1 + n})
    return settings


def put_model(settings: Settings) -> str:
    """Put the toy model into the home's folder; its tag."""
    version = VERSION.format(toy_models.toy_model().model_hash[:8])
    folder = settings.models / MODEL.lower() / version
    folder.mkdir(parents=True)
    toy_models.copied_bundle(folder / BUNDLE_IN_BENTO_MODEL)
    return f"{MODEL.lower()}:{version}"


def state_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Change time and content of every file below a folder, and the change time of every folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        found[path.relative_to(folder).as_posix()] = (path.stat().st_mtime_ns, content)
    return found


# --- an independent reader --------------------------------------------------------------------------------------------


def said_by_folder(home: Path) -> dict[str, Any]:
    """Everything that a folder remembers, in plain values."""
    labels, ledger = home / "labels" / f"{MODEL}.db", home / "monitor" / f"{MODEL}.ledger.db"
    log = {path.name: _file(path) for path in sorted((home / "log" / MODEL).glob("predictions-*.db"))}
    return {
        "journal": [line for line in (home / "journal.jsonl").read_text().splitlines() if '"home.copied"' not in line],
        "rollout": json.loads((home / "rollout" / f"{MODEL}.json").read_text()),
        "gate": (home / "gates" / "aa.json").read_bytes(),
        "labels": _sqlite(labels, "label", "seq"),
        "chain": _sqlite(labels, "label_chain", "n"),
        "waiting": _sqlite(ledger, "waiting", "request_id"),
        "matured": _sqlite(ledger, "matured", "n"),
        "log": log,
        "bulk": _files(home / "log" / MODEL / "bulk"),
        "sealed": _files(home / "log" / MODEL / "sealed"),
        "table": _files(home / "features" / "models", without="cache"),
        "columns": _files(home / "features" / "columns"),
    }


def said_by_database(url: str, objects: str) -> dict[str, Any]:
    """The same of a database and its objects."""
    import psycopg

    from ml_core.serve.home.postgres import schema_of

    with psycopg.connect(url) as connection:
        documents = {n: bytes(c) for n, c in connection.execute("SELECT name, content FROM surety.document")}
        journal = [e for (e,) in connection.execute("SELECT entry FROM surety.journal ORDER BY n")]
        connection.execute("SELECT set_config('search_path', %s, false)", (f'"{schema_of(MODEL)}"',))

        def table(name: str, order: str) -> list[tuple[Any, ...]]:
            return [tuple(r) for r in connection.execute(f"SELECT * FROM {name} ORDER BY {order}")]

        log = {}
        for number, name, key, genesis in connection.execute("SELECT id, name, key, genesis FROM log_file").fetchall():
            columns = [
                c.name
                for c in connection.execute("SELECT * FROM log_entry LIMIT 0").description or ()
                if c.name not in {"day", "file", "lineage"}
            ]
            kept = ", ".join(f'e."{c}"' for c in sorted(columns))
            query = f"SELECT l.digest, {kept} FROM log_entry e JOIN log_lineage l ON l.id = e.lineage "
            rows = connection.execute(f"{query} WHERE file = %s ORDER BY seq", (number,)).fetchall()
            log[name] = ({"key": key, "genesis": genesis}, [tuple(r) for r in rows])
        found = {
            "labels": table("label", "seq"),
            "chain": table("label_chain", "n"),
            "waiting": table("waiting", "request_id"),
            "matured": table("matured", "n"),
            "log": dict(sorted(log.items())),
        }
    store = open_objects(objects)

    def below(prefix: str) -> dict[str, bytes]:
        return {n.removeprefix(f"{prefix}/"): store.get(n, 1 << 30) or b"" for n in store.names(prefix)}

    return {
        "journal": [entry for entry in journal if '"home.copied"' not in entry],
        "rollout": json.loads(documents[f"rollout/{MODEL}.json"]),
        "gate": documents["gates/aa.json"],
        **found,
        "bulk": below(f"log/{MODEL}/bulk"),
        "sealed": below(f"log/{MODEL}/sealed"),
        "table": below("features/models"),
        "columns": below("columns"),
    }


def _sqlite(path: Path, table: str, order: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall()


def _file(path: Path) -> tuple[dict[str, str], list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        facts = dict(connection.execute("SELECT name, value FROM fact"))
        columns = [r[1] for r in connection.execute("PRAGMA table_info(entry)") if r[1] != "lineage"]
        kept = ", ".join(f'e."{c}"' for c in sorted(columns))
        query = f"SELECT l.digest, {kept} FROM entry e JOIN lineage l ON l.id = e.lineage ORDER BY seq"
        return {name: facts[name] for name in ("key", "genesis")}, connection.execute(query).fetchall()


def _files(folder: Path, without: str = "-") -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file() and without not in p.parts and p.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _frame() -> Any:
    from ml_core.lab.data.cohort import make_cohort

    return make_cohort(60, seed=3)[0]


def gone(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
