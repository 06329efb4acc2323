"""What the monitor publishes, and what workers make of it: valid, suspect, or nobody knows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.documents import write_document
from ml_core.base.settings import Settings
from ml_core.serve.rollout.monitor_state import (
    Alarm,
    HealthFigure,
    ModelHealth,
    MonitorState,
    MonitorView,
    Unverified,
    boot_id,
    is_fresh,
    validity_by_model,
)
from tests.serve.rollout.states import of_a_later_release

A, B = "a" * 64, "b" * 64
TIMEOUT_S = 180.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, model_name="toy", monitor_timeout_s=TIMEOUT_S)


def alarm(reason: str) -> Alarm:
    return Alarm(reason=reason, since="2026-03-01T12:00:00Z", says="so", false_alarm="seldom")


def state(beat_s: float, reasons: tuple[str, ...] = (), **facts: Any) -> MonitorState:
    """Model A with these alarms, model B without any."""
    models = {
        A: ModelHealth(model_version="1", alarms=tuple(alarm(reason) for reason in reasons)),
        B: ModelHealth(model_version="2"),
    }
    usual = {"model_name": "toy", "published_at": "now", "boot": boot_id(), "beat_s": beat_s, "models": models}
    return MonitorState.model_validate({**usual, **facts})


def publish(settings: Settings, reasons: tuple[str, ...] = (), *, age_s: float = 0.0, **facts: Any) -> None:
    write_document(settings.monitor_state, state(time.monotonic() - age_s, reasons, **facts))


# --- judging ------------------------------------------------------------------------------------------------------


def test_a_model_with_alarms_is_suspect_for_these_reasons_and_others_are_valid() -> None:
    found = validity_by_model(state(100.0, ("coverage:1", "drift")), 101.0, TIMEOUT_S)
    assert found == {A: ("suspect", ("coverage:1", "drift")), B: ("valid", ())}


@pytest.mark.parametrize(
    ("alarms", "word"),
    [((), ("unverified", ("outcomes:0", "outcomes:1"))), (("drift",), ("suspect", ("drift",)))],
)
def test_missing_outcomes_make_a_model_unverified_and_an_alarm_says_more(alarms: tuple[str, ...], word: object) -> None:
    unverified = tuple(Unverified(reason=f"outcomes:{k}", says="so") for k in (0, 1))
    health = ModelHealth(model_version="1", alarms=tuple(map(alarm, alarms)), unverified=unverified)
    assert validity_by_model(state(100.0, models={A: health}), 101.0, TIMEOUT_S) == {A: word}


def test_what_an_earlier_release_has_published_leaves_nothing_unverified() -> None:
    assert ModelHealth.model_validate({"model_version": "1", "alarms": [], "figures": []}).unverified == ()


def test_what_a_later_release_says_besides_is_passed_over_by_workers_of_this_one(settings: Settings) -> None:
    health = ModelHealth(
        model_version="1",
        alarms=(alarm("drift"),),
        unverified=(Unverified(reason="outcomes:1", says="so"),),
        figures=(HealthFigure(name="live_coverage", value=0.9, label="1"),),
    )
    mine = state(time.monotonic(), models={A: health, B: ModelHealth(model_version="2")})
    settings.monitor_state.parent.mkdir(parents=True)
    settings.monitor_state.write_bytes(of_a_later_release(mine))
    view = MonitorView(settings)
    assert view.look() == {A: ("suspect", ("drift",)), B: ("valid", ())}
    assert view.state == mine
    assert view.is_fresh


@given(beat=st.floats(0, 1e9), age=st.floats(-1e9, 1e9), timeout=st.floats(0.1, 1e5))
def test_what_is_older_than_the_timeout_or_of_the_future_says_nothing(beat: float, age: float, timeout: float) -> None:
    found, now = state(beat, ("drift",)), beat + age
    assert is_fresh(found, now, timeout) == (0.0 <= now - beat <= timeout)
    assert validity_by_model(found, now, timeout).keys() == ({A, B} if 0.0 <= now - beat <= timeout else set())


def test_what_was_published_before_the_system_started_anew_says_nothing() -> None:
    assert validity_by_model(state(100.0, boot="another"), 101.0, TIMEOUT_S) == {}


def test_where_nothing_was_published_nothing_is_monitored() -> None:
    assert validity_by_model(None, 101.0, TIMEOUT_S) == {}


# --- following ----------------------------------------------------------------------------------------------------


def test_a_view_follows_what_is_published(settings: Settings) -> None:
    view = MonitorView(settings)
    assert (view.look(), view.is_fresh, view.age_s) == ({}, False, None)
    publish(settings)
    assert view.look() == {A: ("valid", ()), B: ("valid", ())}
    publish(settings, ("coverage:0",))
    assert view.look()[A] == ("suspect", ("coverage:0",))
    publish(settings, models={})
    assert view.look() == {}
    assert view.is_fresh


def test_what_has_not_changed_is_not_parsed_again_but_grows_old(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings)
    view = MonitorView(settings)
    view.look()
    parsed: list[str] = []
    monkeypatch.setattr("ml_core.serve.rollout.monitor_state.parsed_document", lambda _, name, __: parsed.append(name))
    assert view.look() == {A: ("valid", ()), B: ("valid", ())}
    beat_s = view.state.beat_s if view.state else 0.0
    monkeypatch.setattr("ml_core.serve.rollout.monitor_state.time.monotonic", lambda: beat_s + TIMEOUT_S + 1)
    assert (view.look(), view.is_fresh, parsed) == ({}, False, [])
    assert view.age_s == pytest.approx(TIMEOUT_S + 1)


@pytest.mark.parametrize("content", [b"", b"{", b'{"model_name": "toy"}', b"\xff\xfe", b"[]"])
def test_what_cannot_be_read_says_nothing_and_what_comes_next_is_followed(settings: Settings, content: bytes) -> None:
    publish(settings)
    view = MonitorView(settings)
    view.look()
    settings.monitor_state.write_bytes(content)
    assert (view.look(), view.is_fresh) == ({}, False)
    publish(settings, ("drift",))
    assert view.look()[A] == ("suspect", ("drift",))


def test_what_is_removed_says_nothing(settings: Settings) -> None:
    publish(settings)
    view = MonitorView(settings)
    view.look()
    settings.monitor_state.unlink()
    assert (view.look(), view.state, view.age_s) == ({}, None, None)


def test_a_folder_where_the_file_should_be_says_nothing(settings: Settings) -> None:
    settings.monitor_state.mkdir(parents=True)
    assert MonitorView(settings).look() == {}


def test_the_age_is_that_of_the_monitor_and_not_of_the_look(settings: Settings) -> None:
    publish(settings, age_s=50.0)
    view = MonitorView(settings)
    view.look()
    assert view.age_s is not None
    assert 50.0 <= view.age_s < 100.0


def test_models_of_other_names_have_monitors_of_their_own(settings: Settings, tmp_path: Path) -> None:
    publish(settings)
    assert MonitorView(Settings(home=tmp_path, model_name="other")).look() == {}
