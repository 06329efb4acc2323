"""Where a model stands, told from what lies in the home."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from ml_core.base.documents import write_document
from ml_core.base.journal import Journal
from ml_core.lab.watching.model_status import model_status
from ml_core.serve.model.vouching import keep_gate
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.monitor_state import Alarm, ModelHealth, MonitorState, Unverified, boot_id
from ml_core.serve.rollout.rollout_state import GuardLimits
from ml_core.serve.rollout.worker_reports import write_worker_report
from tests.folder_files import heartbeats
from tests.serve.answering.stored import Home, Worker
from tests.serve.rollout.states import report, slot_report
from tests.toy_models import NAME, passed_gate

ENDPOINT = "http://ward:3000/"


def every_state(home: Home) -> Iterator[Home]:
    """The home in every state that asks for another next action, one after the other."""
    yield home
    (home.settings.feature_store / "models" / NAME / "v1" / "_delta_log").mkdir(parents=True)
    yield home
    Journal(home.settings.journal).append("model.registered", {"model": NAME, "version": "3"})
    yield home
    home.promote(home.v1)
    yield home
    serving(home)
    yield home
    watched(home)
    yield home
    for alarm in ("coverage:1", "drift", "gate"):
        watched(home, alarm)
        yield home
    watched(home, unverified=("outcomes:1",))
    yield home
    watched(home)
    home.change(changes.shadow(home.v2))
    yield home
    home.change(changes.canary(home.v2, 0.1, GuardLimits(set_size=2.0)))
    yield home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def serving(home: Home) -> None:
    """v1 is promoted and live, and its worker reports."""
    home.promote(home.v1)
    Worker(home)
    slot = slot_report("champion", tag=home.v1, model_hash=home.hash_of(home.v1))
    write_worker_report(heartbeats(home.settings), report(1, time.monotonic(), slots=(slot,)))


def watched(home: Home, *alarms: str, unverified: tuple[str, ...] = ()) -> None:
    """The monitor has just published, with these alarms on for v1, and this unverified of it."""
    open_ = tuple(Unverified(reason=reason, says="…") for reason in unverified)
    on = tuple(Alarm(reason=a, since="2026-01-01T00:00:00Z", says="…", false_alarm="…") for a in alarms)
    state = MonitorState(
        model_name=NAME, published_at="2026-01-01T00:00:00Z", boot=boot_id(), beat_s=time.monotonic(),
        models={home.hash_of(home.v1): ModelHealth(model_version="1", alarms=on, unverified=open_)},
    )  # fmt: skip
    write_document(home.settings.monitor_state, state)


def test_nothing_is_known_of_a_model_nobody_has_made(home: Home) -> None:
    found = model_status(home.settings, ENDPOINT)
    assert asdict(found) == {
        "model_registered": False,
        "registry_uri": f"sqlite:///{home.settings.home.absolute() / 'mlflow.db'}",
        "drift_status": "nominal",
        "deployment_gate": "failed",
        "api_endpoint": "http://ward:3000/predict",
        "next_action": "surety features run --config configs/NAME.yaml",
        "is_empty": True,
    }


def test_credentials_of_the_registry_are_not_shown(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://anna:secret@registry.example:8443/mlflow")
    assert model_status(home.settings, ENDPOINT).registry_uri == "https://registry.example:8443/mlflow"


def test_a_registered_challenger_is_to_be_promoted_and_its_gate_is_told(home: Home) -> None:
    model_hash = home.hash_of(home.v3)
    facts = {"model": NAME, "version": "3", "model_hash": model_hash}
    Journal(home.settings.journal).append("model.registered", facts)
    keep_gate(home.settings, passed_gate(model_hash), "3")
    found = model_status(home.settings, ENDPOINT)
    assert (found.model_registered, found.deployment_gate) == (True, "passed")
    assert "surety promote" in found.next_action


def test_each_thing_that_is_missing_is_the_next_to_do(home: Home) -> None:
    home.promote(home.v1)
    assert "make serve" in model_status(home.settings, ENDPOINT).next_action
    serving(home)
    assert "surety monitor" in model_status(home.settings, ENDPOINT).next_action
    watched(home)
    found = model_status(home.settings, ENDPOINT)
    assert (found.next_action, found.deployment_gate, found.drift_status) == ("none", "passed", "nominal")


def test_alarms_are_told_and_only_drift_is_drift(home: Home) -> None:
    serving(home)
    watched(home, "coverage:1")
    found = model_status(home.settings, ENDPOINT)
    recalibrate = "surety recalibrate --config configs/NAME.yaml --shadow"
    assert (found.drift_status, found.next_action) == ("nominal", recalibrate)
    watched(home, "coverage:1", "drift")
    found = model_status(home.settings, ENDPOINT)
    assert (found.drift_status, found.next_action) == ("drift_detected", recalibrate)
    watched(home, "drift")
    assert "surety retrain" in model_status(home.settings, ENDPOINT).next_action
    watched(home, "gate")
    assert model_status(home.settings, ENDPOINT).next_action == f"surety alarms show --model {NAME}"


def test_missing_outcomes_are_to_be_looked_at_once_no_alarm_is_on(home: Home) -> None:
    serving(home)
    watched(home, unverified=("outcomes:1",))
    assert model_status(home.settings, ENDPOINT).next_action == f"surety coverage check --model {NAME}"
    watched(home, "coverage:0", unverified=("outcomes:1",))
    assert model_status(home.settings, ENDPOINT).next_action == f"surety alarms show --model {NAME}"


def test_a_challenger_on_trial_is_what_comes_next(home: Home) -> None:
    serving(home)
    watched(home)
    home.change(changes.shadow(home.v2))
    assert "rollout canary" in model_status(home.settings, ENDPOINT).next_action
