"""Weighted p-values: the formula, one row as many, equal weights as none, and what is refused."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.errors import BadModelOutput, InvalidCalibration
from ml_core.lab.measuring.calibration import calibrate
from ml_core.serve.model.weighted_sets import DensityRatio, WeightedCalibration, effective_rows, sets_above
from tests.toy_scores import binary_rows, many_class_rows

NINETY = Decimal("0.9")


def ratio(d: int = 3, seed: int = 0, **changes: object) -> DensityRatio:
    rng = np.random.default_rng(seed)
    content = {
        "center": rng.normal(size=d),
        "scale": rng.uniform(0.5, 2.0, d),
        "coefficients": rng.normal(size=d),
        "intercept": 0.3,
    }
    return DensityRatio({**content, **changes})


def weighted(n: int = 400, seed: int = 1, n_classes: int = 2, equal: bool = False) -> WeightedCalibration:
    rows = binary_rows(n, seed, grid=64) if n_classes == 2 else many_class_rows(n, n_classes, seed, grid=64)
    plain = calibrate(rows.proba, rows.y, n_classes)
    rng = np.random.default_rng(seed)
    weights = tuple(np.ones(s.size) if equal else rng.uniform(0.1, 9.0, s.size) for s in plain.scores)
    return WeightedCalibration(plain, weights, ratio())


@pytest.mark.parametrize("n_classes", [2, 4])
def test_p_values_are_the_formula(n_classes: int) -> None:
    calibration = weighted(n_classes=n_classes)
    asked = binary_rows(60, 2, grid=64) if n_classes == 2 else many_class_rows(60, n_classes, 2, grid=64)
    own = np.random.default_rng(3).uniform(0.1, 50.0, 60)
    found = calibration.p_values(asked.proba, own)
    for i in range(60):
        for k in range(n_classes):
            stranger = calibration.plain.scores[k] >= 1.0 - asked.proba[i, k]
            above, total = calibration.weights[k][stranger].sum(), calibration.weights[k].sum()
            assert found[i, k] == pytest.approx((above + own[i]) / (total + own[i]), rel=1e-12)


@pytest.mark.parametrize("level", ["0.5", "0.9", "0.95", "0.99"])
def test_with_equal_weights_they_are_the_plain_sets_bit_for_bit(level: str) -> None:
    calibration = weighted(999, equal=True)
    asked = binary_rows(2_000, 5, grid=64)
    plain = calibration.plain.rows(asked.proba, Decimal(level))
    found = calibration.rows(asked.proba, Decimal(level), np.ones(2_000))
    for mine, theirs in zip(found, plain, strict=True):
        assert np.array_equal(mine, theirs)
    assert calibration.sizes == calibration.plain.sizes


@given(seed=st.integers(0, 10_000), level=st.sampled_from(["0.6", "0.9", "0.975"]))
def test_one_row_gets_the_bits_that_it_gets_among_many(seed: int, level: str) -> None:
    calibration = weighted(120, seed)
    asked = binary_rows(20, seed + 1, grid=64)
    features = np.random.default_rng(seed).normal(size=(20, 3)).astype(np.float32)
    features[::4, 1] = np.nan
    own = calibration.ratio.weights(features)
    many = list(calibration.rows(asked.proba, Decimal(level), own).rows())
    for i, row in enumerate(many):
        (weight,) = calibration.ratio.weights(features[i : i + 1]).tolist()
        alone = calibration.row(asked.proba[i].tolist(), Decimal(level), weight)
        assert (alone.p_values, alone.members, alone.prediction) == (row.p_values, row.members, row.prediction)


def test_a_row_of_great_weight_is_hard_to_rule_out() -> None:
    calibration = weighted()
    asked = binary_rows(50, 7).proba
    light = calibration.p_values(asked, np.full(50, 0.1))
    heavy = calibration.p_values(asked, np.full(50, 50.0))
    assert (heavy >= light).all()


def test_the_ratio_is_bounded_and_missing_values_count_as_the_mean() -> None:
    far = np.array([[1e9, -1e9, 1e9], [np.nan, np.nan, np.nan]], dtype=np.float32)
    steep = ratio(coefficients=np.array([50.0, -50.0, 50.0]), intercept=0.0).weights(far)
    assert steep[0] == pytest.approx(np.exp(4.0))
    assert steep[1] == 1.0


def test_effective_rows_are_kishs() -> None:
    assert effective_rows(np.ones(7)) == pytest.approx(7.0)
    assert effective_rows(np.array([1.0, 0.0, 0.0])) == 1.0
    assert effective_rows(np.array([])) == 0.0


def test_the_id_tells_scores_weights_and_ratio_apart() -> None:
    one = weighted()
    other_weights = WeightedCalibration(one.plain, tuple(w + 1.0 for w in one.weights), one.ratio)
    other_ratio = WeightedCalibration(one.plain, one.weights, ratio(seed=9))
    ids = {c.calibration_id for c in (one, other_weights, other_ratio, weighted(seed=4))}
    assert len(ids) == 4
    assert weighted().calibration_id == one.calibration_id


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": np.zeros(3)},
        {"coefficients": np.array([1.0, np.nan, 0.0])},
        {"center": np.zeros(4)},
        {"intercept": "x"},
        {"intercept": [1.0, 2.0]},
    ],
)
def test_a_ratio_that_is_none_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidCalibration):
        ratio(**changes)


def test_weights_that_are_none_are_refused() -> None:
    calibration = weighted()
    short = (calibration.weights[0][1:], calibration.weights[1])
    negative = (-calibration.weights[0], calibration.weights[1])
    for weights in (short, negative):
        with pytest.raises(InvalidCalibration):
            WeightedCalibration(calibration.plain, weights, calibration.ratio)
    rows = binary_rows(100, 1)
    marginal = calibrate(rows.proba, rows.y, 2, "marginal")
    with pytest.raises(InvalidCalibration):
        WeightedCalibration(marginal, tuple(np.ones(100) for _ in range(2)), ratio())


@pytest.mark.parametrize("proba", [[0.5], [0.2, 1.2], [float("nan"), 0.5]])
def test_numbers_that_are_no_probabilities_are_refused(proba: list[float]) -> None:
    with pytest.raises(BadModelOutput):
        weighted().row(proba, NINETY, 1.0)


def test_sets_are_the_labels_above_alpha() -> None:
    assert sets_above(np.array([[0.1, 0.10001]]), NINETY).tolist() == [[False, True]]
