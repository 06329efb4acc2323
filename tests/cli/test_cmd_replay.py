"""`surety replay` as a person types it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import click
import pytest

from ml_core.cli.cmd_replay import Moment
from ml_core.serve.features.versions import get_feature_version
from tests.cli.test_main_light_verbs import SCRIPT
from tests.lab.past_answers.logged import answers_in, erase, logging_to, nobodys_id
from tests.serve.answering.builders import live_of, toy_records
from tests.serve.answering.stored import Home
from tests.test_import_rule import NEVER_SERVED, ROOT
from tests.toy_models import NAME, toy_model


@pytest.fixture
def home(tmp_path, run) -> Home:
    """Answers of v1; v2 was promoted since."""
    made = Home(tmp_path / "home")
    with logging_to(made.settings, live_of()) as asked:
        asked.ask(toy_records(1)[0], client_request_id="visit-7")
        asked.ask_all(toy_records(30))
        asked.ask_in_bulk(toy_records(40))
    made.promote(made.v2)
    return made


@pytest.fixture
def ids(home) -> list[str]:
    return [answer.request_id for answer in answers_in(home.settings)]


def test_old_answers_are_equal(run, home, ids):
    told = run("replay", *ids[:40:10])
    assert told.code == 0
    assert told.err == ""
    assert told.result["replayed"] == told.result["states"]["equal"] == 4
    assert sum(told.result["states"].values()) == 4
    assert told.result["max_difference"] == 0.0
    (model,) = told.result["models"]
    assert (model["version"], model["found_in"], model["states"]["equal"]) == ("1", home.v1, 4)
    assert [(row["request_id"], row["state"]) for row in told.result["answers"]] == [(i, "equal") for i in ids[:40:10]]


@pytest.mark.parametrize(
    ("options", "n"),
    [
        (["--since", "1h"], 71),
        (["--since", "2000-01-01", "--until", "2100-01-01T00:00:00Z"], 71),
        (["--until", "1w"], 0),
        (["--since", "1d", "--limit", "12"], 12),
        (["--since", "1d", "--sample", "25", "--seed", "3"], 25),
    ],
)
def test_answers_of_a_span(run, home, options, n):
    told = run("replay", *options)
    assert (told.code, told.result["replayed"], told.result["states"]["equal"]) == (0 if n else 4, n, n)
    assert told.result["answers"] == []
    assert ("empty" in told.err) == (n == 0)


def test_answers_by_the_callers_own_name(run, home, ids):
    told = run("replay", "--client-request-id", "visit-7")
    assert (told.code, [row["request_id"] for row in told.result["answers"]]) == (0, ids[:1])
    told = run("replay", "--client-request-id", "visit-8")
    assert (told.code, told.result["states"]["unknown_id"]) == (1, 1)
    assert "no answer has the client_request_id 'visit-8'" in told.err


def test_ids_from_stdin(run, home, ids, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(ids[:5]) + "\n"))
    told = run("replay", "-", ids[7])
    assert (told.code, told.result["replayed"]) == (0, 6)


def test_a_difference_exits_with_three_and_says_how_much(run, home, ids, monkeypatch):
    """The same module hash, and another transform behind it."""
    here = get_feature_version("v1")
    changed = replace(here, transform=lambda columns: here.transform({**columns, "age": columns["age"] + 20}))
    monkeypatch.setattr("ml_core.serve.model.bundle.get_feature_version", lambda _: changed)
    told = run("replay", "--since", "1h")
    states = told.result["states"]
    assert (told.code, states["different"] > 10, sum(states.values())) == (3, True, 71)
    assert f"{states['different']} of 71 answers are not what they were; numbers differ by up to 0." in told.err
    assert "probabilities" in told.result["answers"][0]["differs"]


def test_an_unknown_id_and_an_erased_answer_exit_with_one(run, home, ids):
    told = run("replay", ids[1], nobodys_id())
    assert (told.code, [row["state"] for row in told.result["answers"]]) == (1, ["equal", "unknown_id"])
    assert f"no answer has the id {nobodys_id()}" in told.err
    erase(home.settings, answers_in(home.settings)[1])
    told = run("replay", ids[1])
    assert (told.code, told.result["answers"][0]["state"]) == (1, "erased")
    assert "its subject was erased" in told.err


def test_a_missing_model_exits_with_one_and_says_what_to_run(run, home, ids):
    shutil.rmtree(home.folder(home.v1))
    told = run("replay", "--since", "1h")
    assert (told.code, told.result["states"]["model_missing"]) == (1, 71)
    assert told.err.count("\n") == 1
    assert f"surety import-model --model {NAME} --version 1" in told.err
    assert told.result["models"][0]["found_in"] is None


def test_a_log_without_inputs_exits_with_two(run, tmp_path):
    home = Home(tmp_path / "home", log_inputs=False)
    with logging_to(home.settings, live_of()) as asked:
        asked.ask_all(toy_records(3))
    told = run("replay", "--since", "1h")
    assert (told.code, told.result["states"]["input_not_kept"]) == (2, 3)
    assert "SURETY_LOG_INPUTS=false" in told.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["visit-7"],
        ["--since", "yesterday"],
        ["--since", "1h", "--client-request-id", "x"],
        ["--limit", "3"],
        ["--since", "1h", "--limit", "3", "--sample", "3"],
        ["--since", "1h", "--sample", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_two(run, home, arguments):
    told = run("replay", *arguments)
    assert (told.code, told.out) == (2, "")


def test_an_id_and_a_span_are_too_much(run, home, ids):
    assert run("replay", ids[0], "--since", "1h").code == 2


def test_tables_are_for_people(run, home, ids, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    told = run("replay", ids[0], "--output", "table")
    assert told.code == 0
    assert all(word in told.out for word in (ids[0], "equal", "champion", home.v1))
    assert "model_missing" not in told.out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T10:15:00Z", datetime(2026, 11, 1, 10, 15, tzinfo=UTC)),
        ("2026-11-01T10:15:00+02:00", datetime(2026, 11, 1, 8, 15, tzinfo=UTC)),
        ("30m", timedelta(minutes=30)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(days=14)),
    ],
)
def test_moments(monkeypatch, text, expected):
    now = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
    monkeypatch.setattr("ml_core.base.clock.utc_now", lambda: now)
    assert Moment().convert(text, None, None) == (now - expected if isinstance(expected, timedelta) else expected)


@pytest.mark.parametrize("text", ["", "h", "-1h", "1y", "2026-13-01", "1e3s", "9999999d", "999999w"])
def test_what_is_no_moment(text):
    with pytest.raises(click.BadParameter):
        Moment().convert(text, None, None)


def test_an_edited_constant_of_the_feature_module_is_told_plainly(tmp_path, home, ids):
    """On a copy of the source tree, in a process of its own."""
    copy = tmp_path / "copy"
    for part in ("ml_core",):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    module = copy / "ml_core" / "serve" / "features" / "v1.py"
    source = module.read_text()
    assert source.count("glucose - 180.0") == 1
    environment = {**os.environ, "PYTHONPATH": str(copy), "SURETY_LOG_LEVEL": "WARNING", "BENTOML_DO_NOT_TRACK": "1"}

    def replayed() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ml_core.cli.main", "replay", *ids[:20]]
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=120)

    untouched = replayed()
    assert untouched.returncode == 0, untouched.stderr
    module.write_text(source.replace("glucose - 180.0", "glucose - 181.0"))
    done = replayed()
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["states"]["feature_module_changed"] == 20
    trained = toy_model().bundle.manifest.feature_module_sha256
    assert "ml_core/serve/features/v1.py was edited" in done.stderr
    assert trained in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_stored_model_is_replayed_without_anything_that_trains(home, ids):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "replay", *ids[:3]], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    told, modules = done.stdout.split("MODULES")
    assert json.loads(told)["states"]["equal"] == 3
    assert not set(modules.split()) & NEVER_SERVED
