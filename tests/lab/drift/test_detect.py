from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, levene, wasserstein_distance

from ml_core.base.errors import DataError
from ml_core.lab.drift.detect import detect_drift, detect_score_drift
from ml_core.lab.drift.drift_report import FEATURE_FLAGS, FEATURE_STATES
from ml_core.lab.drift.reference_window import ReferenceWindow
from tests.lab.drift.windows import COLUMNS, arrays, published

pytestmark = pytest.mark.filterwarnings("ignore:ks_2samp")  # scipy rounds a p-value of 1 to above 1

RULES = ("ks_mean_shift", "extended")


def normal(n=300, mean=0.0, sd=1.0, seed=0):
    return np.random.default_rng(seed).normal(mean, sd, n)


def one(reference, current, rule="ks_mean_shift", **limits):
    (report,) = detect_drift(pd.DataFrame({"x": reference}), pd.DataFrame({"x": current}), ["x"], rule=rule, **limits)
    return report


def with_values(values, extra):
    return np.append(values, extra)


# --- the formula of ks_mean_shift ---------------------------------------------------------------------------------


def formula(reference, current, alpha=0.05, fraction=0.10):
    """The rule as it is written down, on finite values."""
    a, b = (np.asarray(side, dtype=np.float64) for side in (reference, current))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if min(len(a), len(b)) < 30:
        return False
    p = ks_2samp(a, b, method="exact" if max(len(a), len(b)) <= 1_000 else "asymp").pvalue
    return bool(p < alpha and abs(b.mean() - a.mean()) > fraction * a.std())


def random_cases(n_cases, seed, largest=400):
    """Pairs of windows near the edge of the rule: shifted a little or not, continuous or tied, some with holes."""
    rng = np.random.default_rng(seed)
    for _ in range(n_cases):
        n, m = rng.integers(25, largest, 2)
        a, b = rng.normal(size=n), rng.normal(rng.choice([0.0, 0.15, 0.3, 0.5]), rng.choice([1.0, 1.4]), size=m)
        if (decimals := rng.choice([-1, 0, 1, 9])) < 9:
            a, b = np.round(a, max(decimals, 0)), np.round(b, max(decimals, 0))
        if decimals < 0:
            a, b = np.abs(a) > 1, np.abs(b) > 1
        yield a.astype(np.float64), b.astype(np.float64)


def agreeing(cases):
    """Whether every decision is the formula's, and how often it said drift."""
    cases = list(cases)
    names = [f"x{i}" for i in range(len(cases))]
    reports = detect_drift(*({n: case[side] for n, case in zip(names, cases, strict=True)} for side in (0, 1)), names)
    expected = [formula(a, b) for a, b in cases]
    return [r.drifted for r in reports] == expected, sum(expected)


def test_decisions_are_the_formulas_on_thousands_of_cases():
    same, drifted = agreeing(random_cases(3_000, seed=1))
    assert same
    assert 300 < drifted < 2_700  # the cases decide something


def test_decisions_are_the_formulas_where_the_p_value_is_asymptotic():
    same, drifted = agreeing(random_cases(150, seed=2, largest=3_000))
    assert same
    assert drifted > 10


@given(
    st.lists(st.integers(0, 6).map(float) | st.just(np.nan), min_size=30, max_size=60),
    st.lists(st.integers(0, 6).map(float) | st.just(np.nan), min_size=30, max_size=60),
)
@settings(deadline=None)
def test_ties_and_holes_do_not_change_the_formula(reference, current):
    assert one(reference, current).drifted == formula(reference, current)


def test_numbers_of_the_report_are_those_of_the_formula():
    reference, current = normal(200), normal(150, 0.5, seed=1)
    found, theirs = one(reference, current), ks_2samp(reference, current, method="exact")
    assert found.ks_statistic == pytest.approx(theirs.statistic)
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert found.method == "ks exact"
    assert found.mean_shift == pytest.approx(current.mean() - reference.mean())
    assert found.reference_sd == pytest.approx(reference.std())


@pytest.mark.parametrize(
    ("n", "m", "state"), [(30, 30, "ok"), (29, 30, "too_few"), (30, 29, "too_few"), (30, 0, "too_few")]
)
@pytest.mark.parametrize("rule", RULES)
def test_thirty_values_on_each_side_are_needed(n, m, state, rule):
    found = one(normal(n), np.append(normal(m, seed=2), [np.nan] * (m == 0)), rule)
    assert found.state == ("all_missing" if m == 0 else state)


def test_both_conditions_are_needed():
    assert not one(normal(9_000), normal(9_000, 0.07, seed=1)).drifted  # p is tiny, the shift is small
    assert not one(normal(30), normal(30, 0.3, seed=3)).drifted  # the shift is large, p is not small
    assert one(normal(9_000), normal(9_000, 0.2, seed=1)).drifted


def test_limits_are_those_asked_for():
    reference, current = normal(500), normal(500, 0.15, seed=5)
    assert one(reference, current, alpha=0.2, min_shift_fraction=0.05).drifted
    assert not one(reference, current, alpha=1e-9, min_shift_fraction=0.05).drifted
    assert not one(reference, current, alpha=0.2, min_shift_fraction=3.0).drifted


# --- states and flags: nothing passes silently --------------------------------------------------------------------

SENTINEL = with_values(normal(1_000), 1e9)
HOLES = np.where(np.random.default_rng(0).random(1_000) < 0.3, np.nan, normal(1_000))

CASES = [
    # name, reference, current, state and flags of ks_mean_shift, state and flags of extended
    ("plain", normal(), normal(seed=1), ("ok", ()), ("ok", ())),
    ("shift", normal(), normal(mean=2, seed=1), ("drifted", ()), ("drifted", ())),
    ("spread", normal(1_000), normal(1_000, sd=2, seed=1), ("ok", ()), ("drifted", ())),
    ("few", normal(20), normal(500), ("too_few", ()), ("too_few", ())),
    ("empty", normal(), np.empty(0), ("too_few", ()), ("too_few", ())),
    ("constant", np.full(100, 0.1), np.full(70, 0.1),
     ("constant", ("constant_reference", "constant_current")), ("constant", ("constant_reference", "constant_current"))),
    ("left a constant", np.full(100, 0.1), normal(100),
     ("drifted", ("constant_reference",)), ("drifted", ("unseen_category", "constant_reference"))),
    ("another constant", np.full(100, 3.0), np.full(100, 4.0),
     ("drifted", ("constant_reference", "constant_current")),
     ("drifted", ("unseen_category", "constant_reference", "constant_current"))),
    ("became constant", normal(), np.full(100, 0.0),
     ("drifted" if formula(normal(), np.full(100, 0.0)) else "warned", ("constant_current",)),
     ("drifted", ("constant_current",))),
    ("all missing now", normal(), np.full(100, np.nan),
     ("all_missing", ("missing_rate_changed",)), ("drifted", ("missing_rate_changed",))),
    ("all missing before", np.full(100, np.nan), normal(),
     ("all_missing", ("missing_rate_changed",)), ("drifted", ("missing_rate_changed",))),
    ("missing throughout", np.full(100, np.nan), np.full(100, np.nan), ("all_missing", ()), ("all_missing", ())),
    ("more missing", normal(1_000), HOLES,
     ("warned", ("missing_rate_changed",)), ("drifted", ("missing_rate_changed",))),
    ("infinite", with_values(normal(), np.inf), normal(seed=1),
     ("warned", ("infinite_values",)), ("warned", ("infinite_values",))),
    ("all infinite", normal(), np.full(50, -np.inf),
     ("too_few", ("infinite_values",)), ("too_few", ("infinite_values",))),
    ("sentinel blinds the sd", SENTINEL, normal(1_000, 0.5, seed=1),
     ("warned", ("sentinel_in_reference",)), ("drifted", ("sentinel_in_reference",))),
    ("sentinel now", normal(1_000), with_values(normal(1_000, seed=1), -999.0),
     ("warned", ("far_outside_reference",)), ("warned", ("far_outside_reference",))),
    ("texts among numbers", normal(100), [*normal(100, seed=1).tolist(), "unknown"],
     ("warned", ("unreadable_values",)), ("warned", ("unreadable_values",))),
    ("texts", list("ab" * 50), list("ba" * 50), ("not_judged", ()), ("ok", ())),
    ("texts changed", list("ab" * 50), list("aaab" * 25), ("not_judged", ()), ("drifted", ())),
    ("unseen text", list("ab" * 50), [*"ab" * 50, "c"],
     ("not_judged", ("unseen_category",)), ("warned", ("unseen_category",))),
    ("many unseen texts", list("ab" * 50), list("abcc" * 25),
     ("not_judged", ("unseen_category",)), ("drifted", ("unseen_category",))),
    ("numbers became texts", normal(), list("ab" * 50),
     ("all_missing", ("unreadable_values", "missing_rate_changed")),
     ("drifted", ("unreadable_values", "missing_rate_changed"))),
    ("flags", [True, False] * 100, [True] * 150 + [False] * 50, ("drifted", ()), ("drifted", ())),
    ("dates", pd.date_range("2026-01-01", periods=100), pd.date_range("2027-01-01", periods=100),
     ("not_judged", ()), ("not_judged", ())),
    ("one text", ["a"] * 50, ["a"] * 60,
     ("constant", ("constant_reference", "constant_current")), ("constant", ("constant_reference", "constant_current"))),
    ("huge", np.full(50, 1e308), np.full(50, -1e308),
     ("warned", ("overflow", "constant_reference", "constant_current")),
     ("drifted", ("overflow", "unseen_category", "constant_reference", "constant_current"))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "current", "basic", "extended"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_every_odd_window_ends_in_a_named_state(reference, current, basic, extended):
    for rule, expected in zip(RULES, (basic, extended), strict=True):
        found = one(reference, current, rule)
        assert (found.state, found.flags) == expected
        assert found.state in FEATURE_STATES
        assert set(found.flags) <= set(FEATURE_FLAGS)
        json.dumps(asdict(found), allow_nan=False)


def test_a_sentinel_changes_no_verdict_of_the_formula():
    assert not one(SENTINEL, normal(1_000, 0.5, seed=1)).drifted
    assert not formula(SENTINEL, normal(1_000, 0.5, seed=1))
    assert one(normal(1_000), normal(1_000, 0.5, seed=1)).drifted


ODD = st.lists(
    st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, -999.0, 1e9, np.nan]),
    min_size=0,
    max_size=80,
)


@given(ODD, ODD, st.sampled_from(RULES))
@settings(deadline=None)
def test_any_numbers_end_in_a_state_and_not_in_an_error(reference, current, rule):
    arrays = (np.array(side, dtype=np.float64) for side in (reference, current))
    (found,) = detect_drift(*({"x": side} for side in arrays), ["x"], rule=rule)
    assert found.state in FEATURE_STATES
    if found.state == "ok":
        assert found.tested
        assert not found.flags
    assert all(0.0 <= f.p_value <= f.adjusted_p_value <= 1.0 for f in found.findings)
    if rule == "ks_mean_shift":
        with np.errstate(all="ignore"):
            assert found.drifted == formula(reference, current)
    json.dumps(asdict(found), allow_nan=False)


@pytest.mark.parametrize("rule", RULES)
def test_a_window_held_against_itself_does_not_drift(rule):
    table = arrays(2_000)
    assert {r.state for r in detect_drift(table, table, columns=COLUMNS, rule=rule)} <= {"ok", "not_judged"}


# --- extended -----------------------------------------------------------------------------------------------------


def test_numbers_take_the_smaller_of_two_p_values_twice_and_the_wasserstein_distance():
    reference, current = normal(400), normal(350, 0.1, 1.3, seed=1)
    found = one(reference, current, "extended").findings[0]
    p_values = ks_2samp(reference, current, method="exact").pvalue, levene(reference, current).pvalue
    scale = np.subtract(*np.quantile(reference, [0.75, 0.25])) / 1.349
    assert found.p_value == pytest.approx(2 * min(p_values))
    assert found.effect == pytest.approx(wasserstein_distance(reference, current) / scale)


def test_p_values_are_corrected_over_the_whole_check():
    names = [f"x{i}" for i in range(10)]
    reference = {name: normal(200, seed=i) for i, name in enumerate(names)}
    current = {name: normal(200, 0.3 * (i == 0), seed=100 + i) for i, name in enumerate(names)}
    alone = detect_drift(reference, current, ["x0"], rule="extended")[0].findings[0]
    among = detect_drift(reference, current, names, rule="extended")[0].findings[0]
    assert alone.adjusted_p_value == alone.p_value == among.p_value
    assert alone.p_value < among.adjusted_p_value <= 10 * alone.p_value


def test_a_significant_but_small_change_is_no_drift():
    found = one(normal(60_000), normal(60_000, 0.05, seed=1), "extended")
    assert found.findings[0].adjusted_p_value < 1e-6
    assert not found.drifted


def test_few_values_are_compared_as_levels():
    rng = np.random.default_rng(0)
    before, now = rng.choice(4, 1_000, p=[0.4, 0.3, 0.2, 0.1]), rng.choice(4, 1_000, p=[0.5, 0.15, 0.2, 0.15])
    found = one(before.astype(float), now.astype(float), "extended")
    assert (found.drifted, found.method) == (True, "chi-square")


# --- tables -------------------------------------------------------------------------------------------------------


def test_codes_in_arrays_and_raw_levels_in_a_frame_say_the_same():
    before, now = arrays(500, 0), arrays(400, 1)
    levels = np.array(COLUMNS[2].levels, dtype=object)
    frames = [pd.DataFrame({**side, "dose": levels[side["dose"]]}) for side in (before, now)]
    names = [c.name for c in COLUMNS]
    for rule in RULES:
        coded, raw = (detect_drift(*pair, names, columns=COLUMNS, rule=rule) for pair in ((before, now), frames))
        assert coded == raw


def test_levels_of_a_table_are_compared_by_their_position_as_the_formula_compares_numbers():
    before, now = arrays(500, 0)["dose"], np.random.default_rng(1).choice(4, 400)
    (found,) = detect_drift({"dose": before}, {"dose": now}, ["dose"], columns=COLUMNS)
    assert found.drifted == formula(before, now)
    assert found.mean_shift == pytest.approx(now.mean() - before.mean())


def test_reports_come_in_the_order_asked_for():
    table = arrays(100)
    assert [r.feature for r in detect_drift(table, table, ["code", "age"])] == ["code", "age"]


def test_an_absent_column_is_named_with_its_side():
    with pytest.raises(DataError, match="reference: has no column bmi"):
        detect_drift(arrays(50), arrays(50), ["bmi"])
    with pytest.raises(DataError, match="current window: has no column age"):
        detect_drift(arrays(50), {"glucose": normal(50)}, ["age", "glucose"])


@pytest.mark.parametrize("limits", [{"alpha": 0.0}, {"alpha": 1.0}, {"alpha": np.nan}, {"min_shift_fraction": -0.1}])
def test_limits_outside_their_range_are_refused(limits):
    with pytest.raises(ValueError, match="expected"):
        one(normal(), normal(), **limits)


# --- the reference that travels with a model ----------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_a_models_own_rows_do_not_drift_from_its_reference(rule):
    window = ReferenceWindow.read(published(30_000), COLUMNS)
    reports = detect_drift(window, arrays(1_000, seed=9), rule=rule)
    assert [r.state for r in reports] == ["ok", "ok", "ok", "not_judged" if rule == "ks_mean_shift" else "ok"]


def test_a_published_grid_gives_nearly_the_distance_of_all_rows_and_says_how_nearly():
    window = ReferenceWindow.read(published(60_000), COLUMNS)
    now = {**arrays(1_000, seed=9), "glucose": normal(1_000, 128, 30, seed=4)}
    whole = arrays(60_000)["glucose"]
    true = ks_2samp(whole[~np.isnan(whole)], now["glucose"]).statistic
    found = next(r for r in detect_drift(window, now) if r.feature == "glucose")
    assert 0 < found.ks_uncertainty < 2e-4
    assert found.ks_statistic <= true + 1e-12
    assert true <= found.ks_statistic + found.ks_uncertainty + 20 / 60_000  # ten patients in each tail are drawn in


def test_a_change_is_found_against_a_models_reference():
    window = ReferenceWindow.read(published(30_000), COLUMNS)
    now = arrays(1_000, seed=9)
    now["age"] += 6
    now["dose"] = np.random.default_rng(0).choice(4, 1_000)
    now["code"][:300] = "V57"
    reports = {r.feature: r for r in detect_drift(window, now, rule="extended")}
    assert {name: r.drifted for name, r in reports.items()} == {
        "age": True, "glucose": False, "dose": True, "code": True
    }  # fmt: skip
    assert "unseen_category" not in reports["code"].flags  # a text that few patients shared is not published


def test_a_reference_of_too_few_patients_is_not_tested():
    window = ReferenceWindow.read(published(9), COLUMNS)
    assert {r.state for r in detect_drift(window, arrays(500))} == {"too_few"}


def test_score_distributions_are_compared_per_label():
    window = ReferenceWindow.read(published(5_000), COLUMNS)
    rng = np.random.default_rng(7)
    same, other = rng.beta(2, 8, 800), rng.beta(3, 7, 800)
    steady = detect_score_drift(window, {"0": 1 - same, "1": same})
    moved = detect_score_drift(window, {"0": 1 - other, "1": other})
    assert [(r.feature, r.state) for r in steady] == [("0", "ok"), ("1", "ok")]
    assert [r.drifted for r in moved] == [True, True]
