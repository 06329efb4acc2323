"""Every act of an operator leaves exactly one entry in the journal, with who and why; looking leaves none."""

from __future__ import annotations

import pytest

from ml_core.base.journal import Journal
from ml_core.serve.rollout.monitor_state import MonitorView
from tests.cli.typing_surety import command_line
from tests.lab.watching.ward import HORIZON_DAYS, Ward, unforeseen
from tests.serve.answering.stored import Home, Worker


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SURETY_API_KEYS_FILE", str(tmp_path / "keys.json"))
    with command_line(tmp_path, monkeypatch, capsys) as typed:
        yield typed


@pytest.fixture
def home(tmp_path, run) -> Home:
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    Worker(home)
    home.watch()
    return home


WHY = ("--why", "ward 3 asked")
ACTS = [
    ("rollout", "shadow", "v2", *WHY),
    ("rollout", "canary", "0.2", "v2", *WHY),
    ("rollout", "full", "v2", *WHY),
    ("rollout", "flag", "log_mode=strict", *WHY),
    ("rollout", "flag", "shadow=false", "shadow_share=0.5", *WHY),
    *(("rollout", "breaker", order, *WHY) for order in ("open", "disable", "watch", "auto", "reset")),
]
LOOKS = [
    ("rollout", "show"),
    ("rollout", "full", "v2", "--dry-run"),
    ("rollout", "full", "v9"),
    ("rollout", "canary", "1.5", "v2"),
    ("alarms", "show"),
    ("keys", "list"),
    ("log", "show"),
    ("log", "verify"),
    ("status",),
]


@pytest.mark.parametrize("words", ACTS, ids=" ".join)
def test_an_act_is_one_entry_with_who_and_why(run, home, words):
    before = Journal(home.settings.journal).entries()
    assert run(*words).code == 0
    *earlier, entry = Journal(home.settings.journal).entries()
    assert earlier == before
    assert (entry["event"], entry["why"]) == ("rollout.changed", "ward 3 asked")
    assert entry["by"]


@pytest.mark.parametrize(
    "words", [("keys", "add", "w", "--role", "predict"), ("keys", "revoke", "there", *WHY)], ids=" ".join
)
def test_a_changed_key_is_one_entry(run, home, words):
    run("keys", "add", "there", "--role", "admin")
    before = Journal(home.settings.journal).entries()
    assert run(*words).code == 0
    *earlier, entry = Journal(home.settings.journal).entries()
    assert earlier == before
    assert entry["by"]


@pytest.mark.parametrize("words", LOOKS, ids=" ".join)
def test_looking_and_what_is_refused_leave_none(run, home, words):
    before = Journal(home.settings.journal).entries()
    run(*words)
    assert Journal(home.settings.journal).entries() == before


def test_an_acknowledged_alarm_is_one_entry(run, tmp_path):
    ward = Ward(tmp_path)
    ward.answer(unforeseen(450, seed=1))
    ward.pass_days(HORIZON_DAYS + 1)
    ward.look()
    view = MonitorView(ward.home.settings)
    view.look()
    before = Journal(ward.home.settings.journal).entries()
    assert run("alarms", "acknowledge", "coverage:1", *WHY).code == 0
    *earlier, entry = Journal(ward.home.settings.journal).entries()
    ward.close()
    assert earlier == before
    assert (entry["why"], bool(entry["by"])) == ("ward 3 asked", True)
