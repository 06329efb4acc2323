"""What may become of a rollout."""

from __future__ import annotations

from decimal import Decimal

import pytest

from ml_core.base.errors import ConfigError, RolloutRefused
from ml_core.serve.rollout import changes
from tests.serve.rollout.states import V1, V2, V3, limits, state

CANARY = state(challenger=V2, mode="canary", weight=0.1, guards=limits(), generation=3, stage=3)


def test_shadow_puts_a_challenger_beside_and_gives_it_no_traffic() -> None:
    after = changes.shadow(V2)(state())
    assert (after.champion, after.challenger, after.mode, after.weight) == (V1, V2, "shadow", 0.0)


def test_canary_has_its_weight_and_its_guards() -> None:
    after = changes.canary(V2, 0.25, limits())(state())
    assert (after.challenger, after.mode, after.weight, after.guards) == (V2, "canary", 0.25, limits())


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.1, 1.1, float("nan")])
def test_canary_of_nothing_or_all_is_refused(weight: float) -> None:
    with pytest.raises(RolloutRefused):
        changes.canary(V2, weight, limits())(state())


@pytest.mark.parametrize("change", [changes.shadow(V1), changes.canary(V1, 0.1, limits()), changes.full(V1)])
def test_champion_is_no_challenger_of_itself(change: changes.Change) -> None:
    with pytest.raises(RolloutRefused):
        change(state())


def test_full_makes_the_challenger_champion_and_keeps_the_old_one_warm() -> None:
    after = changes.full(V2, "2026-02-02T00:00:00Z")(CANARY)
    assert (after.champion, after.previous, after.challenger, after.mode, after.weight) == (V2, V1, None, "off", 0.0)
    assert (after.guards, after.promotion_seen) == (None, "2026-02-02T00:00:00Z")


def test_full_of_a_model_that_was_not_promoted_keeps_what_was_seen() -> None:
    assert changes.full(V2)(state(promotion_seen="then")).promotion_seen == "then"


def test_rollback_of_a_canary_takes_the_challenger_out_and_leaves_the_champion() -> None:
    after = changes.rollback()(CANARY)
    assert (after.champion, after.challenger, after.mode, after.weight) == (V1, None, "off", 0.0)
    assert after.rollbacks == {}


def test_rollback_after_full_puts_the_old_champion_back_and_can_be_taken_back() -> None:
    there = changes.full(V2)(state())
    back = changes.rollback()(there)
    assert (back.champion, back.previous) == (V1, V2)
    assert changes.rollback()(back).champion == V2


def test_rollback_with_nothing_to_go_back_to_is_refused() -> None:
    with pytest.raises(RolloutRefused):
        changes.rollback()(state())


def test_rollback_by_a_guard_is_counted_under_its_name() -> None:
    once = changes.rollback("error_share")(CANARY)
    again = changes.rollback("error_share")(CANARY.model_copy(update={"rollbacks": once.rollbacks}))
    assert (once.rollbacks, again.rollbacks) == ({"error_share": 1}, {"error_share": 2})


def test_newer_promotion_is_the_champion_with_nothing_beside_it() -> None:
    after = changes.promoted(V3, "later")(CANARY)
    assert (after.champion, after.previous, after.challenger, after.promotion_seen) == (V3, V1, None, "later")


def test_promotion_of_what_is_live_is_only_noted() -> None:
    after = changes.promoted(V1, "later")(state(previous=V3))
    assert (after.champion, after.previous, after.promotion_seen) == (V1, V3, "later")


@pytest.mark.parametrize(
    "change", [changes.shadow(V2), changes.canary(V2, 0.5, limits()), changes.full(V2), changes.promoted(V2, "x")]
)
def test_dividing_the_traffic_anew_begins_a_stage(change: changes.Change) -> None:
    assert change(state(generation=7, stage=2)).stage == 8


@pytest.mark.parametrize("change", [changes.flags({"shadow_share": 0.5}), changes.circuit("champion", "forced_open")])
def test_flags_and_circuits_leave_the_stage_and_its_counts(change: changes.Change) -> None:
    assert change(CANARY).stage == CANARY.stage


def test_flags_are_set_by_name_and_the_others_stay() -> None:
    after = changes.flags({"confidence_level": "0.95", "fallback": ["scorecard"]})(state())
    assert after.flags.confidence_level == Decimal("0.95")
    assert (after.flags.fallback, after.flags.shadow_share) == (("scorecard",), 1.0)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"confidence_level": "0.4"}, "confidence_level"),
        ({"shadow_share": 1.5}, "shadow_share"),
        ({"shadow": "perhaps"}, "shadow"),
        ({"fallback": ["prior", "prior"]}, "fallback"),
        ({"fallback": ["guess"]}, "fallback"),
        ({"log_mode": "fast"}, "log_mode"),
    ],
)
def test_flag_that_cannot_be_is_refused_by_name(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        changes.flags(values)(state())


def test_orders_for_circuits_last_until_the_traffic_is_settled_anew() -> None:
    told = changes.circuit("champion", "forced_open")(state())
    again = changes.circuit("champion", "auto", reset=True)(told)
    assert (told.circuits["champion"].mode, told.circuits["champion"].resets) == ("forced_open", 0)
    assert (again.circuits["champion"].mode, again.circuits["champion"].resets) == ("auto", 1)
    assert changes.full(V2)(told).circuits == {}
