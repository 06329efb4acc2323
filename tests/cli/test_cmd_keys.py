"""keys as a person types it."""

from __future__ import annotations

import pytest

from ml_core.base.journal import Journal
from ml_core.serve.http.api_keys import KeyRing


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "etc" / "keys.json"
    monkeypatch.setenv("SURETY_API_KEYS_FILE", str(path))
    return path


def test_new_key_is_printed_alone_and_works(run, file):
    told = run("keys", "add", "ward-7", "--role", "predict", "--role", "label")
    assert told.code == 0
    holder = KeyRing(file, 0.5).holder(told.out.strip().encode())
    assert (holder.name, holder.roles) == ("ward-7", ("predict", "label"))


def test_key_is_shown_only_once(run, file, tmp_path):
    key = run("keys", "add", "ward-7", "--role", "predict").out.strip()
    listed = run("keys", "list")
    assert [row["name"] for row in listed.result] == ["ward-7"]
    everything = listed.out + file.read_text() + (tmp_path / "home" / "journal.jsonl").read_text()
    assert key.removeprefix("surety_") not in everything


def test_list_says_what_has_expired(run, file):
    run("keys", "add", "old", "--role", "predict", "--expires", "2020-01-01")
    run("keys", "add", "new", "--role", "admin", "--expires", "2999-01-01", "--per-second", "5")
    old, new = run("keys", "list").result
    assert (old["valid"], old["expires_at"][:10], old["per_second"]) == (False, "2020-01-01", None)
    assert (new["valid"], new["roles"], new["per_second"]) == (True, ["admin"], 5)


def test_revoked_key_is_gone(run, file):
    run("keys", "add", "ward-7", "--role", "predict")
    assert run("keys", "revoke", "ward-7").code == 0
    assert run("keys", "list").result == []


def test_file_named_on_the_command_line_comes_first(run, file, tmp_path):
    run("keys", "add", "ward-7", "--role", "predict", "--file", str(tmp_path / "other.json"))
    assert not file.exists()
    assert [row["name"] for row in run("keys", "list", "--file", str(tmp_path / "other.json")).result] == ["ward-7"]


@pytest.mark.parametrize(
    "words",
    [
        ("add", "ward-7"), ("add", "--role", "predict"), ("add", "ward-7", "--role", "root"), ("revoke",), (),
        ("add", "ward-7", "--role", "predict", "--expires", "soon"), ("add", "w", "--role", "predict", "--per-second", "x"),
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_two_and_makes_nothing(run, file, words):
    assert run("keys", *words).code == 2
    assert not file.exists()


@pytest.mark.parametrize("words", [("add", "w", "--role", "predict"), ("list",), ("revoke", "w")])
def test_without_a_file_it_is_asked_for(run, words):
    told = run("keys", *words)
    assert (told.code, "SURETY_API_KEYS_FILE" in told.err) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        ("add", "a b", "--role", "predict"),
        ("add", "w", "--role", "predict", "--per-second", "-1"),
        ("revoke", "nobody"),
        ("add", "taken", "--role", "admin"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(run, file, tmp_path, words):
    run("keys", "add", "taken", "--role", "predict")
    before = file.read_bytes(), (tmp_path / "home" / "journal.jsonl").read_bytes()
    told = run("keys", *words)
    assert (told.code, told.out, len(told.err.splitlines())) == (1, "", 1)
    assert (file.read_bytes(), (tmp_path / "home" / "journal.jsonl").read_bytes()) == before


def test_list_of_a_missing_file_says_how_to_make_it(run, file):
    told = run("keys", "list")
    assert (told.code, "surety keys add" in told.err) == (1, True)


def test_who_made_and_took_back_a_key_stands_in_the_journal(run, file, tmp_path):
    run("keys", "add", "ward-7", "--role", "predict")
    run("keys", "revoke", "ward-7", "--why", "left in a chat")
    added, revoked = Journal(tmp_path / "home" / "journal.jsonl").entries()
    assert (added["event"], added["name"], added["roles"]) == ("key.added", "ward-7", ["predict"])
    assert (revoked["event"], revoked["name"], revoked["why"]) == ("key.revoked", "ward-7", "left in a chat")
    assert added["by"] == revoked["by"] != ""
