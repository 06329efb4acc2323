"""Trusted keys, as a person types it."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import bentoml
import pytest

from ml_core.base.errors import NotGated
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.promotion_record import gate_name
from ml_core.serve.model.vouching import Vouchers, copy_papers, keep_gate
from ml_core.serve.trust.keys import home_keys
from tests.cli.typing_surety import command_line
from tests.homes import bento_store
from tests.serve.answering.stored import Home
from tests.toy_models import NAME, passed_gate


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    with command_line(tmp_path, monkeypatch, capsys) as typed:
        yield typed


def test_show_before_anything_was_signed(run):
    told = run("trust", "show")
    assert (told.code, told.result) == (0, [])
    assert "has not signed anything" in told.err


def test_a_key_is_added_by_text_or_file_and_what_it_signed_is_believed(run, tmp_path):
    home, other = Home(tmp_path / "home"), Settings(home=tmp_path / "other", model_name=NAME)
    keep_gate(other, passed_gate(home.hash_of(home.v3)), "3")
    copy_papers(home.folder(home.v3), NAME, home.hash_of(home.v3), other)
    key = home_keys(other).keys[0].key
    (tmp_path / "their.pub").write_text(f"{key}\n")
    assert run("trust", "add", "their.pub", "--name", "trainer", "--why", "trains for us").code == 0
    assert ModelLoader(home.settings).load(home.v3)
    assert "already" in run("trust", "add", key).err
    own, trainer = run("trust", "show").result
    assert (own["signs"], own["source"], trainer["signs"], trainer["name"]) == (True, "home", False, "trainer")
    entries = [e for e in Journal(home.settings.journal).entries() if e["event"] == "trust.added"]
    assert [(e["key"], e["why"]) for e in entries] == [(key, "trains for us")]
    assert run("trust", "remove", trainer["fingerprint"]).code == 0
    assert len(run("trust", "show").result) == 1


def test_keys_of_the_environment_are_shown_with_their_source(run, monkeypatch, tmp_path):
    keep_gate(Settings(home=tmp_path / "other"), passed_gate("0" * 64), "1")
    key = home_keys(Settings(home=tmp_path / "other")).keys[0].key
    monkeypatch.setenv("SURETY_TRUSTED_KEYS", key)
    assert [(row["key"], row["source"]) for row in run("trust", "show").result] == [(key, "environment")]


def test_rotate_prints_the_new_public_key_and_models_answer_as_before(run, tmp_path):
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    old = home_keys(home.settings).signs
    told = run("trust", "rotate", "--name", "2027")
    assert told.out.startswith("ed25519:")
    assert "3 papers" in told.err
    assert run("trust", "remove", old).code == 0
    assert [row["name"] for row in run("trust", "show").result] == ["2027"]
    assert ModelLoader(home.settings).load(home.v1)


def test_copies_beside_models_travel_on_after_a_rotation(run, tmp_path):
    """Another machine that trusts the new key alone believes the copies, in the home's models and in the Bento store."""
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    with bento_store(tmp_path / "store"):
        with bentoml.models.create(home.v1) as model:
            shutil.copytree(home.folder(home.v1), model.path, dirs_exist_ok=True)
        folders = (home.folder(home.v1), Path(bentoml.models.get(home.v1).path))
        for folder in folders:
            copy_papers(folder, NAME, home.hash_of(home.v1), home.settings)
        told = run("trust", "rotate")
        assert "beside 2 models" in told.err  # v2 has its copy as well
        other = Settings(home=tmp_path / "other", model_name=NAME, trusted_keys=told.out.strip())
        for folder in folders:
            assert Vouchers(other).verdict_beside(folder).passed
            assert Vouchers(other).promotion_beside(folder).bento_tag == home.v1
        assert "does not answer" not in told.err


def test_a_model_that_only_the_old_key_vouches_for_is_named_before_and_after_its_removal(run, tmp_path):
    """A restored home without its gate reports: what lies beside a model may be anybody's who had the old key."""
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    copy_papers(home.folder(home.v2), NAME, home.hash_of(home.v2), home.settings)
    for path in home.settings.gates.glob(f"{home.hash_of(home.v2)}*"):
        path.unlink()
    old = home_keys(home.settings).signs
    assert ModelLoader(home.settings).load(home.v2)
    told = run("trust", "rotate")
    assert [line for line in told.err.splitlines() if "surety validate" in line] == [
        (
            f"surety: no other key vouches for {home.v2}: once the old key is removed it does not answer until "
            "`surety validate` has judged it"
        )
    ]
    assert ModelLoader(home.settings).load(home.v2)
    told = run("trust", "remove", old[:12])
    assert (told.code, f"{home.v2}: from now on it does not answer" in told.err) == (0, True)
    assert home.v1 not in told.err
    assert ModelLoader(home.settings).load(home.v1)
    with pytest.raises(NotGated, match="surety validate"):
        ModelLoader(home.settings).load(home.v2)
    keep_gate(home.settings, passed_gate(home.hash_of(home.v2)), "2")
    assert ModelLoader(home.settings).load(home.v2)


def test_a_rotation_does_not_sign_what_a_thief_of_the_old_key_laid_beside_a_model(run, tmp_path):
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    thief = Settings(home=tmp_path / "thief", model_name=NAME)
    shutil.copytree(home.settings.trust, thief.trust)
    keep_gate(thief, passed_gate(home.hash_of(home.v3)), "3")
    copy_papers(home.folder(home.v3), NAME, home.hash_of(home.v3), thief)
    old = home_keys(home.settings).signs
    assert ModelLoader(home.settings).load(home.v3)
    assert f"vouches for {home.v3}" in run("trust", "rotate").err
    assert run("trust", "remove", old).code == 0
    with pytest.raises(NotGated):
        ModelLoader(home.settings).load(home.v3)


def test_a_copy_that_cannot_be_replaced_is_told(run, tmp_path, monkeypatch):
    home = Home(tmp_path / "home")
    copy_papers(home.folder(home.v1), NAME, home.hash_of(home.v1), home.settings)

    def read_only(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("ml_core.lab.registry.paper_copies.copy_papers", read_only)
    told = run("trust", "rotate")
    assert (told.code, f"beside {home.v1} could not be replaced: Permission denied" in told.err) == (0, True)


@pytest.mark.parametrize(
    "words", [("add", "no-such-file"), ("add", "ed25519:AAAA"), ("remove", "00"), ("remove", "")], ids=" ".join
)
def test_what_makes_no_sense_is_one_line(run, words):
    told = run("trust", *words)
    assert (told.code, told.err.count("\n")) == (1, 1)


def test_the_key_that_signs_is_not_removed(run, tmp_path):
    home = Home(tmp_path / "home")
    told = run("trust", "remove", home_keys(home.settings).signs)
    assert told.code == 1
    assert "surety trust rotate" in told.err


def test_a_plain_paper_that_was_never_signed_is_told(run, tmp_path):
    home = Home(tmp_path / "home")
    assert run("trust", "show").err == ""
    model_hash = home.hash_of(home.v3)
    for changed in (home.v3, home.v1):
        path = home.settings.home / gate_name(home.hash_of(changed))
        path.write_text(passed_gate(home.hash_of(changed), passed=False).model_dump_json())
    assert [line.split()[0] for line in run("trust", "show").err.splitlines()] == sorted(
        f"{h}.json" for h in (model_hash, home.hash_of(home.v1))
    )
