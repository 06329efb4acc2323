from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from ml_core.base.errors import CannotJudge, DataError
from ml_core.lab.drift.detect import detect_drift
from ml_core.lab.drift.domain_classifier import domain_classifier
from tests.lab.drift.windows import COLUMNS, arrays


def correlated(n, rho, seed, d=6):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 1))
    x = np.sqrt(1 - rho) * rng.normal(size=(n, d)) + np.sqrt(rho) * common
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(d)])


def test_a_change_of_correlation_alone_is_found_where_no_column_shows_it():
    before, now = correlated(600, 0.8, 0), correlated(600, 0.0, 1)
    found = domain_classifier(before, now)
    assert (found.drifted, found.n_reference, found.n_current) == (True, 600, 600)
    assert found.auc > 0.7
    assert not any(r.drifted for r in detect_drift(before, now, rule="extended"))


def test_two_windows_of_one_law_look_alike():
    found = domain_classifier(correlated(600, 0.5, 2), correlated(500, 0.5, 3))
    assert not found.drifted
    assert 0.4 < found.auc < 0.6


def encounters(patients, seed):
    """Two rows of each patient, alike up to a little, and of whom each is."""
    x = np.repeat(correlated(patients, 0.5, seed).to_numpy(), 2, axis=0)
    x += 0.01 * np.random.default_rng(seed + 1_000).normal(size=x.shape)
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]), [(seed, p // 2) for p in range(2 * patients)]


def test_repeated_patients_do_not_tell_the_windows_apart():
    (before, who), (now, who_now) = encounters(250, 10), encounters(250, 11)
    assert domain_classifier(before, now).drifted  # rows halved: the model has seen each patient's other row
    assert not domain_classifier(before, now, patients=(who, who_now)).drifted


def test_with_repeated_patients_a_change_is_still_found():
    (before, who), (now, who_now) = encounters(250, 12), encounters(250, 13)
    now["x0"] += 1.0
    found = domain_classifier(before, now, patients=(who, who_now))
    assert (found.drifted, found.telling[0][0]) == (True, "x0")


def test_windows_that_one_value_tells_apart_are_told_apart_by_patients_too():
    side = {"x0": np.zeros(200)}, {"x0": np.ones(200)}
    who = [p // 2 for p in range(200)]
    assert domain_classifier(*side, patients=([("a", p) for p in who], [("b", p) for p in who])).drifted


def test_too_few_patients_cannot_be_judged():
    (before, _), (now, _) = encounters(50, 14), encounters(50, 15)
    with pytest.raises(CannotJudge, match="subjects"):
        domain_classifier(before, now, patients=([p // 2 for p in range(100)], [f"b{p // 2}" for p in range(100)]))


def test_the_same_seed_gives_the_same_report_and_it_is_json():
    before, now = correlated(200, 0.5, 0), correlated(200, 0.5, 1)
    first, again = (domain_classifier(before, now, seed=4) for _ in range(2))
    assert first == again
    json.dumps(asdict(first), allow_nan=False)


def test_it_names_the_column_that_tells_the_windows_apart():
    before, now = arrays(400, 0), arrays(400, 1)
    now["age"] = now["age"] + 15
    found = domain_classifier(before, now, columns=COLUMNS)
    assert found.telling[0][0] == "age"
    assert sum(share for _, share in found.telling) <= 1.0 + 1e-9


def test_levels_that_are_all_different_do_not_tell_the_windows_apart():
    names = [f"patient {i:05d}" for i in np.random.default_rng(0).permutation(1_000)]
    before, now = ({"id": np.array(side, dtype=object)} for side in (names[:500], names[500:]))
    assert not domain_classifier(before, now).drifted


@pytest.mark.parametrize("odd", [np.nan, np.inf, -999.0, 1e300])
def test_odd_values_are_no_error(odd):
    before, now = correlated(100, 0.5, 0), correlated(100, 0.5, 1)
    now.iloc[:5, 0] = odd
    assert 0.0 <= domain_classifier(before, now).p_value <= 1.0


def test_no_more_rows_than_asked_for_are_looked_at():
    found = domain_classifier(correlated(900, 0.5, 0), correlated(300, 0.5, 1), most_rows=200)
    assert (found.n_reference, found.n_current) == (200, 200)


def test_too_few_rows_or_no_column_cannot_be_judged():
    with pytest.raises(CannotJudge, match="60 are needed"):
        domain_classifier(correlated(59, 0.5, 0), correlated(300, 0.5, 1))
    dates = pd.DataFrame({"day": pd.date_range("2026-01-01", periods=100)})
    with pytest.raises(CannotJudge, match="no column"):
        domain_classifier(dates, dates)


def test_an_absent_column_is_named():
    with pytest.raises(DataError, match="no column x5"):
        domain_classifier(correlated(100, 0.5, 0), correlated(100, 0.5, 0, d=5))
