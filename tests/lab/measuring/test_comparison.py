from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ml_core.base.errors import CannotJudge
from ml_core.lab.measuring.comparison import out_of_fold_losses, paired_auc_difference, unseen_rows_verdict
from ml_core.lab.measuring.evaluation import log_losses
from tests.verdicts import is_unseen


def two_models(n_groups, seed, gain=0.0, repeats=1):
    """(y, p_new, p_old, groups): two noisy views of one signal, the first better by ``gain``; rows of a group alike."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), repeats)
    own, shared = rng.normal(size=groups.size), rng.normal(size=n_groups)[groups]
    y = (0.7 * own + 0.7 * shared > 1.1).astype(np.int64)
    noise = rng.normal(size=(3, groups.size)) + rng.normal(size=(3, n_groups))[:, groups]
    return y, (1.2 + gain) * y + noise[0] + noise[1], 1.2 * y + noise[0] + noise[2], groups


# --- AUC difference -----------------------------------------------------------------------------------------------


def test_difference_equals_scikit_learns_with_ties():
    y, new, old, groups = two_models(800, seed=1, gain=0.5)
    new, old = np.round(new, 1), np.round(old, 1)

    found = paired_auc_difference(y, new, old, groups)

    assert found.difference == pytest.approx(roc_auc_score(y, new) - roc_auc_score(y, old), abs=1e-12)


def test_standard_error_of_independent_rows_is_delongs_by_hand():
    # Positives score 3, 1 (new) and 1, 3 (old); negatives 2, 0 and 0, 2. Components V10: new (1, .5), old (.5, 1);
    # V01: new (.5, 1), old (1, .5). Differences (+.5, -.5) twice, variance .5 each over 2 rows: .25 + .25.
    found = paired_auc_difference([1, 1, 0, 0], [3, 1, 2, 0], [1, 3, 0, 2])

    assert found.difference == 0.0
    assert found.standard_error == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("repeats", [1, 4])
def test_standard_error_is_what_a_bootstrap_over_patients_finds(repeats):
    y, new, old, groups = two_models(400, seed=3, repeats=repeats)
    rng = np.random.default_rng(0)
    rows_of = [np.flatnonzero(groups == g) for g in range(400)]
    drawn = []
    for _ in range(300):
        rows = np.concatenate([rows_of[g] for g in rng.integers(0, 400, size=400)])
        drawn.append(roc_auc_score(y[rows], new[rows]) - roc_auc_score(y[rows], old[rows]))

    found = paired_auc_difference(y, new, old, groups)

    assert found.standard_error == pytest.approx(np.std(drawn), rel=0.15)  # sd of a drawn sd: 4 %


def test_positive_and_negative_rows_of_one_patient_are_not_taken_for_independent():
    # Each patient has one row of either class and the models err by patient: the errors cancel within the pair.
    rng = np.random.default_rng(9)
    y, groups = np.tile([0, 1], 400), np.repeat(np.arange(400), 2)
    new, old = (0.5 * y + rng.normal(size=400)[groups] + 0.1 * rng.normal(size=800) for _ in range(2))
    drawn = []
    for _ in range(300):
        rows = (2 * rng.integers(0, 400, size=400)[:, None] + [0, 1]).ravel()
        drawn.append(roc_auc_score(y[rows], new[rows]) - roc_auc_score(y[rows], old[rows]))

    clustered, alone = paired_auc_difference(y, new, old, groups), paired_auc_difference(y, new, old)

    assert clustered.standard_error == pytest.approx(np.std(drawn), rel=0.15)
    assert clustered.standard_error < 0.5 * alone.standard_error


def test_repeated_patients_widen_the_interval():
    y, new, old, groups = two_models(300, seed=4, repeats=5)

    assert paired_auc_difference(y, new, old, groups).standard_error > paired_auc_difference(y, new, old).standard_error


def test_a_model_against_itself_is_exactly_equal():
    y, new, _, groups = two_models(300, seed=5)

    found = paired_auc_difference(y, new, new, groups)

    assert (found.difference, found.standard_error, found.lower_bound_95) == (0.0, 0.0, 0.0)


def test_the_bound_lies_above_zero_for_a_clearly_better_model_only():
    assert paired_auc_difference(*two_models(3_000, seed=6, gain=0.6)).lower_bound_95 > 0
    assert paired_auc_difference(*two_models(3_000, seed=6)).lower_bound_95 < 0


@pytest.mark.parametrize("y", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1], []])
def test_without_rows_of_both_classes_nothing_is_judged(y):
    scores = np.arange(len(y), dtype=float)

    with pytest.raises(CannotJudge):
        paired_auc_difference(y, scores, scores)


def test_positive_rows_of_one_patient_alone_cannot_judge():
    with pytest.raises(CannotJudge):
        paired_auc_difference([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [7, 7, 8, 9])


# --- unseen rows --------------------------------------------------------------------------------------------------


def splits(n_groups, seed, leak=0.0, repeats=2):
    """Features, losses, classes and groups of a calibration and a test split; ``leak`` pulls test answers to the truth."""
    rng = np.random.default_rng(seed)
    parts = []
    for part in range(2):
        groups = np.repeat(np.arange(n_groups), repeats)
        x = rng.normal(size=(groups.size, 3)) + rng.normal(size=(n_groups, 3))[groups]
        p = 1 / (1 + np.exp(-(x @ np.array([0.9, -0.5, 0.2]) - 2.2)))
        y = (rng.random(groups.size) < p).astype(np.int64)
        p = p + part * leak * (y - p)
        parts.append((x, log_losses(np.column_stack([1 - p, p]), y), y, groups))
    return tuple(zip(*parts, strict=True))


def test_an_honest_split_is_unseen():
    _, losses, classes, groups = splits(1_000, seed=1)

    found = unseen_rows_verdict(losses, classes, groups)

    assert is_unseen(found)
    assert abs(found.z) < 3


def test_a_gross_leak_is_seen_without_a_reference():
    _, losses, classes, groups = splits(1_000, seed=1, leak=0.3)

    found = unseen_rows_verdict(losses, classes, groups)

    assert not is_unseen(found)
    assert found.p_value <= 0.001
    assert found.difference > 0


def test_a_faint_leak_is_seen_against_a_reference_and_not_without():
    features, losses, classes, groups = splits(1_500, seed=2, leak=0.02)
    reference = out_of_fold_losses(features, classes, groups)

    assert is_unseen(unseen_rows_verdict(losses, classes, groups))
    assert not is_unseen(unseen_rows_verdict(losses, classes, groups, reference))


def test_an_honest_split_is_unseen_against_a_reference_too():
    features, losses, classes, groups = splits(1_500, seed=3)

    assert is_unseen(unseen_rows_verdict(losses, classes, groups, out_of_fold_losses(features, classes, groups)))


def test_test_rows_that_fit_worse_accuse_nobody():
    _, losses, classes, groups = splits(500, seed=4, leak=0.5)

    found = unseen_rows_verdict(losses[::-1], classes[::-1], groups[::-1])

    assert is_unseen(found)
    assert found.z < -3


def test_more_rows_of_the_easy_class_are_no_evidence():
    # Losses depend on the class alone; the test split merely holds more of the easy class.
    classes = (np.repeat([0, 1], [500, 500]), np.repeat([0, 1], [900, 100]))
    losses = tuple(np.where(y == 0, 0.1, 2.0) for y in classes)

    found = unseen_rows_verdict(losses, classes)

    assert is_unseen(found)
    assert found.difference == pytest.approx(0.0, abs=1e-9)


def test_groups_are_exchanged_whole():
    # 40 copies of each of 12 rows look like much evidence when taken row by row.
    rng = np.random.default_rng(8)
    losses = (np.repeat(rng.random(12) + 0.2, 40), np.repeat(rng.random(12), 40))
    classes = (np.zeros(480, dtype=int), np.zeros(480, dtype=int))
    ids = np.repeat(np.arange(12), 40)

    assert not is_unseen(unseen_rows_verdict(losses, classes))
    assert is_unseen(unseen_rows_verdict(losses, classes, (ids, ids)))


def test_the_p_value_of_few_groups_is_that_of_all_divisions():
    # Test losses are the 5 smallest of 10: one of the 252 divisions is as extreme.
    losses = (np.arange(5, 10), np.arange(5))
    classes = (np.zeros(5, dtype=int), np.zeros(5, dtype=int))

    assert unseen_rows_verdict(losses, classes).p_value == pytest.approx(1 / 252, rel=0.5)


@pytest.mark.parametrize(
    "losses",
    [(np.array([100.0]), np.arange(19.0)), (np.arange(19.0), np.array([-100.0]))],
    ids=["test split larger", "calibration split larger"],
)
def test_the_p_value_is_exact_whichever_split_is_larger(losses):
    # One group against 19 and the most extreme of all: one of the 20 divisions.
    found = unseen_rows_verdict(losses, tuple(np.zeros(x.size, dtype=int) for x in losses))

    assert found.z > 4
    assert found.p_value == pytest.approx(1 / 20, rel=0.5)


def test_same_seed_same_verdict():
    features, losses, classes, groups = splits(300, seed=5, leak=0.1)

    def once():
        return unseen_rows_verdict(losses, classes, groups, out_of_fold_losses(features, classes, groups))

    assert once() == once()


def test_an_empty_split_cannot_be_judged():
    with pytest.raises(CannotJudge):
        unseen_rows_verdict(([], [0.5]), ([], [0]))


# --- the reference ------------------------------------------------------------------------------------------------


def test_reference_losses_belong_to_their_rows_and_are_informative():
    features, losses, classes, groups = splits(1_000, seed=6)

    found = out_of_fold_losses(features, classes, groups)

    for part in range(2):
        assert found[part].shape == classes[part].shape
        assert np.corrcoef(found[part], losses[part])[0, 1] > 0.95


def test_reference_copes_with_missing_constant_and_empty_columns():
    features, _, classes, groups = splits(200, seed=7)
    odd = []
    for x in features:
        x = np.column_stack([x, np.full(len(x), np.nan), np.ones(len(x))]).astype(np.float32)
        x[::3, 0] = np.nan
        odd.append(x)

    found = out_of_fold_losses(tuple(odd), classes, groups)

    assert all(np.isfinite(part).all() for part in found)


def test_reference_of_one_class_is_no_reference():
    features, _, classes, groups = splits(50, seed=8)
    zeros = tuple(np.zeros_like(y) for y in classes)

    assert not np.concatenate(out_of_fold_losses(features, zeros, groups)).any()


def test_reference_of_several_classes():
    features, _, classes, groups = splits(300, seed=9)
    three = tuple(np.where(x[:, 1] > 1, 2, y) for x, y in zip(features, classes, strict=True))

    found = out_of_fold_losses(features, three, groups)

    assert np.concatenate(found).mean() < np.log(3)
