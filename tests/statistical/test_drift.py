"""How often the drift rules are wrong when nothing drifts, and how often they see a drift that is there."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom

from ml_core.lab.drift.current_window import summarised
from ml_core.lab.drift.detect import detect_drift, judged
from ml_core.lab.drift.drift_report import should_retrain
from ml_core.lab.drift.drift_rules import Limits
from ml_core.lab.drift.reference_window import ReferenceWindow
from ml_core.lab.drift.two_sample import compare_counts

pytestmark = pytest.mark.slow

NOISE = 1e-6  # chance that a limit of this file fails without cause
FEATURES = (5, 10, 20, 50)
NAMES = [f"x{i}" for i in range(max(FEATURES))]
CHECKS = {100: 1_000, 1_000: 400, 100_000: 12}  # rows of each side: simulated checks


def most(rate, times):
    """A count that events of at most this rate exceed with probability ``NOISE`` at most."""
    return int(binom.ppf(1 - NOISE, times, rate))


def fewest(rate, times):
    """A count that events of at least this rate stay below with probability ``NOISE`` at most."""
    return int(binom.ppf(NOISE, times, rate))


def tell(what, figure):
    print(f"\n  {what}: {figure}", end="")  # noqa: T201 - figures for people, seen with pytest -s


def normal_rows(rng, n, rho):
    """n rows of 50 standard normal features with the same correlation between any two."""
    common = rng.normal(size=n) * rho**0.5
    return {name: rng.normal(size=n) * (1 - rho) ** 0.5 + common for name in NAMES}


def wrong_checks(n, rho, seed):
    """Checks that advise retraining, and that flag any feature, by rule and number of features, without any drift."""
    rng = np.random.default_rng(seed)
    wrong = Counter()
    for _ in range(CHECKS[n]):
        window = ReferenceWindow.of(normal_rows(rng, n, rho), NAMES)
        current = summarised(window, normal_rows(rng, n, rho), extended=True)
        for rule in ("extended", "ks_mean_shift"):
            for d in FEATURES:
                reports = judged(window.only(NAMES[:d]), {k: current[k] for k in NAMES[:d]}, Limits(), rule)
                assert all(report.tested for report in reports)
                wrong[rule, d, "retrain"] += should_retrain(reports)
                wrong[rule, d, "any"] += any(report.drifted for report in reports)
    return wrong


@pytest.mark.parametrize("rho", [0.0, 0.9])
@pytest.mark.parametrize("n", list(CHECKS))
def test_extended_rule_keeps_its_false_alarms_per_check(n, rho):
    times = CHECKS[n]
    wrong = wrong_checks(n, rho, seed=n + int(10 * rho))
    for rule in ("extended", "ks_mean_shift"):
        for what in ("retrain", "any"):
            tell(f"{n} rows a side, rho {rho}, {rule}, {what}", {d: wrong[rule, d, what] / times for d in FEATURES})
    for d in FEATURES:
        assert wrong["extended", d, "retrain"] <= most(0.08 if (d, rho) == (5, 0.9) else 0.05, times), d
        assert wrong["extended", d, "any"] <= most(0.10 if n == 100 else 0.05, times), d
    if n == 100_000:  # W1 of two such windows is about 0.004 sd: the limit of 0.1 is out of reach of chance
        assert not any(wrong[key] for key in wrong)


def zipf(levels, exponent):
    shares = 1.0 / np.arange(1, levels + 1) ** exponent
    return shares / shares.sum()


LAWS = {
    "two levels, one rare": np.array([0.98, 0.02]),
    "four levels": np.array([0.4, 0.3, 0.2, 0.1]),
    "thirty levels": zipf(30, 1.5),
    "a text of 700 values": zipf(700, 1.1),
    "a text of 20,000 values": zipf(20_000, 1.0),
}


@pytest.mark.parametrize("sizes", [(100, 100), (1_000, 1_000), (10_000, 1_000)], ids=str)
@pytest.mark.parametrize("law", list(LAWS))
def test_levels_of_one_law_differ_in_at_most_5_percent(law, sizes):
    times, rng, found = 500, np.random.default_rng(19), 0
    for _ in range(times):
        before, now = (rng.multinomial(size, LAWS[law]) for size in sizes)
        listed = before > 0
        compared = compare_counts(before[listed], now[listed], None, int(now[~listed].sum()))
        found += compared is not None and compared.p_value < 0.05
    tell(f"{law}, {sizes}: p < .05", found / times)
    assert found <= most(0.05, times)


# --- power --------------------------------------------------------------------------------------------------------

TIMES = 300


def category(rng, shares):
    return rng.choice(np.array(["a", "b", "c", "d"], dtype=object), p=shares, size=1_000)


def with_missing(rng, share):
    return np.where(rng.random(1_000) < share, np.nan, rng.normal(size=1_000))


DRIFTS = {
    "mean +0.2, reference of 10,000": lambda r: (r.normal(size=10_000), r.normal(0.2, 1.0, 1_000)),
    "variance x1.5": lambda r: (r.normal(size=1_000), r.normal(0.0, 1.5**0.5, 1_000)),
    "sd x1.5": lambda r: (r.normal(size=1_000), r.normal(0.0, 1.5, 1_000)),
    "category, mean of the codes kept": lambda r: (category(r, [0.4, 0.3, 0.2, 0.1]), category(r, [0.5, 0.15, 0.2, 0.15])),
    "missing 5 % to 20 %": lambda r: (with_missing(r, 0.05), with_missing(r, 0.2)),
}  # fmt: skip


@pytest.mark.parametrize("drift", list(DRIFTS))
def test_extended_rule_finds_a_drift_among_nine_steady_features(drift):
    rng, found = np.random.default_rng(17), 0
    for _ in range(TIMES):
        before, now = DRIFTS[drift](rng)
        steady = [{f"x{i}": rng.normal(size=1_000) for i in range(9)} for _ in range(2)]
        reports = detect_drift({"moved": before, **steady[0]}, {"moved": now, **steady[1]}, rule="extended")
        found += reports[0].drifted
    tell(f"found {drift}", found / TIMES)
    assert found >= fewest(0.95, TIMES)


def test_basic_rule_is_blind_to_a_change_of_variance():
    rng = np.random.default_rng(18)
    found = sum(detect_drift({"x": before}, {"x": now})[0].drifted for before, now in (
        (rng.normal(size=10_000), rng.normal(0.0, 1.5**0.5, 10_000)) for _ in range(100)
    ))  # fmt: skip
    assert found <= most(0.01, 100)
