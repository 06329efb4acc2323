"""The scorecard gives what scikit-learn gives, in plain JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ml_core.lab.training.scorecard_fit import fit_scorecard
from ml_core.serve.model.scorer import Scorecard


def drawn(n_classes: int, missing: float = 0.0):
    rng = np.random.default_rng(4)
    features = rng.normal(5, 3, (800, 4)).astype(np.float32)
    margin = (features[:, 0] - features[:, 1]) / 3 + rng.normal(size=800)
    labels = np.digitize(margin, np.linspace(-1, 1, n_classes - 1)).astype(np.int64)
    features[rng.random(features.shape) < missing] = np.nan
    return features, labels


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_the_numpy_form_gives_what_scikit_learn_gives(n_classes):
    features, labels = drawn(n_classes)
    wide = features.astype(np.float64)
    standardised = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    expected = LogisticRegression(C=1.0, max_iter=500).fit(standardised, labels).predict_proba(standardised)
    found = Scorecard(fit_scorecard(features, labels, n_classes)).proba(features)
    assert np.abs(found - expected).max() < 1e-7


def test_a_missing_value_counts_as_the_mean_of_its_column():
    features, labels = drawn(2, missing=0.2)
    content = fit_scorecard(features, labels, 2)
    filled = np.where(np.isnan(features), np.array(content["center"]), features.astype(np.float64))
    card = Scorecard(content)
    assert np.allclose(card.proba(features), card.proba(filled.astype(np.float32)), atol=1e-6)
    assert np.allclose(content["center"], np.nanmean(features.astype(np.float64), axis=0))


def test_constant_and_empty_columns_weigh_nothing():
    features, labels = drawn(2)
    features[:, 2], features[:, 3] = 7.0, np.nan
    content = fit_scorecard(features, labels, 2)
    assert content["scale"][2:] == [1.0, 1.0]
    assert content["coefficients"][1][2:] == [0.0, 0.0]


def test_it_is_plain_json_and_the_same_every_time():
    features, labels = drawn(3)
    content = fit_scorecard(features, labels, 3)
    assert json.loads(json.dumps(content)) == content == fit_scorecard(features, labels, 3)
