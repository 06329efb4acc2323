"""The runner process: holds the models the rollout names, scores by hash, and breaks for nobody else's row."""

from __future__ import annotations

import numpy as np
import pytest

from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.processes import Identity
from ml_core.serve.rollout.rollout_state import GuardLimits
from ml_core.serve.rollout.worker_reports import read_reports
from ml_core.serve.running.model_host import ModelHost
from ml_core.serve.running.runner import ConformalRunner
from tests.folder_files import heartbeats, rollout_file
from tests.homes import bento_store
from tests.serve.answering.builders import PoisonRunner, other_toy, until
from tests.serve.answering.stored import Home, Worker
from tests.toy_models import loaded_toy, toy_model

GUARDS = GuardLimits(set_size=1.9)
ROWS = np.random.default_rng(3).uniform(0, 200, (30, len(toy_model().bundle.features.feature_names))).astype(np.float32)


@pytest.fixture
def home(tmp_path):
    with bento_store(tmp_path / "bento"):
        made = Home(tmp_path / "home")
        made.promote(made.v1)
        yield made


@pytest.fixture
def host(home) -> ModelHost:
    made = ModelHost(home.settings, ModelLoader(home.settings), Identity("s", "runner", 1, 50, "t"))
    made.look()
    return made


def holds(host: ModelHost, home: Home, tag: str) -> bool:
    return host.score(home.hash_of(tag), ROWS) is not None


def test_a_desk_scores_as_the_model_itself_does(home, host):
    proba, fault = host.score(home.hash_of(home.v1), ROWS)
    assert fault is None
    assert proba.tobytes() == ConformalRunner(loaded_toy()).proba(ROWS).tobytes()


def test_a_model_it_does_not_hold_has_no_answer(home, host):
    assert host.score("0" * 64, ROWS) is None
    assert not holds(host, home, home.v2)


@pytest.mark.parametrize("how", ["raise", "nan"])
def test_a_poisoned_row_is_nan_and_its_neighbours_keep_their_bits(home, host, how):
    tag, (inner, model) = next(iter(host._models.items()))
    poison = PoisonRunner(lambda x: (x == ROWS[11]).all(axis=1), how, inner)
    host._models = {tag: (poison, model)}
    proba, fault = host.score(home.hash_of(home.v1), ROWS)
    healthy = np.arange(len(ROWS)) != 11
    assert np.isnan(proba[11]).all()
    assert proba[healthy].tobytes() == inner.proba(ROWS)[healthy].tobytes()
    assert fault == ("model_error" if how == "raise" else "bad_output")


@pytest.mark.parametrize("sent", [ROWS.astype(np.float64), np.asfortranarray(ROWS), ROWS[::-1][::-1], ROWS.tolist()])
def test_what_the_hop_made_of_the_matrix_does_not_matter(home, host, sent):
    proba, _ = host.score(home.hash_of(home.v1), sent)
    assert proba.tobytes() == ConformalRunner(loaded_toy()).proba(ROWS).tobytes()


def test_a_desk_follows_the_rollout_and_keeps_both_sides_of_a_change(home, host):
    Worker(home)  # makes the state
    home.change(changes.canary(home.v2, 0.5, GUARDS))
    host.look()
    assert holds(host, home, home.v1)
    assert holds(host, home, home.v2)
    proba, _ = host.score(home.hash_of(home.v2), ROWS)
    assert proba.tobytes() == ConformalRunner(other_toy()).proba(ROWS).tobytes()
    home.change(changes.full(home.v2))
    host.look()
    assert holds(host, home, home.v1)


def test_a_model_that_is_named_no_more_is_kept_for_those_who_are_slower_and_then_let_go(home, host):
    Worker(home)
    home.change(changes.shadow(home.v2))
    host.look()
    home.change(changes.rollback())
    host.look()
    assert holds(host, home, home.v2)
    host._named_at[home.v2] -= 15.0
    host.look()
    assert not holds(host, home, home.v2)
    assert holds(host, home, home.v1)


def test_shadow_needs_no_gate_and_canary_does(home, host):
    Worker(home)
    home.change(changes.canary(home.v3, 0.5, GUARDS))
    host.look()
    assert not holds(host, home, home.v3)
    home.change(changes.shadow(home.v3))
    host._retry_at.clear()
    host.look()
    assert holds(host, home, home.v3)


def test_a_damaged_model_is_reported_and_heals_while_the_others_are_held(home, host):
    Worker(home)
    sound = home.file(home.v2).read_bytes()
    home.file(home.v2).write_bytes(b"no model")
    home.change(changes.shadow(home.v2))
    host.look()
    assert not holds(host, home, home.v2)
    assert holds(host, home, home.v1)
    reports = [r for r in read_reports(heartbeats(home.settings)) if r.role == "runner"]
    assert ["model.onnx" in r.problem for r in reports] == [True]
    home.file(home.v2).write_bytes(sound)
    host._retry_at.clear()
    host.look()
    host.look()
    assert holds(host, home, home.v2)
    assert [r.problem for r in read_reports(heartbeats(home.settings)) if r.role == "runner"] == [None]


def test_a_damaged_model_is_not_verified_anew_at_every_look(home, host, monkeypatch):
    Worker(home)
    home.file(home.v2).write_bytes(b"no model")
    home.change(changes.shadow(home.v2))
    load, tried = host._loader.load, []
    monkeypatch.setattr(
        host._loader, "load", lambda tag, *more, **options: (tried.append(tag), load(tag, *more, **options))[1]
    )
    for _ in range(10):
        host.look()
    assert tried == [home.v2]


def test_a_broken_state_file_leaves_what_is_held(home, host):
    Worker(home)
    home.change(changes.full(home.v2))
    host.look()
    rollout_file(home.settings).write_bytes(b"{")
    host.look()
    rollout_file(home.settings).unlink()
    host.look()
    assert holds(host, home, home.v2)


def test_a_desk_without_any_model_says_so_and_takes_one_up_later(tmp_path):
    with bento_store(tmp_path / "bento"):
        home = Home(tmp_path / "home")
        host = ModelHost(home.settings, ModelLoader(home.settings), Identity("s", "runner", 1, 50, "t"))
        host.look()
        assert not holds(host, home, home.v1)
        home.promote(home.v1)
        host.look()
        assert holds(host, home, home.v1)


def test_a_desk_that_has_begun_follows_on_its_own(home, host):
    Worker(home)
    host.begin()
    home.change(changes.full(home.v2))
    until(lambda: holds(host, home, home.v2))
    host.stop()
    host._thread.join(30)
    assert not host._thread.is_alive()
