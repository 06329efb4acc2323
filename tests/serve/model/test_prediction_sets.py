from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from ml_core.base.errors import BadModelOutput, InvalidCalibration, InvalidRequest
from ml_core.lab.measuring.calibration import calibrate
from ml_core.serve.model.prediction_sets import ConformalCalibration, level_from_json, misses_allowed
from tests.toy_scores import binary_rows, many_class_rows

LEVELS = [Decimal(x) for x in ("0.5", "0.8", "0.9", "0.95", "0.99", "0.999")]
level_strategy = st.decimals("0.5", "0.999", places=3)
# Few distinct values, some of them born in float32, so that ties and near-ties are the rule.
probability = st.one_of(
    st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.5, 0.75, 0.9, 1.0]),
    st.floats(0, 1, width=32),
    st.floats(0, 1),
)


@st.composite
def scored(draw, min_rows=0, max_rows=60):
    """(proba (n, K), y (n,), K) with tied and float32-born probabilities; rows need not sum to one."""
    k = draw(st.integers(2, 4))
    n = draw(st.integers(min_rows, max_rows))
    rows = draw(st.lists(st.lists(probability, min_size=k, max_size=k), min_size=n, max_size=n))
    y = draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    return np.array(rows, dtype=np.float64).reshape(n, k), np.array(y, dtype=np.int64), k


def by_definition(calibration_scores, score, level):
    """p-value and membership straight from the definition, in rational numbers."""
    n = len(calibration_scores)
    p = Fraction(1 + sum(s >= score for s in calibration_scores), n + 1)
    return p, p > 1 - Fraction(level)


# --- the information limit ----------------------------------------------------------------------------------------


def bent(p1, how):
    """A strictly rising function of P(1); of multiples of 1/64 the results stay apart and in order."""
    return {"squared": p1**2, "root": np.sqrt(p1), "sharpened": p1**3 / (p1**3 + (1 - p1) ** 3), "halved": p1 / 2}[how]


@given(
    st.lists(st.tuples(st.integers(1, 63), st.integers(0, 1)), min_size=2, max_size=60),
    st.lists(st.integers(1, 63), min_size=1, max_size=30),
    st.sampled_from(["squared", "root", "sharpened", "halved"]),
    level_strategy,
)
def test_of_two_classes_every_score_of_the_same_order_has_the_same_sets(calibration_rows, asked, how, level):
    p1, y = np.array([p for p, _ in calibration_rows]) / 64, np.array([label for _, label in calibration_rows])
    new = np.array(asked) / 64

    def sets(change):
        before, now = change(p1), change(new)
        return calibrate(np.column_stack([1 - before, before]), y, 2).sets(np.column_stack([1 - now, now]), level)

    assert np.array_equal(sets(lambda p: p), sets(lambda p: bent(p, how)))


# --- against the definition and by hand ---------------------------------------------------------------------------


def test_p_values_and_sets_by_hand():
    # Class 0 scores .1 .2 .3 .4; class 1 scores .5 .6. Row: label 0 scores .2 -> (1 + 3)/5; label 1 scores .6 -> 2/3.
    calibration = ConformalCalibration("class_conditional", (np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.5, 0.6])))
    proba = 1.0 - np.array([[0.2, 0.6], [0.45, 0.7]])

    assert calibration.p_values(proba).tolist() == [[4 / 5, 2 / 3], [1 / 5, 1 / 3]]
    # alpha .2: 1/5 is not larger than alpha, so label 0 leaves; 1/3 stays (two rows are too few for .8).
    assert calibration.sets(proba, Decimal("0.8")).tolist() == [[True, True], [False, True]]
    assert calibration.thresholds(Decimal("0.8")) == (0.4, float("inf"))
    assert calibration.row(proba[1].tolist(), Decimal("0.8"))[1:] == ([1 / 5, 1 / 3], [1], 1)


@given(scored(), scored(min_rows=1, max_rows=8), level_strategy)
def test_ranks_and_sets_equal_the_definition_in_rational_numbers(calibration_rows, rows, level):
    proba_cal, y, k = calibration_rows
    proba = np.resize(rows[0], (rows[0].shape[0], k))
    calibration = calibrate(proba_cal, y, k)

    _, p_values, sets, _ = calibration.rows(proba, level)

    for i, j in np.ndindex(*proba.shape):
        own = [1.0 - proba_cal[r, j] for r in range(y.size) if y[r] == j]
        p, member = by_definition(own, 1.0 - proba[i, j], level)
        assert p_values[i, j] == float(p)
        assert sets[i, j] == member


@given(scored(min_rows=1), level_strategy)
def test_a_label_is_in_the_set_exactly_when_its_score_is_within_the_threshold(rows, level):
    proba, y, k = rows
    calibration = calibrate(proba, y, k)

    assert np.array_equal(calibration.sets(proba, level), 1.0 - proba <= np.array(calibration.thresholds(level)))


@given(st.integers(0, 5_000), level_strategy)
def test_the_threshold_is_the_ceil_n_plus_1_times_level_th_smallest(n, level):
    k = -((-(n + 1) * Fraction(level)) // 1)  # ceil
    calibration = ConformalCalibration("class_conditional", (np.arange(n) / 5_000, np.array([0.5])))

    expected = float(calibration.scores[0][k - 1]) if k <= n else float("inf")

    assert calibration.thresholds(level)[0] == expected


def test_the_level_is_exact_where_a_float_would_not_be():
    # (n + 1) * alpha = 10 * 0.1 is exactly 1, though 1 - 0.9 in floats is less than 0.1: p = 0.1 must stay outside.
    calibration = ConformalCalibration("class_conditional", (np.linspace(0.1, 0.9, 9), np.linspace(0.1, 0.9, 9)))

    assert calibration.p_values([[0.05, 0.05]])[0, 0] == 0.1
    assert not calibration.sets([[0.05, 0.05]], Decimal("0.9")).any()


# --- invariants ---------------------------------------------------------------------------------------------------


@given(scored(), scored(min_rows=1, max_rows=10), level_strategy)
def test_single_row_path_is_bit_identical_to_the_array_path(calibration_rows, rows, level):
    proba_cal, y, k = calibration_rows
    proba = np.resize(rows[0], (rows[0].shape[0], k))
    calibration = calibrate(proba_cal, y, k)

    together = calibration.rows(proba, level)

    for i in range(proba.shape[0]):
        alone = calibration.row(proba[i].tolist(), level)
        assert alone.p_values == together.p_values[i].tolist()
        assert alone.members == np.flatnonzero(together.sets[i]).tolist()
        assert alone.prediction == together.predictions[i]
        assert calibration.row(list(proba[i]), level) == alone  # numpy floats change nothing


def test_float32_row_is_widened_before_any_arithmetic():
    # Two neighbouring float32 probabilities have different scores in float64 and the same one in float32.
    p = np.float32(0.1)
    smaller = np.nextafter(p, np.float32(0))
    calibration = ConformalCalibration("class_conditional", (np.array([1.0 - float(p)]),) * 2)
    row = np.array([p, smaller], dtype=np.float32)

    assert calibration.row(row, Decimal("0.9")).p_values == [1.0, 0.5]
    assert calibration.p_values(row[None, :]).tolist() == [[1.0, 0.5]]


@given(scored(), scored(min_rows=2, max_rows=10), level_strategy, st.randoms(use_true_random=False))
def test_a_rows_answer_ignores_its_neighbours(calibration_rows, rows, level, random):
    proba_cal, y, k = calibration_rows
    proba = np.resize(rows[0], (rows[0].shape[0], k))
    calibration = calibrate(proba_cal, y, k)
    order = list(range(proba.shape[0]))
    random.shuffle(order)

    straight, shuffled = calibration.rows(proba, level), calibration.rows(proba[order], level)

    for one, other in zip(straight, shuffled, strict=True):
        assert np.array_equal(one[order], other)


@given(scored(), scored(min_rows=1, max_rows=10), level_strategy, level_strategy)
def test_sets_only_grow_as_alpha_falls(calibration_rows, rows, one, other):
    proba_cal, y, k = calibration_rows
    proba = np.resize(rows[0], (rows[0].shape[0], k))
    calibration = calibrate(proba_cal, y, k)

    low, high = sorted((one, other))

    assert not (calibration.sets(proba, low) & ~calibration.sets(proba, high)).any()


@given(scored(), scored(min_rows=1, max_rows=10), level_strategy)
def test_prediction_is_in_every_set_that_is_not_empty(calibration_rows, rows, level):
    proba_cal, y, k = calibration_rows
    proba = np.resize(rows[0], (rows[0].shape[0], k))

    _, _, sets, predictions = calibrate(proba_cal, y, k).rows(proba, level)

    for members, prediction in zip(sets, predictions, strict=True):
        assert members[prediction] or not members.any()


def test_prediction_is_the_label_with_the_largest_p_value_not_the_likeliest():
    # 11 % prevalence: 0.3 is a high risk here, and label 1 fits such a row better than label 0 does.
    calibration = ConformalCalibration("class_conditional", (np.linspace(0.0, 0.2, 99), np.linspace(0.5, 0.99, 99)))

    answer = calibration.row([0.7, 0.3], Decimal("0.9"))

    assert answer.members == [1]
    assert answer.prediction == 1


@pytest.mark.parametrize(
    ("proba", "expected"),
    [([0.2, 0.5, 0.3], 1), ([0.4, 0.2, 0.4], 0), ([0.2, 0.4, 0.4], 1)],
    ids=["larger probability", "class order, first and last", "class order, last two"],
)
def test_equal_p_values_are_decided_by_probability_then_by_class_order(proba, expected):
    empty = np.array([])
    calibration = ConformalCalibration("class_conditional", (empty, empty, empty))  # every p-value is 1

    assert calibration.row(proba, Decimal("0.9")).prediction == expected
    assert calibration.rows([proba], Decimal("0.9")).predictions.tolist() == [expected]


@given(st.integers(1, 2**26), st.integers(1, 2**26), st.data())
def test_comparing_p_values_as_floats_is_comparing_them_exactly(n, m, data):
    a = data.draw(st.integers(1, n))
    nearest = max(1, min(m, round(a * m / n) + data.draw(st.integers(-1, 1))))
    exact, floats = (Fraction(a, n), Fraction(nearest, m)), (a / n, nearest / m)

    assert (exact[0] < exact[1]) == (floats[0] < floats[1])
    assert (exact[0] == exact[1]) == (floats[0] == floats[1])


# --- little data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("level", LEVELS[2:])
def test_a_tiny_class_is_in_every_set_and_never_an_error(size, level):
    rows = binary_rows(500, seed=3)
    kept = np.concatenate([np.flatnonzero(rows.y == 0), np.flatnonzero(rows.y == 1)[:size]])
    calibration = calibrate(rows.proba[kept], rows.y[kept], 2)

    answers = calibration.rows([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], level)

    assert answers.sets[:, 1].all()
    assert calibration.row([1.0, 0.0], level).members == [0, 1]
    assert calibration.thresholds(level)[1] == float("inf")


def test_without_any_calibration_row_every_answer_is_all_labels():
    calibration = calibrate(np.empty((0, 3)), np.empty(0, dtype=np.int64), 3)

    assert calibration.row([0.0, 0.0, 1.0], Decimal("0.5"))[1:] == ([1.0, 1.0, 1.0], [0, 1, 2], 2)


@pytest.mark.parametrize(("n", "full"), [(8, True), (9, False), (10, False)])
def test_the_border_of_enough_rows_at_90_percent_is_9(n, full):
    calibration = ConformalCalibration("class_conditional", (np.linspace(0, 0.5, n), np.linspace(0, 0.5, n)))

    assert bool(calibration.sets([[0.0, 0.0]], Decimal("0.9")).all()) is full


def test_no_rows_give_no_answers():
    rows = binary_rows(100, seed=2)

    answers = calibrate(rows.proba, rows.y, 2).rows(np.empty((0, 2)), Decimal("0.9"))

    assert [a.shape for a in answers] == [(0, 2), (0, 2), (0, 2), (0,)]


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [[0.5, float("nan")], [float("inf"), 0.5], [-1e-9, 1.0], [0.0, 1.0000001]])
def test_output_that_is_no_probability_never_becomes_a_set(bad):
    calibration = ConformalCalibration("class_conditional", (np.array([0.5]), np.array([0.5])))

    with pytest.raises(BadModelOutput):
        calibration.row(bad, Decimal("0.9"))
    with pytest.raises(BadModelOutput):
        calibration.rows([bad], Decimal("0.9"))


def test_another_number_of_classes_is_refused():
    calibration = ConformalCalibration("class_conditional", (np.array([0.5]), np.array([0.5])))

    with pytest.raises(BadModelOutput):
        calibration.row([0.2, 0.3, 0.5], Decimal("0.9"))
    with pytest.raises(BadModelOutput):
        calibration.rows([[0.2, 0.3, 0.5]], Decimal("0.9"))


@pytest.mark.parametrize(
    "scores",
    [
        (np.array([0.1]),),
        (np.array([0.2, 0.1]), np.array([0.1])),
        (np.array([0.1, np.nan]), np.array([0.1])),
        (np.array([0.1, np.inf]), np.array([0.1])),
        (np.array([[0.1]]), np.array([0.1])),
    ],
    ids=["one class", "not ascending", "NaN", "infinite", "two axes"],
)
def test_arrays_that_are_no_calibration_are_refused(scores):
    with pytest.raises(InvalidCalibration):
        ConformalCalibration("class_conditional", scores)


def test_a_marginal_calibration_has_the_same_scores_for_every_class():
    with pytest.raises(InvalidCalibration):
        ConformalCalibration("marginal", (np.array([0.1]), np.array([0.2])))


def test_an_unknown_guarantee_is_refused():
    with pytest.raises(InvalidCalibration):
        ConformalCalibration("none", (np.array([0.1]), np.array([0.2])))


# --- levels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"), [(0.9, "0.9"), (0.5, "0.5"), (0.999, "0.999"), (0.7 + 0.2, "0.8999999999999999")]
)
def test_a_level_from_json_is_the_decimal_that_was_written(value, text):
    assert level_from_json(value) == Decimal(text)


@pytest.mark.parametrize(
    "value", [0.49, 0.9991, 1, 0, -1, 10**4_000, True, False, "0.9", None, float("nan"), float("inf")]
)
def test_a_level_outside_the_range_or_no_number_is_refused(value):
    with pytest.raises(InvalidRequest) as error:
        level_from_json(value)
    assert error.value.fields[0].field == "confidence_level"


@given(st.integers(0, 10**6), level_strategy)
def test_misses_allowed_is_the_largest_rank_that_stays_outside(n, level):
    misses = misses_allowed(n, level)

    alpha = 1 - Fraction(level)
    assert Fraction(misses, n + 1) <= alpha < Fraction(misses + 1, n + 1)


def test_levels_asked_for_are_not_remembered_without_end():
    rows = binary_rows(200, seed=4)
    calibration = calibrate(rows.proba, rows.y, 2)

    for i in range(5_000):
        calibration.row([0.5, 0.5], Decimal(i) / 10_000 / 10 + Decimal("0.5"))

    assert len(calibration._remembered) <= 256


# --- identity -----------------------------------------------------------------------------------------------------


def test_calibration_id_names_scores_and_guarantee_and_nothing_else():
    a, b = np.array([0.1, 0.2]), np.array([0.3])
    first = ConformalCalibration("class_conditional", (a, b)).calibration_id

    assert first == ConformalCalibration("class_conditional", (a.copy(), b.copy())).calibration_id
    assert first != ConformalCalibration("class_conditional", (b, a)).calibration_id
    assert first != ConformalCalibration("class_conditional", (np.array([0.1]), np.array([0.2, 0.3]))).calibration_id
    assert first != ConformalCalibration("class_conditional", (np.array([0.1, np.nextafter(0.2, 1)]), b)).calibration_id
    same = (a, a)
    assert (
        ConformalCalibration("marginal", same).calibration_id
        != ConformalCalibration("class_conditional", same).calibration_id
    )


def test_scores_are_kept_apart_from_the_arrays_given():
    given_scores = np.array([0.1, 0.2])
    calibration = ConformalCalibration("class_conditional", (given_scores, given_scores))
    given_scores[:] = 0.9

    assert calibration.scores[0].tolist() == [0.1, 0.2]
    with pytest.raises(ValueError, match="read-only"):
        calibration.scores[0][0] = 0.0


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**31), level_strategy)
def test_marginal_sets_use_one_threshold_for_all_classes(k, seed, level):
    rows = many_class_rows(80, k, seed, grid=20)
    calibration = calibrate(rows.proba, rows.y, k, "marginal")

    assert len(set(calibration.thresholds(level))) == 1
    assert calibration.sizes == (80,) * k


# --- a confidence over calibrations ----------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3_000), level_strategy, st.decimals("0.5", "0.999", places=3))
def test_with_a_confidence_the_rank_is_the_largest_whose_beta_law_keeps_it(n, level, confidence):
    misses, plain = misses_allowed(n, level, confidence), misses_allowed(n, level)

    def kept(m):  # true coverage follows Beta(n + 1 - m, m)
        return 1.0 if m == 0 else float(beta.sf(float(level), n + 1 - m, m))

    assert 0 <= misses <= plain
    assert kept(misses) >= float(confidence) - 1e-8
    assert misses == plain or kept(misses + 1) < float(confidence) + 1e-8


def test_large_classes_keep_their_beta_law():
    for n in (17_664, 1_000_000):
        misses = misses_allowed(n, Decimal("0.9"), Decimal("0.95"))
        assert beta.sf(0.9, n + 1 - misses, misses) >= 0.95 > beta.sf(0.9, n - misses, misses + 1)


@given(st.integers(1, 5_000), level_strategy, st.decimals("0.5", "0.999", places=3))
def test_the_inner_level_gives_the_same_rank_without_a_confidence(n, level, confidence):
    scores = (np.linspace(0, 1, n), np.linspace(0, 1, n // 2))
    calibration = ConformalCalibration("class_conditional", scores, confidence)

    for size, inner in zip(calibration.sizes, calibration.inner_levels(level), strict=True):
        assert misses_allowed(size, inner) == misses_allowed(size, level, confidence)


def test_a_confidence_names_another_calibration_and_larger_sets_and_the_same_p_values():
    rows = binary_rows(900, seed=3)
    plain = calibrate(rows.proba, rows.y, 2)
    sure = calibrate(rows.proba, rows.y, 2, confidence=Decimal("0.95"))

    level, new = Decimal("0.9"), binary_rows(500, seed=4).proba
    assert plain.calibration_id != sure.calibration_id
    assert (plain.p_values(new) == sure.p_values(new)).all()
    assert (plain.sets(new, level) <= sure.sets(new, level)).all()
    assert plain.sets(new, level).sum() < sure.sets(new, level).sum()
    for row, members in zip(new.tolist(), sure.sets(new, level).tolist(), strict=True):
        assert sure.row(row, level).members == [k for k, inside in enumerate(members) if inside]
