"""Trees of every library give what the library itself says: with gaps, beside every threshold, at extremes, alone and among others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import xgboost

from ml_core.base.errors import ArtefactError
from ml_core.lab.training.booster_trees import xgboost_trees
from ml_core.lab.training.tree_export import trees_to_onnx
from ml_core.lab.training.tree_form import Tree, tree_form
from ml_core.lab.training.tree_readers import trees_of
from ml_core.serve.model.scorer import OnnxScorer
from ml_core.serve.model.trees import MEMBER, TreeForm
from tests.grown_trees import CASES, KINDS, D, as_dmatrix, asked, booster, cat, labels, lgb, native, rows

FLOAT64 = 1e-12
"""What sums of 64-bit leaves may differ by; XGBoost's own sums are in 32 bits, and their bound is ``TreeForm.rounding``."""


@pytest.fixture(
    scope="module",
    params=CASES,
    ids=str,
)
def kind(request):
    """Name, trees and native probabilities of a fitted model."""
    name, k = request.param
    model, proba = KINDS[name](k)
    return name, trees_of(model), proba


def agrees(kind, n):
    name, form, proba = kind
    matrix = asked(form, n, gaps=not name.startswith("gradient"))
    found = OnnxScorer(trees_to_onnx(form, D), D, form.n_classes).proba(matrix)
    limit = form.rounding if name.startswith("xgboost") else FLOAT64
    assert np.abs(found - native(proba, matrix)).max() < limit
    return matrix, found


def test_every_library_is_met_exactly(kind):
    _, found = agrees(kind, 10_000)
    assert np.unique(found[:, 1]).size > 7


@pytest.mark.slow
def test_every_library_is_met_exactly_on_a_hundred_thousand_rows(kind):
    agrees(kind, 100_000)


def test_a_row_has_the_same_bits_alone_and_among_others(kind):
    _, form, _ = kind
    matrix = asked(form, 600)
    scorer = OnnxScorer(trees_to_onnx(form, D), D, form.n_classes)
    together = scorer.proba(matrix)
    for size in (1, 3, 7, 64):
        parts = [scorer.proba(matrix[at : at + size]) for at in range(0, len(matrix), size)]
        assert np.array_equal(np.concatenate(parts), together)


def test_the_stored_form_says_all_that_was_exported(kind):
    _, form, _ = kind
    again = TreeForm.from_bytes(form.to_bytes())
    assert trees_to_onnx(again, D) == trees_to_onnx(form, D)
    assert again.to_bytes() == form.to_bytes()


def test_cover_of_a_node_is_that_of_its_children(kind):
    _, form, _ = kind
    inner = np.flatnonzero(~form.is_leaf)
    below = form.cover[form.yes[inner]] + form.cover[form.no[inner]]
    assert np.allclose(form.cover[inner], below, rtol=1e-4)
    assert form.cover[form.roots].min() > 0


def stump(**changes) -> Tree:
    """One question: is feature 0 at most 0.5, with leaves 0.25 and 0.75."""
    usual = {
        "feature": np.array([0, 0, 0]), "threshold": np.array([0.5, 0, 0]), "yes": np.array([1, -1, -1]), "no": np.array([2, -1, -1]),
        "missing_yes": np.array([True, False, False]), "value": np.array([0, 0.25, 0.75]), "cover": np.array([3.0, 1, 2]),
    }  # fmt: skip
    return Tree(**{**usual, **changes})


def means(*trees: Tree, **more) -> list[float]:
    """P(second class) of feature 0 at 0, 0.5, 1, missing."""
    form = tree_form(trees, n_classes=2, link="mean", single=True, **more)
    matrix = np.array([[0], [0.5], [1], [np.nan]], np.float32)
    return OnnxScorer(trees_to_onnx(form, 1), 1, 2).proba(matrix)[:, 1].tolist()


def test_a_stump_by_hand():
    assert means(stump()) == [0.25, 0.25, 0.75, 0.25]
    assert means(stump(rule=1)) == [0.25, 0.75, 0.75, 0.25]  # below, not at most
    assert means(stump(missing_yes=np.zeros(3, bool))) == [0.25, 0.25, 0.75, 0.75]
    assert means(stump(rule=MEMBER, members={0: [1]})) == [0.75, 0.75, 0.25, 0.25]
    assert means(stump(rule=MEMBER, members={})) == [0.75, 0.75, 0.75, 0.25]  # nothing is in an empty set
    assert means(stump(), tiny=0.1, zero_missing=[0]) == [0.25, 0.25, 0.75, 0.25]
    assert means(stump(missing_yes=np.zeros(3, bool)), tiny=0.1, zero_missing=[0]) == [0.75, 0.25, 0.75, 0.75]
    assert means(stump(), absent=1.0) == [0.25, 0.25, 0.25, 0.25]


def test_a_tree_that_is_a_leaf_alone():
    bare = Tree(*(np.array([x]) for x in (0, 0.0, -1, -1, False, 0.125, 3.0)))
    assert means(bare, stump(value=np.array([0, 0.25, 0.5]))) == [0.375, 0.375, 0.625, 0.375]


def test_sums_of_small_leaves_are_exact():
    """A thousand leaves of 1e-4 are 0.1 in 64 bits; in 32 bits they are off by 2e-7."""
    small = stump(value=np.array([0, 1e-4, 1e-4]))
    assert means(*[small] * 1_000) == pytest.approx([0.1] * 4, abs=1e-12)


def rounding(n: int, leaf: float, base: float = 0.0) -> float:
    """In float32 eps, of n stumps with a largest leaf."""
    trees = [stump(value=np.array([0, -leaf / 3, leaf]))] * n
    return tree_form(trees, n_classes=2, link="logit", single=True, base=base).rounding / np.finfo(np.float32).eps


def test_rounding_is_that_of_trees_times_the_largest_leaf():
    assert rounding(100, 0.75) == pytest.approx(75 + 8)
    assert rounding(200, 0.75) == pytest.approx(150 + 8)
    assert rounding(100, 1.5) == pytest.approx(150 + 8)


def test_rounding_of_small_leaves_is_what_chance_adds_up():
    assert rounding(400, 1e-3) == pytest.approx(7 / 2 * 20 / 2 + 8)
    assert rounding(400, 1e-3, base=-2.0) == pytest.approx(7 / 2 * 20 * 3 / 2 + 8)


@pytest.mark.parametrize(
    ("n_classes", "rounds", "rate", "rare"),
    [(2, 400, 0.01, 0.02), (2, 1_000, 0.001, 0.5), (2, 150, 0.3, 0.1), (9, 40, 0.3, 0.0)],
)
def test_no_model_of_xgboost_comes_near_its_bound(n_classes, rounds, rate, rare):
    """The largest difference on 10,000 rows is at most a fifth of what is allowed, so no seed refuses a sound model."""
    for seed in range(2):
        rng = np.random.default_rng(seed)
        matrix = rng.normal(size=(800, D)).astype(np.float32)
        lie = matrix[:, 0] + matrix[:, 1] * matrix[:, 2] + rng.normal(size=800)
        y = (lie > np.quantile(lie, 1 - rare)).astype(int) if n_classes == 2 else labels(lie, n_classes)
        goal = (
            {"objective": "multi:softprob", "num_class": n_classes}
            if n_classes > 2
            else {"objective": "binary:logistic"}
        )
        params = {**goal, "learning_rate": rate, "max_depth": 3, "nthread": 1, "seed": seed}
        model = xgboost.train(params, xgboost.DMatrix(matrix, y), rounds)
        form, many = xgboost_trees(model), rng.normal(size=(10_000, D), scale=2).astype(np.float32)
        found = OnnxScorer(trees_to_onnx(form, D), D, n_classes).proba(many)
        assert np.abs(found - native(model.inplace_predict, many)).max() < form.rounding / 5
        assert form.rounding < 5e-5


def test_a_leaf_that_is_off_by_a_thousandth_is_found_out():
    """Bounds of the whole sum, 1.9e-4 for two hundred trees, would let it pass."""
    model = booster(2, learning_rate=0.1)
    form, (matrix, _) = xgboost_trees(model), rows()
    value = form.value.copy()
    value[form.is_leaf & (np.arange(len(value)) < form.roots[1])] += 1e-3
    other = OnnxScorer(trees_to_onnx(replace(form, value=value), D), D, 2).proba(matrix)
    difference = np.abs(other - native(model.predict, as_dmatrix(matrix))).max()
    assert form.rounding < difference < 3e-4


def test_xgboost_models_without_such_a_form_are_refused():
    matrix, lie = rows(gaps=0.0)
    data = xgboost.DMatrix(matrix, labels(lie, 2))
    words = "objective reg:squarederror; binary:logistic or multi:softprob is needed"
    with pytest.raises(ArtefactError, match=words):
        trees_of(xgboost.train({"objective": "reg:squarederror"}, data, 2))
    linear = xgboost.train({"objective": "binary:logistic", "booster": "gblinear"}, data, 2)
    assert trees_of(linear) is None
    with pytest.raises(ArtefactError, match="booster gblinear, which grows no trees"):
        xgboost_trees(linear)


def test_lightgbm_models_without_such_a_form_are_refused():
    for params, words in (
        ({"linear_tree": True}, "train it without linear_tree"),
        ({"objective": "multiclassova"}, "multiclassova"),
    ):
        with pytest.raises(ArtefactError, match=words):
            trees_of(lgb(gaps=0.0, **params)(3)[0])


def test_catboost_losses_without_class_probabilities_are_refused():
    with pytest.raises(ArtefactError, match="loss MultiClassOneVsAll; Logloss or MultiClass is needed"):
        trees_of(cat(loss_function="MultiClassOneVsAll")(3)[0])


def test_what_is_no_tree_has_no_form():
    from sklearn.linear_model import LogisticRegression

    matrix, lie = rows(gaps=0.0)
    assert trees_of(LogisticRegression().fit(matrix, labels(lie, 2))) is None


def test_64_bit_features_meet_thresholds_that_32_bits_cannot_tell_apart():
    threshold = 0.1 + 1e-12
    form = tree_form([stump(threshold=np.array([threshold, 0, 0]))], n_classes=2, link="mean", single=False)
    session = onnxruntime.InferenceSession(trees_to_onnx(form, 1, dtype=np.float64))
    found = session.run(None, {"features": np.array([[0.1], [threshold], [0.1 + 2e-12]])})[0]
    assert found[:, 1].tolist() == [0.25, 0.25, 0.75]
