"""log as a person types it."""

from __future__ import annotations

import io
import re
import sys
from datetime import UTC, datetime, timedelta

import pytest

from ml_core.base.journal import Journal
from ml_core.serve.log import writer
from ml_core.serve.log.log_keys import LogKeys
from ml_core.serve.log.reader import PredictionLog
from tests.serve.log.filled import (
    DAY,
    NAME,
    NEXT,
    bulk_row,
    fill,
    head_of,
    held,
    row,
    settings_in,
    subject,
    tampering,
    today,
    writing,
)

FILE, OTHER = f"predictions-{DAY}-w01.db", f"predictions-{NEXT}-w01.db"


@pytest.fixture
def settings(tmp_path):
    return settings_in(tmp_path / "home")


class Terminal(io.StringIO):
    """A keyboard."""

    def isatty(self) -> bool:
        return True


def answers(settings) -> int:
    return len(list(PredictionLog(settings.log).rows()))


# --- all of them ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show",), {"model": NAME, "files": [], "rows": 0, "days": 0}),
        (("verify",), {"model": NAME, "files": [], "ok": True}),
        (("erase-subject", "anna"), {"model": NAME, "files": [], "erased": 0}),
    ],
)
def test_without_a_log_that_is_said(run, settings, words, said):
    told = run("log", *words)
    assert (told.code, "has no answer in" in told.err) == (0 if words == ("show",) else 4, True)
    assert {name: told.result[name] for name in said} == said
    assert not settings.log.exists()
    assert not settings.subject_key.exists()


@pytest.mark.parametrize("words", [("seal",), ("prune",), ("prune", "--dry-run")])
def test_without_a_log_there_is_no_day(run, words):
    told = run("log", *words)
    assert (told.code, told.result, "has no answer in" in told.err) == (0, [], True)


@pytest.mark.parametrize(
    "words",
    [
        (), ("verify", "--day", "yesterday"), ("verify", "more"), ("seal", "--before", "5"), ("prune", "--older-than", "-1"),
        ("prune", "--older-than", "soon"), ("erase-subject",), ("erase-subject", ""), ("erase-subject", "a", "b"),
        ("show", "--output", "xml"), ("mend",),
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_two(run, words):
    assert run("log", *words).code == 2


def test_another_models_log_is_looked_at_where_it_is_named(run, settings):
    fill(settings, [row(1)])
    assert (run("log", "show").result["rows"], run("log", "show", "--model", "another").result["rows"]) == (1, 0)


@pytest.mark.parametrize("words", [("show",), ("verify",), ("seal",), ("prune", "--older-than", "1", "--dry-run")])
def test_a_table_is_for_people(run, settings, words):
    fill(settings, [row(1)])
    told = run("log", *words, "--output", "table")
    assert DAY in told.out
    assert not told.out.startswith(("{", "["))


# --- show ---


def test_show_tells_files_days_rows_size_and_what_is_live_or_sealed(run, settings):
    fill(settings, [*(row(n) for n in range(4)), bulk_row(settings, 9)])
    run("log", "seal")
    with held(settings, NEXT) as log:
        log.commit([row(1, NEXT)], durable=False)
        told = run("log", "show")
        assert (told.code, told.result["days"], told.result["rows"]) == (0, 2, 6)
        assert [(f["file"], f["rows"], f["state"], f["sealed"]) for f in told.result["files"]] == [
            (FILE, 5, "closed", True),
            (OTHER, 1, "live", False),
        ]
        assert told.result["bytes"] == sum(f["bytes"] for f in told.result["files"]) > 4_096


def test_show_says_that_a_file_has_grown_since_it_was_sealed(run, settings):
    fill(settings, [row(1)])
    run("log", "seal")
    fill(settings, [row(2)])
    assert run("log", "show").result["files"][0]["sealed"] is False


def test_show_of_an_unreadable_file_is_broken(run, settings):
    fill(settings, [row(1)]).path.write_bytes(b"no database" * 500)
    told = run("log", "show")
    assert (told.code, told.result["files"][0]["rows"], FILE in told.err) == (1, None, True)


# --- verify ---


def test_a_whole_log_is_ok(run, settings):
    file = fill(settings, [row(n) for n in range(6)])
    told = run("log", "verify")
    assert (told.code, told.err, told.result["ok"], told.result["missing"], told.result["orphans"]) == (
        0,
        "",
        True,
        [],
        [],
    )
    (found,) = told.result["files"]
    assert found == {
        "file": FILE, "state": "closed", "rows": 6, "answers": 6, "commits": 2, "erased": 0,
        "head": head_of(file).hex(), "ok": True, "row": None, "problem": None,
        "key": LogKeys.of(settings).used()[0].id,
    }  # fmt: skip
    assert told.result["findings"] == []


def test_a_change_is_a_sound_no_that_names_file_and_row(run, settings):
    fill(settings, [row(1, NEXT)], NEXT)
    file = fill(settings, [row(n) for n in range(6)])
    with tampering(file) as connection:
        connection.execute("UPDATE entry SET at_us = at_us + 1 WHERE seq = 5")
    told = run("log", "verify")
    assert (told.code, told.result["ok"], f"{FILE}, row 5: " in told.err) == (3, False, True)
    assert [(f["ok"], f["row"]) for f in told.result["files"]] == [(False, 5), (True, None)]
    assert run("log", "verify", "--day", NEXT).code == 0


def test_a_missing_file_is_a_sound_no(run, settings):
    file = fill(settings, [row(1)])
    run("log", "seal")
    file.path.unlink()
    told = run("log", "verify")
    assert (told.code, told.result["missing"], f"{FILE}: is missing" in told.err) == (3, [FILE], True)


def test_an_unreadable_file_is_broken(run, settings):
    fill(settings, [row(1)]).path.write_bytes(b"no database" * 500)
    told = run("log", "verify")
    assert (told.code, told.result["ok"], FILE in told.err) == (1, False, True)


def test_a_bulk_call_of_no_row_is_a_note(run, settings):
    fill(settings, [row(1)])
    bulk_row(settings, 5)
    told = run("log", "verify")
    assert (told.code, len(told.result["orphans"]), "belong to no row" in told.err) == (0, 1, True)


# --- seal ---


def test_seal_tells_day_by_day_what_it_did(run, settings):
    fill(settings, [row(1), row(2)])
    assert run("log", "seal").result == [{"day": DAY, "outcome": "sealed", "answers": 2, "detail": None}]
    fill(settings, [row(1, NEXT)], NEXT)
    assert [day["outcome"] for day in run("log", "seal").result] == ["unchanged", "sealed"]
    assert (settings.log / "sealed" / f"predictions-{NEXT}.parquet").exists()


def test_seal_leaves_later_days_alone_where_that_is_wanted(run, settings):
    for day in (DAY, NEXT):
        fill(settings, [row(1, day)], day)
    assert [day["day"] for day in run("log", "seal", "--before", NEXT).result] == [DAY]


def test_a_day_that_is_not_sound_is_a_sound_no_and_the_others_are_sealed(run, settings):
    with tampering(fill(settings, [row(1)])) as connection:
        connection.execute("UPDATE entry SET at_us = 0")
    fill(settings, [row(1, NEXT)], NEXT)
    told = run("log", "seal")
    assert (told.code, [day["outcome"] for day in told.result]) == (3, ["broken", "sealed"])
    assert f"{FILE}, row 1" in told.err


def test_a_live_day_is_told_and_is_no_failure(run, settings):
    with held(settings, DAY) as log:
        log.commit([row(1)], durable=False)
        told = run("log", "seal")
    assert (told.code, told.result[0]["outcome"], FILE in told.err) == (0, "busy", True)


# --- prune ---


def test_prune_removes_what_is_sealed_and_old(run, settings):
    fill(settings, [row(1), row(2)])
    run("log", "seal")
    shown = run("log", "prune", "--older-than", "30", "--dry-run")
    assert (shown.code, shown.result[0]["outcome"], answers(settings)) == (0, "would go", 2)
    told = run("log", "prune", "--older-than", "30")
    assert (told.code, told.result[0]["outcome"], told.result[0]["files"], told.result[0]["rows"]) == (
        0,
        "removed",
        [FILE],
        2,
    )
    assert (answers(settings), f"{DAY}: 1 files, 2 rows" in told.err) == (0, True)
    assert run("log", "verify").code == 4  # sound, and empty


def test_prune_keeps_as_many_days_as_the_settings_say(run, settings, monkeypatch):
    fresh = (datetime.now(UTC).date() - timedelta(days=20)).isoformat()
    fill(settings, [row(1, fresh)], fresh)
    run("log", "seal")
    monkeypatch.setenv("SURETY_LOG_RETENTION_DAYS", "20.5")
    assert (run("log", "prune").result, "no day is older than 20.5 days" in run("log", "prune").err) == ([], True)
    monkeypatch.setenv("SURETY_LOG_RETENTION_DAYS", "18")
    assert [day["outcome"] for day in run("log", "prune").result] == ["removed"]


def test_an_unsealed_day_is_a_sound_no_and_the_way_on_is_told(run, settings):
    fill(settings, [row(1)])
    told = run("log", "prune", "--older-than", "30")
    assert (told.code, told.result[0]["outcome"], answers(settings)) == (3, "unsealed", 1)
    assert "surety log seal" in told.err
    assert "--unsealed" in told.err
    told = run("log", "prune", "--older-than", "30", "--unsealed")
    assert (told.code, told.result[0]["outcome"], answers(settings)) == (0, "removed", 0)


def test_an_old_live_day_is_a_sound_no(run, settings):
    with held(settings, DAY) as log:
        log.commit([row(1)], durable=False)
        told = run("log", "prune", "--older-than", "30", "--unsealed")
    assert (told.code, told.result[0]["outcome"], answers(settings)) == (3, "busy", 1)


@pytest.mark.parametrize(("words", "reply", "left"), [((), "n\n", 1), ((), "y\n", 0), (("--yes",), "", 0)])
def test_prune_asks_a_person(run, settings, monkeypatch, words, reply, left):
    fill(settings, [row(1)])
    run("log", "seal")
    monkeypatch.setattr(sys, "stdin", Terminal(reply))
    told = run("log", "prune", "--older-than", "30", *words)
    assert (told.code, answers(settings), "Remove 1 days for good?" in told.err) == (left, left, not words)


# --- erase-subject ---


def with_anna(settings, day: str = DAY) -> None:
    fill(settings, [row(1, day), row(2, day, subject=subject(settings, "anna")), row(3, day)], day)


def test_a_person_is_erased(run, settings):
    with_anna(settings)
    with_anna(settings, NEXT)
    told = run("log", "erase-subject", "anna")
    assert (told.code, told.result["found"], told.result["erased"], answers(settings)) == (0, 2, 2, 4)
    assert told.result["files"] == [
        {"file": name, "state": "closed", "found": 1, "erased": 1, "left": None} for name in (FILE, OTHER)
    ]
    assert "anna" not in told.out + told.err + settings.journal.read_text()
    assert run("log", "verify").code == 0


@pytest.mark.parametrize("model", [None, "sepsis"])
def test_training_rows_of_a_person_go_too_and_are_journalled(run, settings, model):
    from ml_core.lab.data.cohort import make_cohort
    from ml_core.lab.data.feature_store import FeatureStore
    from ml_core.lab.data.people import made_name
    from ml_core.serve.features.versions import get_feature_version

    with_anna(settings)
    group = next(c for c in get_feature_version("v1").columns if c.role == "group")
    rows, (made, *_) = make_cohort(40, seed=1)[0], [made_name(group, subject(settings, "anna"))]
    rows.loc[:1, group.name], rows.loc[2, group.name] = "anna", made
    store = FeatureStore(settings.feature_store, model)
    store.overwrite("v1", rows)
    told = run("log", "erase-subject", "anna", "--dry-run")
    assert told.result["training"] == [{"model": model or "", "table": "v1", "rows": 3, "files": 1, "version": 0}]
    assert store.latest("v1") == 0
    told = run("log", "erase-subject", "anna")
    assert (told.code, told.result["erased"], told.result["training"][0]["rows"]) == (0, 1, 3)
    assert "the next surety features run brings them back" in told.err
    assert len(store.read("v1")) == 37
    left = [p for p in settings.home.rglob("*") if p.is_file() and {b"anna", made.encode()} & words(p)]
    assert left == []
    (entry,) = [e for e in Journal(settings.journal).entries() if e["event"] == "training_rows.erased"]
    assert (entry["table"], entry["rows"], entry["versions_up_to"]) == ("v1", 3, 0)
    assert run("log", "erase-subject", "anna").result["training"] == []


def words(path) -> set[bytes]:
    return set(re.findall(rb"[A-Za-z0-9-]+", path.read_bytes()))


def test_training_rows_go_where_there_is_no_log(run, settings):
    from ml_core.lab.data.cohort import make_cohort
    from ml_core.lab.data.feature_store import FeatureStore

    store, rows = FeatureStore(settings.feature_store), make_cohort(20, seed=1)[0]
    store.overwrite("v1", rows)
    told = run("log", "erase-subject", str(rows["patient_id"][0]))
    assert (told.code, told.result["training"][0]["files"], store.latest("v1")) == (0, 1, 1)


def test_a_dry_run_erases_nothing(run, settings):
    with_anna(settings)
    told = run("log", "erase-subject", "anna", "--dry-run")
    assert (told.code, told.result["found"], told.result["erased"], answers(settings)) == (0, 1, 0, 3)
    assert Journal(settings.journal).entries() == []


def test_subjects_may_come_from_stdin_one_a_line(run, settings, monkeypatch):
    fill(settings, [row(n, subject=subject(settings, name)) for n, name in enumerate(("anna", "bert", "anna", "carl"))])
    lines = "\ufeffanna\r\n\n  bert \t\r\n   \nanna\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    told = run("log", "erase-subject", "-", "--dry-run")
    found = [{"line": 1, "found": 2, "training_rows": 0}, {"line": 3, "found": 1, "training_rows": 0}]
    assert (told.code, told.result["subjects"], answers(settings)) == (0, found, 4)
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    told = run("log", "erase-subject", "-")
    assert (told.code, told.result["subjects"], told.result["erased"], answers(settings)) == (0, found, 3, 1)
    monkeypatch.setattr(sys, "stdin", io.StringIO("carl\nanna\ndora"))
    told = run("log", "erase-subject", "-", "--dry-run")
    assert (told.code, [x["found"] for x in told.result["subjects"]]) == (3, [1, 0, 0])
    assert "in lines 2, 3" in told.err
    assert not {"anna", "carl", "dora"} & set((told.out + told.err).split())
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeff \n\r\n"))
    assert run("log", "erase-subject", "-").code == 2


def test_an_unknown_person_is_told_with_a_status_of_its_own(run, settings):
    with_anna(settings)
    told = run("log", "erase-subject", "bert")
    assert (told.code, told.result["erased"], "no answer and no training row is about" in told.err) == (3, 0, True)


def test_a_log_without_answers_is_empty(run, settings):
    fill(settings, [])
    told = run("log", "verify")
    assert (told.code, "empty" in told.err) == (4, True)


@pytest.mark.parametrize(("reply", "left"), [("n\n", 3), ("y\n", 2)])
def test_erasing_asks_a_person(run, settings, monkeypatch, reply, left):
    with_anna(settings)
    monkeypatch.setattr(sys, "stdin", Terminal(reply))
    told = run("log", "erase-subject", "anna")
    assert (answers(settings), "Erase them for good?" in told.err) == (left, True)


def test_without_the_key_nobody_is_said_to_be_unknown(run, settings):
    with_anna(settings)
    settings.subject_key.unlink()
    told = run("log", "erase-subject", "anna")
    assert (told.code, "key of subjects is missing" in told.err, settings.subject_key.exists()) == (1, True, False)


def test_a_live_worker_erases_too(run, settings, monkeypatch):
    monkeypatch.setattr(writer, "_ERASE_EVERY_S", 0.01)
    anna = subject(settings, "anna")
    with writing(settings, [row(1, today(), subject=anna), row(2, today())]):
        told = run("log", "erase-subject", "anna")
        assert (told.code, told.result["files"][0]["state"], told.result["erased"]) == (0, "live", 1)
        assert (run("log", "verify").code, answers(settings)) == (0, 1)


def test_a_file_still_to_be_done_is_broken_and_the_way_on_is_told(run, settings, monkeypatch):
    monkeypatch.setattr("ml_core.lab.log_care.erasure.WAIT_S", 0.0)
    with_anna(settings)
    with held(settings, today()) as log:
        log.commit([row(1, today(), subject=subject(settings, "anna"))], durable=False)
        told = run("log", "erase-subject", "anna")
        assert (told.code, log.file.path.name in told.err, "run it again" in told.err) == (1, True, True)
    told = run("log", "erase-subject", "anna")
    assert (told.code, "2 more answers were erased for earlier requests" in told.err, answers(settings)) == (0, True, 2)
