"""The rollout names full hashes: written at every change, made up for in old states, and held against what is loaded."""

from __future__ import annotations

import json
import shutil

import pytest

from ml_core.base.errors import ChecksumMismatch
from ml_core.base.journal import Journal
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout import changes
from ml_core.serve.worker.startup import keep_full_hashes
from tests.folder_files import rollout_file
from tests.serve.answering.stored import Home, Worker


@pytest.fixture
def home(tmp_path) -> Home:
    made = Home(tmp_path / "home")
    made.promote(made.v1)
    Worker(made)
    return made


def hashes(home: Home) -> dict[str, str]:
    return home.store.read().hashes


def without_hashes(home: Home) -> None:
    """Make the state one of the version before."""
    facts = json.loads(rollout_file(home.settings).read_text())
    del facts["hashes"]
    rollout_file(home.settings).write_text(json.dumps(facts))


def test_the_first_state_and_every_change_name_the_hashes_of_what_is_live(home):
    one, two, three = (home.hash_of(tag) for tag in (home.v1, home.v2, home.v3))
    assert hashes(home) == {home.v1: one}
    home.change(changes.shadow(home.v3, three))
    assert hashes(home) == {home.v1: one, home.v3: three}
    home.change(changes.full(home.v2, "", two))
    assert hashes(home) == {home.v1: one, home.v2: two}
    home.change(changes.rollback())
    assert hashes(home) == {home.v1: one, home.v2: two}


def test_an_old_state_gets_its_hashes_once_when_a_server_starts(home):
    home.change(changes.full(home.v2))
    without_hashes(home)
    assert Worker(home).tags()["champion"] == home.v2  # a worker alone goes by the signed verdict
    keep_full_hashes(home.settings, ModelLoader(home.settings))
    assert hashes(home) == {tag: home.hash_of(tag) for tag in (home.v1, home.v2)}
    before = home.store.read()
    keep_full_hashes(home.settings, ModelLoader(home.settings))
    assert home.store.read() == before
    assert Journal(home.settings.journal).entries()[-1]["why"] == "full hashes of what is live"


def test_a_model_that_was_never_judged_stays_without_a_hash_in_an_old_state(home):
    home.change(changes.shadow(home.v3))
    without_hashes(home)
    keep_full_hashes(home.settings, ModelLoader(home.settings))
    assert hashes(home) == {home.v1: home.hash_of(home.v1)}


def test_a_worker_takes_nothing_but_the_named_hash(home):
    """The tag is right to the last digit, the model behind it is judged, and it is still another one."""
    home.change(changes.full(home.v2, "", home.hash_of(home.v2)[:8] + "0" * 56))
    worker = Worker(home)
    live = worker.service.live
    assert (live.missing, live.champion.model.tag) == (home.v2, home.v1)  # the previous one answers meanwhile
    assert "expected" in worker.problem
    with pytest.raises(ChecksumMismatch):
        ModelLoader(home.settings).load(home.v2, home.hash_of(home.v2)[:8] + "0" * 56)


def test_a_running_worker_does_not_reuse_a_model_of_the_same_tag_and_another_hash(home):
    worker = Worker(home)
    home.change(changes.full(home.v2, "", home.hash_of(home.v2)))
    worker.look()
    other = home.hash_of(home.v2)[:8] + "0" * 56
    shutil.rmtree(home.folder(home.v2))
    home.change(changes.pinned({home.v2: other}))
    worker.look()
    assert "not in the Bento store" in worker.problem
