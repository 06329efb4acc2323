"""Tables of every kind and model are brought up to date once, beside the release before, or refused by name."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ml_core.base.errors import HomeTooNew, HomeTooOld
from ml_core.base.settings import Settings
from ml_core.lab.home_care.migration import migrate_home
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.label_tables import LABEL_FORMAT, open_label_tables
from ml_core.serve.rollout.worker_reports import WorkerReport, write_worker_report
from tests.lab.home_care.lived_in import MODEL

OTHER = "another_risk"
KINDS = {"documents", "journal", "presence", "label store", "monitor's ledger", "prediction log"}


def versions(told: Mapping[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    return {(each["place"], each["kind"]): (each["before"], each["after"]) for each in told["tables"]}


def make_old(settings: Settings, model: str) -> None:
    """Labels as a release before the chain had them, with a row."""
    from ml_core.serve.home.postgres import DatabaseFormat, schema_of
    from ml_core.serve.home.postgres_tables import database_format

    first = DatabaseFormat(LABEL_FORMAT.kind, {1: database_format(LABEL_FORMAT).steps[1]})
    database = open_home(settings).database
    assert database is not None
    database.migrate(first, schema_of(model))
    write_as_before(settings, model)


def write_as_before(settings: Settings, model: str) -> None:
    """What the release before does while it runs on."""
    from ml_core.serve.home.postgres import schema_of

    database = open_home(settings).database
    assert database is not None
    with database.transaction(schema_of(model)) as connection:
        connection.execute(
            "INSERT INTO label(request_id, label, observed_at_us, received_at_us, source, outcome) "
            "VALUES(%s, '1', 1, 1, 'test', 'accepted')",
            (b"r" * 16,),
        )


def test_an_empty_database_gets_every_kind_and_then_nothing_more(target: Settings) -> None:
    told = migrate_home(target)
    assert {each["kind"] for each in told["tables"]} == KINDS
    assert all(before == 0 < after for before, after in versions(told).values())
    assert told["changed"] == len(KINDS)
    again = migrate_home(target)
    assert (again["changed"], versions(again)) == (0, {k: (n, n) for k, (_, n) in versions(told).items()})


def test_a_dry_run_says_the_same_and_does_nothing(target: Settings) -> None:
    told = migrate_home(target, dry_run=True)
    assert told["tables"] == migrate_home(target, dry_run=True)["tables"] == migrate_home(target)["tables"]


def test_tables_of_all_models_are_brought_up_to_date_beside_the_release_before(target: Settings) -> None:
    for model in (MODEL, OTHER):
        make_old(target, model)
    with pytest.raises(HomeTooOld, match="surety home migrate"), open_label_tables(target, OTHER).reading():
        pass
    told = migrate_home(target)
    assert {n for (_, kind), n in versions(told).items() if kind == "label store"} == {(1, LABEL_FORMAT.version)}
    for model in (MODEL, OTHER):
        write_as_before(target, model)
        with open_label_tables(target, model).reading() as labels:
            assert labels is not None
            assert labels.execute("SELECT count(*) FROM label").fetchone()[0] == 2
            assert labels.execute("SELECT count(*) FROM label_chain").fetchone()[0] == 0


def test_tables_that_this_release_must_not_touch_stop_it_before_anything_is_changed(target: Settings) -> None:
    from ml_core.serve.home.database_tables import JOURNAL
    from ml_core.serve.home.postgres import DatabaseFormat

    make_old(target, MODEL)
    database = open_home(target).database
    assert database is not None
    database.migrate(DatabaseFormat("journal", {**JOURNAL.steps, 9: ["SELECT 1"]}, oldest=9))
    with pytest.raises(HomeTooNew, match="journal are of version 9"):
        migrate_home(target)
    with pytest.raises(HomeTooOld), open_label_tables(target, MODEL).reading():
        pass


def test_tables_of_a_later_release_that_only_grew_are_left_as_they_are(target: Settings) -> None:
    from ml_core.serve.home.database_tables import JOURNAL
    from ml_core.serve.home.postgres import DatabaseFormat

    database = open_home(target).database
    assert database is not None
    database.migrate(DatabaseFormat("journal", {**JOURNAL.steps, 9: ["SELECT 1"]}))
    database.migrate(DatabaseFormat("a kind to come", {1: ["SELECT 1"]}))
    told = {each["kind"]: each for each in migrate_home(target)["tables"]}
    assert (told["journal"]["before"], told["journal"]["after"]) == (9, 9)
    assert "later release" in told["journal"]["note"]
    assert "later release" in told["a kind to come"]["note"]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def old_labels(tmp_path: Path) -> Settings:
    """A folder whose labels are of the release before the chain."""
    settings = Settings(home=tmp_path / "home", model_name=MODEL)
    settings.labels.parent.mkdir(parents=True)
    with closing(sqlite3.connect(settings.labels)) as connection, connection:
        for statement in LABEL_FORMAT.step(1):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id={LABEL_FORMAT.application_id}")
        connection.execute("PRAGMA user_version=1")
    return settings


def test_files_of_a_folder_are_brought_up_to_date_once(old_labels: Settings) -> None:
    place = f"labels/{MODEL}.db"
    assert versions(migrate_home(old_labels))[place, "label store"] == (1, LABEL_FORMAT.version)
    assert versions(migrate_home(old_labels))[place, "label store"] == (LABEL_FORMAT.version, LABEL_FORMAT.version)


def test_files_of_a_folder_that_is_served_are_left_to_the_service(old_labels: Settings) -> None:
    facts = {"role": "api", "index": 1, "pid": 7, "started_at": "", "generation": 1, "stage": 1}
    report = WorkerReport(server="s", beat_s=time.monotonic(), **facts)
    write_worker_report(open_home(old_labels).heartbeats(MODEL), report)
    (told,) = migrate_home(old_labels)["tables"]
    assert (told["before"], told["after"]) == (1, 1)
    assert "while one runs" in told["note"]


def test_a_whole_folder_says_that_nothing_is_to_do(own_home: Settings) -> None:
    told = migrate_home(own_home)
    assert told["changed"] == 0
    assert {each["kind"] for each in told["tables"]} == {"label store", "monitor's ledger", "prediction log"}


def test_tables_of_mlflow_are_brought_up_to_date_by_its_own_steps(tmp_path: Path) -> None:
    import sqlalchemy
    from alembic import command
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base

    settings = Settings(home=tmp_path, model_name=MODEL)
    engine = sqlalchemy.create_engine(settings.registry_uri)
    Base.metadata.create_all(engine)
    config = utils._get_alembic_config(settings.registry_uri)
    newest = ScriptDirectory.from_config(config).get_current_head()
    before = ScriptDirectory.from_config(config).get_revision(newest).down_revision
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, before)
    engine.dispose()
    told = migrate_home(settings)
    assert (told["changed"], told["registry"]) == (1, {"before": before, "after": newest, "note": ""})
    assert migrate_home(settings)["changed"] == 0
