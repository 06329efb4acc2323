"""A home that is whole is said to be so, and each thing that is broken by hand is found."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from ml_core.lab.home_care import whole_check
from ml_core.lab.home_care.copying import copy_home
from ml_core.lab.home_care.whole_check import WholeReport, check_home
from ml_core.serve.home.homes import open_home
from ml_core.serve.rollout.worker_reports import WorkerLogReport, WorkerReport, write_worker_report
from tests.lab.home_care.lived_in import MODEL, state_of


@pytest.fixture
def copied(kept_home: Settings, target: Settings) -> Settings:
    """The home on a database."""
    copy_home(kept_home, target)
    return target


def found(report: WholeReport) -> list[tuple[str, str]]:
    return [(each.what, each.problem) for each in report.findings]


def test_a_folder_that_is_whole_is_whole_and_stays_as_it_is(own_home: Settings) -> None:
    before = {name: content for name, (_, content) in state_of(own_home.home).items()}
    report = check_home(own_home)
    assert (found(report), report.warnings, report.is_whole) == ([], [], True)
    assert report.facts["chains"][0]["rows"] == 25
    assert [each["slot"] for each in report.facts["needed"]] == ["champion"]
    after = {name: content for name, (_, content) in state_of(own_home.home).items()}
    assert {name: after[name] for name in before} == before


def test_a_database_that_is_whole_is_whole(copied: Settings) -> None:
    report = check_home(copied)
    assert (found(report), report.is_whole) == ([], True)
    assert abs(report.facts["clock_ahead_s"]) < 1.0, "it is the clock of the same machine"
    assert report.facts["chains"][0]["rows"] == 25


def test_an_empty_home_is_empty_and_stays_so(target: Settings, tmp_path: Path) -> None:
    import psycopg

    assert check_home(Settings(home=tmp_path / "nothing", model_name=MODEL)).is_empty
    assert check_home(target).is_empty
    with psycopg.connect(target.database) as connection:
        assert connection.execute("SELECT to_regnamespace('surety')").fetchone() == (None,)


def test_a_model_that_is_damaged_or_gone_is_found(copied: Settings) -> None:
    (model,) = (Path(copied.objects) / "models").glob("*/model.onnx")
    model.write_bytes(b"x" * model.stat().st_size)
    assert [what for what, _ in found(check_home(copied, chains=False))] == ["models"]
    model.unlink()
    assert [what for what, _ in found(check_home(copied, chains=False))] == ["models"]


def test_a_row_that_was_changed_is_found(own_home: Settings) -> None:
    file = max(own_home.log.glob("predictions-*.db"))
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE entry SET at_us = at_us + 1 WHERE seq = 3")
    ((what, problem),) = found(check_home(own_home))
    assert what == "row"
    assert "row 3" in problem
    assert check_home(own_home, chains=False).is_whole


def test_another_key_than_the_home_has_seen_is_found(copied: Settings, tmp_path: Path) -> None:
    (tmp_path / "other.key").write_text("ab" * 32)
    report = check_home(copied.model_copy(update={"subject_key_file": tmp_path / "other.key"}), chains=False)
    ((what, problem),) = found(report)
    assert what == "keys"
    assert "SURETY_SUBJECT_KEY_FILE" in problem


def test_tables_of_the_release_before_are_found(copied: Settings) -> None:
    import psycopg

    with psycopg.connect(copied.database) as connection:
        connection.execute("UPDATE surety.format SET version = 1 WHERE kind = 'label store'")
    found_ = found(check_home(copied, chains=False))
    assert [what for what, _ in found_] == ["tables"]
    assert "surety home migrate" in found_[0][1]


def test_a_database_that_is_away_is_found(target: Settings) -> None:
    away = target.model_copy(update={"database": "postgresql://nobody@127.0.0.1:1/nothing"})
    assert [what for what, _ in found(check_home(away))] == ["database"]


def test_clocks_that_differ_are_told(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ahead:
        time = staticmethod(lambda: time.time() + 300.0)

    monkeypatch.setattr(whole_check, "time", Ahead)
    report = check_home(copied, chains=False)
    assert report.is_whole
    assert [each.what for each in report.warnings] == ["clock"]
    assert "ahead of the database's" in report.warnings[0].problem


def test_a_machine_that_went_silent_with_answers_is_told(copied: Settings) -> None:
    import psycopg

    log = WorkerLogReport(mode="standard", stored=9, lost=0, refused=0, unanswered=0, pending=4, problem=None)
    facts = {"role": "api", "index": 1, "pid": 7, "started_at": "", "generation": 1, "stage": 1, "log": log}
    elsewhere = copied.model_copy(update={"machine": "ward-2", "home": copied.home / "elsewhere"})
    report = WorkerReport(server="s", machine="ward-2", beat_s=0.0, **facts)
    write_worker_report(open_home(elsewhere).heartbeats(MODEL), report, last=True)
    with psycopg.connect(copied.database) as connection:
        connection.execute("UPDATE surety.heartbeat SET beat_at = beat_at - interval '5 minutes'")
    told = check_home(copied, chains=False)
    assert told.is_whole
    assert [each.where for each in told.warnings] == [f"ward-2 ({MODEL})"]
    assert "4 answers that the home has not got" in told.warnings[0].problem
