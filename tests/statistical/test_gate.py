"""The whole gate on honest models: it must not refuse them, whatever the draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.judging.gate_rules import GateCase, gate_verdicts
from ml_core.lab.training.labelled_rows import label_rows
from ml_core.lab.training.learner import train_model
from ml_core.serve.model.predictor import Predictor
from tests.homes import road_config

pytestmark = pytest.mark.slow

DRAWS = 120


@pytest.mark.parametrize("n", [3_000, 12_000])
def test_an_honest_model_is_refused_in_at_most_one_case_of_twenty(n: int, tmp_path: Path) -> None:
    # One thread of many seeds; the floors of performance are set low, because they are not about honesty.
    config = road_config(
        gate={"min_roc_auc": 0.5, "min_brier_skill": -1.0, "min_positives": 10, "min_coverage": 0.9},
        training={"rounds": 25, "early_stopping_rounds": 10, "params": {"max_depth": 4, "learning_rate": 0.2}},
    )
    refused: list[str] = []
    count = 0
    for seed in np.random.default_rng(2).integers(0, 2**31, DRAWS).tolist():
        rows = label_rows(make_cohort(n, seed)[0], "v1", config.split, "drawn")
        model = train_model(config, rows, tmp_path / str(seed), lambda _: None)
        failed = [
            r.rule for r in gate_verdicts(GateCase(Predictor(model.bundle), rows, config, model.folder)) if not r.passed
        ]
        count += bool(failed)
        refused += failed
    # At most 5 % by design; the test fails only if chance would give as many refusals in one of 10,000 runs.
    assert binomtest(count, DRAWS, 0.05, alternative="greater").pvalue > 1e-4, refused
