"""A worker that starts without its champion goes down the ladder, says so, and comes up again by itself."""

from __future__ import annotations

import shutil

import pytest

from ml_core.base.errors import NotLoaded
from ml_core.serve.model.bundle import CALIBRATION_FILE, FALLBACK_FILE, ONNX_FILE
from ml_core.serve.model.manifest import MANIFEST_FILE
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_state import GuardLimits
from ml_core.serve.worker.status import ServiceStatus
from tests.homes import bento_store
from tests.serve.answering.builders import ask, ask_all, toy_records
from tests.serve.answering.stored import Home, Worker


@pytest.fixture
def home(tmp_path):
    with bento_store(tmp_path / "bento"):
        made = Home(tmp_path / "home")
        made.promote(made.v1)
        Worker(made)
        yield made


def spoil(home: Home, tag: str, name: str = ONNX_FILE) -> bytes:
    """Damage a file of that model; what it held."""
    sound = home.file(tag, name).read_bytes()
    home.file(tag, name).write_bytes(b"x" + sound[1:])
    return sound


def status_of(home: Home, worker: Worker) -> dict:
    return ServiceStatus(home.settings, worker.service, worker.follower).report()


def test_the_previous_champion_answers_flagged_until_the_champion_loads(home):
    home.change(changes.full(home.v2))
    sound = spoil(home, home.v2)
    worker = Worker(home)
    answer = ask(worker.live)
    assert (answer.fallback_used, answer.fallback_reason) == (True, "model_not_loaded")
    assert (answer.lineage.slot, answer.lineage.model_version, answer.lineage.model_hash) == (
        "previous", "1", home.hash_of(home.v1),
    )  # fmt: skip
    assert worker.tags() == {"previous": home.v1}
    told = status_of(home, worker.look())
    assert (told["ready"], told["health"], told["rollout"]["not_loaded"]) == (True, "degraded", home.v2)
    assert "model.onnx" in told["problem"]
    assert any(home.v2 in note and "previous one answers" in note for note in told["notes"])
    home.file(home.v2).write_bytes(sound)
    worker.look(retry=True)
    assert worker.tags() == {"champion": home.v2, "previous": home.v1}
    assert (ask(worker.live).fallback_reason, ask(worker.live).lineage.model_version) == (None, "2")
    assert (status_of(home, worker)["notes"], worker.problem) == ([], "")


@pytest.mark.parametrize("gone", ["spoilt", "deleted"])
def test_without_a_previous_one_the_champions_scorecard_answers(home, gone):
    if gone == "spoilt":
        spoil(home, home.v1)
    else:
        home.file(home.v1).unlink()
    worker = Worker(home)
    answers = ask_all(worker.live, toy_records(20)).predictions
    assert {(a.fallback_reason, a.lineage.slot, a.lineage.model_hash) for a in answers} == {
        ("model_not_loaded", "scorecard", home.hash_of(home.v1))
    }
    assert [worker.look(retry=True).live.champion.model.is_whole for _ in range(3)] == [False] * 3
    assert status_of(home, worker)["health"] == "degraded"


def test_the_scorecard_gives_the_answers_that_it_gives_beside_its_model(home):
    whole = Worker(home)
    whole.live.champion.guard.breaker.override("forced_open")
    expected = [a.p_values for a in ask_all(whole.live, toy_records(20)).predictions]
    spoil(home, home.v1)
    assert [a.p_values for a in ask_all(Worker(home).live, toy_records(20)).predictions] == expected


def test_the_previous_one_takes_over_from_the_scorecard_once_it_is_there(home):
    home.change(changes.full(home.v2))
    spoil(home, home.v2)
    kept = home.folder(home.v1).rename(home.folder(home.v1).parent / "away")
    worker = Worker(home)
    assert ask(worker.live).lineage.slot == "scorecard"
    shutil.move(kept, home.folder(home.v1))
    assert ask(worker.look(retry=True).live).lineage.slot == "previous"


@pytest.mark.parametrize("name", [MANIFEST_FILE, FALLBACK_FILE, CALIBRATION_FILE])
def test_where_nothing_of_the_champion_can_be_trusted_the_worker_is_not_ready(home, name):
    spoil(home, home.v1, name)
    worker = Worker(home)
    with pytest.raises(NotLoaded):
        _ = worker.live
    assert status_of(home, worker)["ready"] is False


def test_an_artefact_that_nobody_has_judged_answers_nothing(home):
    home.change(changes.full(home.v3))
    shutil.rmtree(home.folder(home.v1))
    with pytest.raises(NotLoaded):
        _ = Worker(home).live


def test_a_canary_keeps_its_share_while_the_champion_is_missing(home):
    home.watch()
    home.change(changes.full(home.v2))
    home.change(changes.rollback())
    home.change(changes.canary(home.v2, 0.5, GuardLimits(set_size=1.9)))
    spoil(home, home.v1)
    worker = Worker(home)
    slots = {ask(worker.live, subject=f"p{i}").lineage.slot for i in range(40)}
    assert slots == {"challenger", "scorecard"}


# --- a gate that says no later ----------------------------------------------------------------------------------------


def test_a_later_no_leaves_running_workers_alone_and_keeps_new_ones_from_the_model(home):
    home.change(changes.full(home.v2))
    running = Worker(home)
    home.pass_gate(home.v2, passed=False)
    assert ask(running.look().live).lineage.model_version == "2"
    fresh = Worker(home, 2)
    assert (ask(fresh.live).lineage.slot, fresh.live.missing) == ("previous", home.v2)
    assert "said no" in fresh.problem


def test_without_a_previous_one_a_refused_champion_answers_with_every_label(home):
    home.pass_gate(home.v1, passed=False)
    answer = ask(Worker(home).live)
    assert (answer.lineage.slot, answer.fallback_reason, len(answer.prediction_set)) == ("prior", "model_not_loaded", 2)


def test_an_operator_can_have_a_refused_model_answer_all_the_same(home):
    home.pass_gate(home.v1, passed=False)
    fresh = Worker(home)
    home.change(changes.flags({"despite_gate": [home.v1]}))
    for worker in (fresh.look(), Worker(home, 2)):
        assert (ask(worker.live).fallback_reason, worker.problem) == (None, "")
    home.change(changes.flags({"despite_gate": [home.v3]}))
    home.change(changes.full(home.v3))
    assert "has no gate" in fresh.look().problem  # it was never judged


# --- a canary that nobody watches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("guards", "shares"), [(GuardLimits(set_size=1.9), (0.0, 0.5)), (None, (0.5, 0.5))])
def test_the_champion_answers_a_guarded_canarys_share_while_the_monitor_is_silent(home, monkeypatch, guards, shares):
    home.watch()
    home.change(changes.canary(home.v2, 0.5, guards))
    worker = Worker(home)
    assert worker.live.share("challenger") == 0.5
    clock = [0.0]
    real = __import__("time").monotonic
    monkeypatch.setattr("ml_core.serve.rollout.monitor_state.time.monotonic", lambda: real() + clock[0])
    clock[0] = 31.0
    worker.look()
    assert worker.live.share("challenger") == shares[0]
    slots = {ask(worker.live, subject=f"p{i}").lineage.slot for i in range(40)}
    assert slots == ({"champion"} if guards else {"champion", "challenger"})
    told = status_of(home, worker)
    assert told["rollout"]["canary_held"] is (guards is not None)
    assert any("monitor is silent" in note for note in told["notes"]) is (guards is not None)
    clock[0] = 0.0
    home.watch()
    assert worker.look().live.share("challenger") == shares[1]
    assert status_of(home, worker)["rollout"]["canary_held"] is False
