"""What holds for every rollout state, whatever changes led to it, and what each change leaves alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError

from ml_core.base.errors import ConfigError, SuretyError
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_state import CircuitOrder, Flags, GuardLimits, RolloutState

A, B, C = "toy:v1-aaaaaaaa", "toy:v2-bbbbbbbb", "toy:v3-cccccccc"
GUARDS = GuardLimits(set_size=1.5)
ORDERS = {"champion": CircuitOrder(mode="forced_open", resets=2)}


def state(**facts) -> RolloutState:
    usual = {"model_name": "toy", "generation": 7, "stage": 4, "champion": A, "promotion_seen": "t1",
             "changed_at": "t", "changed_by": "me", "why": "so"}  # fmt: skip
    return RolloutState(**{**usual, **facts})


CANARY = state(challenger=B, mode="canary", weight=0.2, guards=GUARDS, previous=C, circuits=ORDERS)
SETTLED = {"challenger": None, "mode": "off", "weight": 0.0, "guards": None, "circuits": {}, "stage": 8}


def changed(before: RolloutState, change: changes.Change) -> dict:
    """The fields that the change makes differ."""
    after = change(before)
    return {n: getattr(after, n) for n in RolloutState.model_fields if getattr(after, n) != getattr(before, n)}


@pytest.mark.parametrize(
    ("before", "change", "difference"),
    [
        (state(), changes.shadow(B), {"challenger": B, "mode": "shadow", "stage": 8}),
        (CANARY, changes.shadow(B), {"mode": "shadow", "weight": 0.0, "guards": None, "stage": 8}),
        (CANARY, changes.canary(B, 0.5, GUARDS), {"weight": 0.5, "stage": 8}),
        (CANARY, changes.full(B), {**SETTLED, "champion": B, "previous": A}),
        (CANARY, changes.rollback(), SETTLED),
        (state(previous=B), changes.rollback(), {"champion": B, "previous": A, "stage": 8}),
        (CANARY, changes.promoted(B, "t2"), {**SETTLED, "champion": B, "previous": A, "promotion_seen": "t2"}),
        (CANARY, changes.flags({"shadow": False}), {"flags": Flags(shadow=False)}),
        (
            CANARY,
            changes.circuit("challenger", "disabled"),
            {"circuits": {**ORDERS, "challenger": CircuitOrder(mode="disabled")}},
        ),
        (
            CANARY,
            changes.circuit("champion", "auto", reset=True),
            {"circuits": {"champion": CircuitOrder(mode="auto", resets=3)}},
        ),
    ],
)
def test_a_change_touches_what_it_says_and_nothing_else(before, change, difference):
    assert changed(before, change) == difference


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"confidence_level": "nan"}, "confidence_level"),
        ({"shadow": None}, "shadow"),
        ({"shadow_share": "nan"}, "shadow_share"),
    ],
)
def test_a_flag_that_is_no_value_at_all_is_named(values, name):
    with pytest.raises(ConfigError, match=f"flag {name}"):
        changes.flags(values)(state())


@pytest.mark.parametrize(
    "facts",
    [{"weight": 1.5}, {"generation": 0}, {"mode": "half"}, {"colour": "red"}, {"flags": {"shadow": 3}}, {"guards": {}}],
)
def test_a_state_that_cannot_be_is_refused(facts):
    with pytest.raises(ValidationError):
        state(**facts)


tags = st.sampled_from([A, B, C])
any_change = st.one_of(
    st.builds(changes.shadow, tags),
    st.builds(changes.canary, tags, st.floats(0, 1), st.just(GUARDS)),
    st.builds(changes.full, tags),
    st.builds(changes.promoted, tags, st.sampled_from(["t1", "t2"])),
    st.builds(changes.rollback, st.sampled_from(["", "error_share"])),
    st.builds(changes.circuit, st.sampled_from(["champion", "challenger"]), st.sampled_from(["auto", "forced_open"])),
    st.builds(changes.flags, st.sampled_from([{"shadow": False}, {"shadow_share": 0.5}])),
)


@given(st.lists(any_change, max_size=20))
@examples(deadline=None, max_examples=300)
def test_whatever_is_changed_the_state_stays_consistent(wanted):
    now = state()
    for change in wanted:
        try:
            after = change(now)
        except SuretyError:
            continue
        now = RolloutState.model_validate({**after.model_dump(), "generation": now.generation + 1})
        assert now.champion not in {now.challenger, now.previous}
        assert (now.mode == "off") == (now.challenger is None)
        assert (now.mode == "canary") == (now.guards is not None) == (0 < now.weight < 1)
        assert now.stage <= now.generation
        assert RolloutState.model_validate_json(now.model_dump_json()) == now
