"""A home that is copied is the same home elsewhere: by an independent reader, and in both directions."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ml_core.base.errors import ConfigError
from ml_core.base.settings import Settings
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.home_care.copying import copy_home, may_copy
from ml_core.lab.home_care.migration import migrate_home
from ml_core.lab.log_care.erasure import erase_person
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelStore
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.rollout.worker_reports import WorkerReport, write_worker_report
from tests.lab.home_care.lived_in import (
    MODEL,
    NEEDLE,
    SEEN_AT,
    said_by_database,
    said_by_folder,
    state_of,
)
from tests.postgres import Server
from tests.serve.log.filled import DAY, NEXT, fill, held, row, subject


def folder_at(place: Path, like: Settings) -> Settings:
    keys = {"log_key_file": like.log_key, "subject_key_file": like.subject_key}
    return Settings(home=place, model_name=MODEL, **keys)


def test_a_folder_is_copied_into_a_database_and_stays_as_it_is(kept_home: Settings, target: Settings) -> None:
    before = state_of(kept_home.home)
    done = copy_home(kept_home, target)
    assert state_of(kept_home.home) == before
    assert (done.is_final, done.is_sound, done.missing) == (True, True, ())
    assert said_by_database(target.database, target.objects) == said_by_folder(kept_home.home)
    assert open_home(target).name() == open_home(kept_home).name()


def test_copied_twice_it_is_there_once(kept_home: Settings, target: Settings) -> None:
    assert copy_home(kept_home, target).changed
    before = said_by_database(target.database, target.objects), open_home(target).journal.texts()
    again = copy_home(kept_home, target)
    assert (again.changed, again.is_final, again.is_sound) == (0, True, True)
    assert (said_by_database(target.database, target.objects), open_home(target).journal.texts()) == before


def test_the_way_back_gives_the_folder_again(kept_home: Settings, target: Settings, tmp_path: Path) -> None:
    copy_home(kept_home, target)
    back = folder_at(tmp_path / "back", kept_home)
    before = said_by_database(target.database, target.objects)
    done = copy_home(target, back)
    assert (done.is_final, done.is_sound) == (True, True)
    assert said_by_database(target.database, target.objects) == before
    assert said_by_folder(back.home) == said_by_folder(kept_home.home)
    assert (back.home / "keys.json").read_bytes() == (kept_home.home / "api_keys.json").read_bytes()
    assert copy_home(target, back).changed == 0


def test_secrets_are_named_and_never_copied(kept_home: Settings, target: Settings, tmp_path: Path) -> None:
    done = copy_home(kept_home, target)
    assert done.keys["SURETY_LOG_KEY_FILE"] == str(kept_home.log_key)
    assert done.keys["SURETY_SUBJECT_KEY_FILE"] == str(kept_home.subject_key)
    secrets = [key.read_text().strip() for key in (kept_home.log_key, kept_home.subject_key)]
    stored = repr(said_by_database(target.database, target.objects))
    copy_home(target, folder_at(tmp_path / "back", kept_home))
    found = [path.read_bytes() for place in ("back", "objects") for path in (tmp_path / place).rglob("*.*")
             if path.is_file()]  # fmt: skip
    assert not any(secret in stored or any(secret.encode() in raw for raw in found) for secret in secrets)


def test_what_came_meanwhile_is_copied_when_it_is_asked_for_again(own_home: Settings, target: Settings) -> None:
    with held(own_home, NEXT) as log:
        log.commit([row(n, NEXT) for n in range(100, 103)], durable=False)
        with pytest.raises(ConfigError, match=r"is being written to \(a worker writes .*--live"):
            copy_home(own_home, target)
        done = copy_home(own_home, target, live=True)
        assert not done.is_final
        log.commit([row(n, NEXT) for n in range(103, 110)], durable=False)
    more_labels(own_home)
    erase_person(own_home, [subject(own_home, "anna")])
    before = state_of(own_home.home)
    done = copy_home(own_home, target)
    assert state_of(own_home.home) == before
    assert (done.is_final, done.is_sound) == (True, True)
    assert said_by_database(target.database, target.objects) == said_by_folder(own_home.home)


def test_what_was_erased_meanwhile_leaves_no_copy_in_the_target(
    own_home: Settings, target: Settings, database_server: Server
) -> None:
    label_store(own_home).add([AnswerLabel(row(0).request_id, 1, SEEN_AT)], "who saw anna")
    copy_home(own_home, target)
    for needle in (NEEDLE, "who saw anna"):
        assert needle.encode() in database_server.stored(target.database)
    erase_person(own_home, [subject(own_home, "anna")])
    assert copy_home(own_home, target).is_sound
    for needle in (NEEDLE, "who saw anna"):
        assert needle.encode() not in database_server.stored(target.database)


def test_a_day_that_was_sealed_stays_sealed(kept_home: Settings, target: Settings) -> None:
    import psycopg

    from ml_core.serve.home.postgres import schema_of

    copy_home(kept_home, target)
    with psycopg.connect(target.database) as connection:
        days = connection.execute(f'SELECT day::text, is_sealed FROM "{schema_of(MODEL)}".log_day').fetchall()
    assert days == [(DAY, True)]


def test_tables_of_features_are_read_where_they_were_copied_to(kept_home: Settings, target: Settings) -> None:
    copy_home(kept_home, target)
    there, here = FeatureStore.of(target, MODEL), FeatureStore.of(kept_home, MODEL)
    assert there.read("v1").equals(here.read("v1"))


def test_labels_of_another_model_come_along(own_home: Settings, target: Settings) -> None:
    other = own_home.model_copy(update={"model_name": "other_risk"})
    tables = open_label_tables(other, "other_risk")
    LabelStore(tables, lambda ids: set(ids)).add([AnswerLabel(row(1).request_id, "yes", SEEN_AT)], "test")
    done = copy_home(own_home, target)
    assert done.of_models.keys() == {MODEL, "other_risk"}
    with open_label_tables(target, "other_risk").reading() as labels:
        assert labels is not None
        assert labels.execute("SELECT label FROM label").fetchall() == [('"yes"',)]


def test_tables_that_were_made_before_are_no_hindrance(kept_home: Settings, target: Settings) -> None:
    assert migrate_home(target)["changed"]
    assert copy_home(kept_home, target).is_final


def test_a_number_of_a_removed_label_is_not_given_again(own_home: Settings, target: Settings, tmp_path: Path) -> None:
    last = row(999).request_id
    label_store(own_home).add([AnswerLabel(last, 1, SEEN_AT)], "test")
    label_store(own_home).erase([last])
    highest = max(n for n, *_ in said_by_folder(own_home.home)["chain"])
    copy_home(own_home, target)
    copy_home(target, back := folder_at(tmp_path / "back", own_home))
    for place in (target, back):
        label_store(place).add([AnswerLabel(row(5_000).request_id, 1, SEEN_AT)], "test")
    new = said_by_folder(back.home)["labels"][-1][0]
    assert new > highest
    assert said_by_database(target.database, target.objects)["labels"][-1][0] == new


def test_what_a_killed_worker_left_beside_its_file_is_copied_too(own_home: Settings, target: Settings) -> None:
    with held(own_home, NEXT) as log:
        log.commit([row(n, NEXT) for n in range(200, 205)], durable=False)
        for ending in ("", "-wal"):
            shutil.copy(f"{log.file.path}{ending}", f"{own_home.home}/kept{ending}")
    for ending in ("", "-wal"):
        shutil.move(f"{own_home.home}/kept{ending}", f"{log.file.path}{ending}")
    before = state_of(own_home.home)
    done = copy_home(own_home, target)
    assert state_of(own_home.home) == before
    assert (done.is_final, done.is_sound) == (True, True)
    rows = said_by_database(target.database, target.objects)["log"][log.file.path.name][1]
    assert rows == said_by_folder(own_home.home)["log"][log.file.path.name][1]
    assert len(rows) == 17


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_target_that_holds_something_else_is_refused(kept_home: Settings, target: Settings, tmp_path: Path) -> None:
    open_home(target).journal.append("test.other", {})
    with pytest.raises(ConfigError, match="holds something already"):
        copy_home(kept_home, target)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds something already \(mine.txt\)"):
        copy_home(target, folder_at(tmp_path / "there", kept_home))


def test_objects_of_another_home_are_refused(kept_home: Settings, target: Settings) -> None:
    (Path(target.objects) / "models" / "ab").mkdir(parents=True)
    (Path(target.objects) / "models" / "ab" / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="--objects: holds something already"):
        copy_home(kept_home, target)


def test_a_copy_of_another_home_is_refused(kept_home: Settings, target: Settings, tmp_path: Path) -> None:
    copy_home(kept_home, target)
    other = Settings(home=tmp_path / "other", model_name=MODEL)
    open_home(other).name()
    with pytest.raises(ConfigError, match="holds a copy of another home"):
        copy_home(other, target)


def test_a_target_that_was_used_since_is_refused(kept_home: Settings, target: Settings) -> None:
    copy_home(kept_home, target)
    open_home(target).journal.append("test.decided", {})
    with pytest.raises(ConfigError, match="was used since"):
        copy_home(kept_home, target)


def label_there(target: Settings) -> None:
    label_store(target).add([AnswerLabel(row(7_000).request_id, 1, SEEN_AT)], "test")


def row_there(target: Settings) -> None:
    from ml_core.serve.home.postgres import schema_of
    from ml_core.serve.log.shipped_spools import ShippedSpools

    apart = target.model_copy(update={"home": target.home / "spool"})
    file = fill(apart, [row(1, "2026-02-02")], "2026-02-02")
    database = open_home(target).database
    assert database is not None
    spools = ShippedSpools(database, schema_of(MODEL))
    spools.take_file(file)
    spools.close()


def feature_there(target: Settings) -> None:
    table = FeatureStore.of(target, MODEL)
    table.append("v1", FeatureStore.of(target, MODEL).read("v1").head(3))


@pytest.mark.parametrize("use", [label_there, row_there, feature_there])
def test_what_came_to_the_target_since_is_never_overwritten(
    kept_home: Settings, target: Settings, use: Callable[[Settings], None]
) -> None:
    copy_home(kept_home, target)
    use(target)
    before = said_by_database(target.database, target.objects)
    with pytest.raises(ConfigError, match="was used since it was copied to"):
        copy_home(kept_home, target)
    assert said_by_database(target.database, target.objects) == before


def test_a_target_that_serves_is_refused(kept_home: Settings, target: Settings) -> None:
    copy_home(kept_home, target)
    facts = {"role": "api", "index": 1, "pid": 7, "started_at": "", "generation": 1, "stage": 1}
    report = WorkerReport(server="s", machine="ward-1", beat_s=time.monotonic(), **facts)
    write_worker_report(open_home(target).heartbeats(MODEL), report, last=True)
    with pytest.raises(ConfigError, match=r"is in use \(process 7 serves"):
        copy_home(kept_home, target)


def test_a_database_without_room_for_models_is_refused(kept_home: Settings, target: Settings) -> None:
    with pytest.raises(ConfigError, match="--objects: must name an object store"):
        copy_home(kept_home, target.model_copy(update={"objects": ""}))


def test_a_home_of_the_same_engine_is_refused(kept_home: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use cp -a"):
        copy_home(kept_home, folder_at(tmp_path / "back", kept_home))


def test_a_model_that_is_live_and_damaged_stops_the_copy(own_home: Settings, target: Settings) -> None:
    (model,) = own_home.models.glob("*/*")
    next(model.rglob("model.onnx")).write_bytes(b"another")
    with pytest.raises(Exception, match=r"model\.onnx"):
        copy_home(own_home, target)
    assert open_home(target).documents.read(f"rollout/{MODEL}.json") is None


def test_a_damaged_log_is_copied_as_it_is_and_told(own_home: Settings, target: Settings) -> None:
    import sqlite3

    file = max(own_home.log.glob("predictions-*.db"))
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE entry SET at_us = at_us + 1 WHERE seq = 3")
    done = copy_home(own_home, target)
    assert not done.is_sound
    assert "row 3" in done.of_models[MODEL].problems[0]


def test_asked_only_what_there_is_nothing_is_made(kept_home: Settings, target: Settings) -> None:
    import psycopg

    told = may_copy(kept_home, target)
    assert (told["models"], told["journal_entries"]) == ([MODEL], len(open_home(kept_home).journal.texts()))
    with psycopg.connect(target.database) as connection:
        assert connection.execute("SELECT to_regnamespace('surety')").fetchone() == (None,)


def label_store(settings: Settings) -> LabelStore:
    return LabelStore(open_label_tables(settings, MODEL), lambda ids: set(ids), key=LogRecords(settings).key)


def more_labels(settings: Settings) -> None:
    later = [AnswerLabel(row(n, NEXT).request_id, n % 2, SEEN_AT + timedelta(days=1)) for n in range(8)]
    label_store(settings).add(later, "test")
    fill(settings, [row(n, "2026-01-09") for n in range(4)], "2026-01-09")
