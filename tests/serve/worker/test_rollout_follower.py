"""A worker follows the rollout: new models come in beside the old ones, and whatever fails keeps what was there."""

from __future__ import annotations

import json
import shutil

import bentoml
import pytest

from ml_core.base.errors import NotLoaded
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL
from ml_core.serve.model.vouching import GATE_IN_BENTO_MODEL
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_state import GuardLimits
from ml_core.serve.rollout.worker_reports import read_reports
from tests.folder_files import heartbeats
from tests.homes import bento_store
from tests.serve.answering.builders import ask, until
from tests.serve.answering.stored import Home, Worker, with_other_columns, with_other_labels
from tests.toy_models import table_toy

GUARDS = GuardLimits(set_size=1.9)


@pytest.fixture(autouse=True)
def own_bento_store(tmp_path):
    with bento_store(tmp_path / "bento") as store:
        yield store


@pytest.fixture
def home(tmp_path) -> Home:
    made = Home(tmp_path / "home")
    made.promote(made.v1)
    return made


@pytest.fixture
def worker(home) -> Worker:
    return Worker(home)


def slot_of(worker: Worker, **request) -> str:
    return ask(worker.live, **request).lineage.slot


# --- start ------------------------------------------------------------------------------------------------------------


def test_a_first_start_serves_the_promoted_model_and_makes_the_state(home, worker):
    assert (worker.tags(), worker.problem) == ({"champion": home.v1}, "")
    state = home.store.read()
    assert (state.generation, state.champion, state.mode, state.changed_by) == (1, home.v1, "off", "service")
    assert state.promotion_seen == "2026-01-01T00:00:00Z"
    assert worker.live.generation == 1


def test_answers_name_the_home_which_keeps_its_name(home, worker):
    (name,) = {Worker(home, i).service.responder.served_by["home"] for i in (2, 3)}
    assert name == json.loads((home.settings.home / "home.json").read_bytes())["name"]
    assert ask(worker.live).lineage.served_by.keys() == {"home", "machine"}


def test_a_home_that_cannot_be_written_has_no_name_and_answers(tmp_path, monkeypatch):
    home = Home(tmp_path / "home")
    home.promote(home.v1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ml_core.serve.home.homes.Home.name", full)
    assert Worker(home).service.responder.served_by["home"] == ""


def test_a_later_start_serves_what_the_rollout_says(home, worker):
    home.pass_gate(home.v3)
    home.change(changes.full(home.v2))
    home.change(changes.canary(home.v3, 0.3, GUARDS))
    later = Worker(home, 2)
    assert later.tags() == {"champion": home.v2, "challenger": home.v3, "previous": home.v1}
    assert (later.live.generation, later.live.mode, later.live.weight) == (3, "canary", 0.3)


def test_a_model_holds_one_slot_at_a_time(home, worker):
    home.change(changes.full(home.v2))
    worker.look()
    home.change(changes.rollback())
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    for each in (worker.look(), Worker(home, 2)):
        assert each.tags() == {"champion": home.v1, "challenger": home.v2}
        challenger = each.live.challenger
    home.change(changes.rollback())
    assert each.look().live.previous is challenger  # loaded as it is, ready to come back


def test_a_start_without_a_model_is_not_ready_says_why_and_heals_by_itself(tmp_path):
    home = Home(tmp_path / "empty")
    worker = Worker(home)
    with pytest.raises(NotLoaded, match="surety promote"):
        _ = worker.live
    worker.look()
    assert home.store.read() is None
    (report,) = read_reports(heartbeats(home.settings))
    assert "surety promote" in report.problem
    home.promote(home.v1)
    worker.look(retry=True)
    assert (worker.tags(), worker.problem) == ({"champion": home.v1}, "")
    assert home.store.read().champion == home.v1
    home.change(changes.full(home.v2))
    assert worker.look().tags()["champion"] == home.v2


def test_a_model_of_the_bento_store_is_served(tmp_path, own_bento_store):
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    stored = home.folder(home.v1)
    with bentoml.models.create(home.v1, labels={"mlflow_version": "1"}) as model:
        shutil.copytree(stored / BUNDLE_IN_BENTO_MODEL, model.path_of(BUNDLE_IN_BENTO_MODEL))
        shutil.copy(stored / GATE_IN_BENTO_MODEL, model.path_of(GATE_IN_BENTO_MODEL))
    shutil.rmtree(stored)
    worker = Worker(home)
    assert worker.tags() == {"champion": home.v1}
    assert ask(worker.live).lineage.model_version == "1"


def test_a_worker_that_follows_on_its_own_thread_obeys_and_stops(home):
    quick = home.settings.model_copy(update={"poll_s": 0.02})
    worker = Worker(home, settings=quick)
    worker.follower.start()
    home.change(changes.full(home.v2))
    until(lambda: worker.live.generation == 2)
    worker.follower.stop()
    worker.follower._thread.join(30)
    home.change(changes.rollback())
    assert worker.live.generation == 2
    assert {r.generation for r in read_reports(heartbeats(home.settings))} == {2}


def test_nothing_that_goes_wrong_in_a_look_ends_the_following(home, monkeypatch):
    worker = Worker(home, settings=home.settings.model_copy(update={"poll_s": 0.02}))
    glimpse, failures = worker.follower._store.glimpse, []

    def fail_twice():
        if len(failures) < 2:
            failures.append(1)
            raise RuntimeError("odd")
        return glimpse()

    monkeypatch.setattr(worker.follower._store, "glimpse", fail_twice)
    worker.follower.start()
    home.change(changes.full(home.v2))
    until(lambda: worker.live.generation == 2)
    worker.follower.stop()
    assert len(failures) == 2


# --- full and rollback ------------------------------------------------------------------------------------------------


def test_full_answers_with_the_new_model_and_keeps_the_old_one_loaded(home, worker):
    before = worker.live.champion
    home.change(changes.full(home.v2))
    assert worker.look().tags() == {"champion": home.v2, "previous": home.v1}
    assert worker.live.previous is before
    assert ask(worker.live).lineage.model_version == "2"


def test_rollback_after_full_loads_nothing(home, worker):
    before = worker.live.champion
    home.change(changes.full(home.v2))
    new = worker.look().live.champion
    home.change(changes.rollback())
    shutil.rmtree(home.settings.models)
    worker.look()
    assert (worker.live.champion, worker.live.previous) == (before, new)
    assert (worker.problem, ask(worker.live).lineage.model_version) == ("", "1")


def test_a_challenger_that_becomes_champion_is_not_loaded_again(home, worker):
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    challenger = worker.look().live.challenger
    home.change(changes.full(home.v2))
    assert worker.look().live.champion is challenger


def test_a_new_champion_that_is_damaged_leaves_the_old_one_and_heals_on_retry(home, worker):
    sound = home.file(home.v2).read_bytes()
    home.file(home.v2).write_bytes(sound[:-1] + b"x")
    home.change(changes.full(home.v2))
    worker.look()
    assert (worker.tags(), worker.live.generation) == ({"champion": home.v1}, 1)
    assert "model.onnx" in worker.problem
    (report,) = read_reports(heartbeats(home.settings))
    assert (report.generation, report.problem) == (1, worker.problem)
    home.file(home.v2).write_bytes(sound)
    assert worker.look().live.generation == 1  # not before its time
    worker.look(retry=True)
    assert (worker.tags()["champion"], worker.live.generation, worker.problem) == (home.v2, 2, "")


def test_retries_become_rarer_up_to_a_minute_and_begin_soon_again_with_the_next_change(home, worker):
    home.file(home.v2).write_bytes(b"x")
    home.change(changes.full(home.v2))
    pauses = [worker.look(retry=True).follower._retry_s for _ in range(12)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]
    home.change(changes.flags({"shadow_share": 0.5}))
    assert worker.look().follower._retry_s == 0.5


def test_a_new_champion_without_a_gate_does_not_answer(home, worker):
    home.change(changes.full(home.v3))
    worker.look()
    assert worker.tags() == {"champion": home.v1}
    assert "may not answer" in worker.problem


def test_a_previous_champion_that_cannot_be_loaded_is_only_missed(home, worker):
    home.change(changes.full(home.v2))
    shutil.rmtree(home.folder(home.v1))
    later = Worker(home, 2)
    assert (later.tags(), later.problem) == ({"champion": home.v2}, "")


# --- shadow and canary ------------------------------------------------------------------------------------------------


def test_shadow_needs_no_gate_and_answers_nobody(home, worker):
    home.change(changes.shadow(home.v3))
    worker.look()
    assert (worker.live.mode, worker.tags()["challenger"], worker.problem) == ("shadow", home.v3, "")
    assert {slot_of(worker) for _ in range(50)} == {"champion"}


def test_a_gated_canary_answers_its_share(home, worker):
    home.watch()
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    worker.look()
    slots = {slot_of(worker, subject=f"p{i}") for i in range(50)}
    assert slots == {"champion", "challenger"}
    assert (worker.live.guards, worker.live.weight) == (GUARDS, 0.5)


@pytest.mark.parametrize("gate", [None, False])
def test_a_canary_whose_gate_has_not_said_yes_answers_nobody_until_it_does(home, worker, gate):
    tag = home.v3 if gate is None else home.add("4", home.folder(home.v3) / BUNDLE_IN_BENTO_MODEL, gate=False)
    home.change(changes.canary(tag, 0.99, GUARDS))
    worker.look()
    assert (worker.tags(), worker.live.mode) == ({"champion": home.v1}, "off")
    assert "may not answer" in worker.problem
    assert {slot_of(worker) for _ in range(30)} == {"champion"}
    home.pass_gate(tag)
    worker.look(retry=True)
    assert (worker.live.mode, worker.problem) == ("canary", "")


def test_a_shadowed_model_without_a_gate_does_not_slip_into_a_canary(home, worker):
    home.change(changes.shadow(home.v3))
    worker.look()
    home.change(changes.canary(home.v3, 0.99, GUARDS))
    worker.look()
    assert (worker.live.mode, worker.live.challenger) == ("off", None)
    assert "may not answer" in worker.problem


def test_a_damaged_challenger_leaves_the_champion_says_why_and_heals(home, worker):
    champion, sound = worker.live.champion, home.file(home.v2).read_bytes()
    home.file(home.v2).write_bytes(sound[:100])
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    worker.look()
    assert (worker.live.champion, worker.live.challenger, worker.live.mode) == (champion, None, "off")
    assert (worker.live.generation, "model.onnx" in worker.problem) == (2, True)
    home.file(home.v2).write_bytes(sound)
    worker.look(retry=True)
    assert (worker.live.champion, worker.live.mode, worker.problem) == (champion, "canary", "")


@pytest.mark.parametrize(
    ("bundle", "words"), [(with_other_columns, "raw columns"), (with_other_labels, "other labels")]
)
@pytest.mark.parametrize("mode", ["shadow", "canary"])
def test_a_challenger_of_another_contract_is_refused(home, worker, bundle, words, mode):
    tag = home.add("9", bundle())
    home.change(changes.shadow(tag) if mode == "shadow" else changes.canary(tag, 0.99, GUARDS))
    worker.look()
    assert (worker.tags(), worker.live.mode) == ({"champion": home.v1}, "off")
    assert words in worker.problem
    assert slot_of(worker) == "champion"


def test_a_challenger_of_a_column_table_with_the_same_columns_takes_over_from_one_in_code(home, worker):
    """What callers are asked for decides; what a model makes of it does not."""
    tag = home.add("9", table_toy().folder)
    home.change(changes.shadow(tag))
    worker.look()
    assert (worker.tags(), worker.live.mode, worker.problem) == ({"champion": home.v1, "challenger": tag}, "shadow", "")
    home.change(changes.full(tag))
    worker.look()
    assert worker.live.champion.feature_version == table_toy().bundle.features.name
    assert not ask(worker.live).fallback_used


def test_a_previous_champion_of_another_contract_is_no_fallback(home, worker):
    tag = home.add("9", with_other_labels())
    home.change(changes.full(tag))
    worker.look()
    assert (worker.tags(), worker.problem) == ({"champion": tag}, "")


def test_rollback_takes_the_challenger_out(home, worker):
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    worker.look()
    home.change(changes.rollback())
    worker.look()
    assert (worker.tags(), worker.live.mode, worker.problem) == ({"champion": home.v1}, "off", "")


def test_counts_go_on_within_a_stage_and_begin_anew_with_the_next(home, worker):
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    worker.look()
    for i in range(20):
        ask(worker.live, subject=str(i))
    home.change(changes.flags({"shadow_share": 0.5}))
    worker.look()
    assert sum(c.answers for c in worker.live.counts.values()) == 20
    home.change(changes.canary(home.v2, 0.6, GUARDS))
    worker.look()
    assert sum(c.answers for c in worker.live.counts.values()) == 0
