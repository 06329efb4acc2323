"""Our tables by group against fairlearn's MetricFrame, which lives in an environment of its own."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pytest

from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.evaluation import evaluate
from ml_core.serve.model.groupings import GroupedRows, Groupings
from ml_core.serve.model.manifest import GroupFacts, GroupingFacts
from tests.oracles import oracle
from tests.toy_scores import binary_rows

METRIC_FRAME = """
import json, sys
import numpy as np
from fairlearn.metrics import MetricFrame, count
from sklearn.metrics import brier_score_loss, roc_auc_score

rows = json.load(sys.stdin)
y, p1, groups = np.array(rows["y"]), np.array(rows["p1"]), np.array(rows["groups"])
sets = np.array(rows["sets"])
covered, sizes = sets[np.arange(len(y)), y], sets.sum(axis=1)
mean = lambda _, values: float(np.mean(values))
found = {
    "n": MetricFrame(metrics=count, y_true=y, y_pred=p1, sensitive_features=groups),
    "roc_auc": MetricFrame(metrics=roc_auc_score, y_true=y, y_pred=p1, sensitive_features=groups),
    "brier": MetricFrame(metrics=brier_score_loss, y_true=y, y_pred=p1, sensitive_features=groups),
    "coverage": MetricFrame(metrics=mean, y_true=y, y_pred=covered, sensitive_features=groups),
    "mean_set_size": MetricFrame(metrics=mean, y_true=y, y_pred=sizes, sensitive_features=groups),
    "singleton_share": MetricFrame(metrics=mean, y_true=y, y_pred=sizes == 1, sensitive_features=groups),
}
for k in (0, 1):
    own = y == k
    of_class = MetricFrame(metrics=mean, y_true=y[own], y_pred=covered[own], sensitive_features=groups[own])
    found[f"coverage_class_{k}"] = of_class
json.dump({name: {str(g): float(v) for g, v in frame.by_group.items()} for name, frame in found.items()}, sys.stdout)
"""


def test_metrics_by_group_equal_fairlearns_metric_frame() -> None:
    rows, rng = binary_rows(4_000, seed=51, base=-1.0), np.random.default_rng(52)
    cells = ("a", "b", "c")
    facts = GroupingFacts(name="w", column="w", is_feature=False, cells=cells, levels=cells, level_cells=(0, 1, 2))
    positions = rng.choice(4, (4_000, 1), p=[0.5, 0.3, 0.15, 0.05])
    calibration = calibrate(rows.proba, rows.y, 2)
    by = GroupedRows(Groupings(GroupFacts(declared=(facts,))), positions)
    sets = calibration.sets(rows.proba, Decimal("0.9"))
    ours = evaluate(rows.proba, rows.y, calibration, Decimal("0.9"), None, (0, 1), by=by).by_group
    asked = {
        "y": rows.y.tolist(),
        "p1": rows.proba[:, 1].tolist(),
        "groups": np.array([*cells, "unknown"])[positions[:, 0]].tolist(),
        "sets": sets.astype(int).tolist(),
    }
    done = oracle("python", "-c", METRIC_FRAME, text=json.dumps(asked))
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    assert [one.cell for one in ours] == ["a", "b", "c", "unknown"]
    for one in ours:
        assert one.n == theirs["n"][one.cell]
        for name in theirs.keys() - {"n"}:
            assert one.metrics[name] == pytest.approx(theirs[name][one.cell], abs=1e-12)
