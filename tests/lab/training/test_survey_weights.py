"""Rows that stand for others: training, metrics, sets and gate are of the population, and requests need no weight."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.errors import ConfigError, DataError, InvalidRecord
from ml_core.features.columns import Column, table_fault
from ml_core.lab.judging.gate_rules import GateCase, gate_verdicts
from ml_core.lab.measuring.calibration import calibrate
from ml_core.lab.measuring.comparison import paired_auc_difference
from ml_core.lab.measuring.evaluation import evaluate, score_metrics
from ml_core.lab.training.labelled_rows import LabelledRows, label_rows
from ml_core.lab.training.packing import PackedModel
from ml_core.serve.features.record import RecordReader
from ml_core.serve.model.bundle import read_bundle
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.weighted_sets import DensityRatio, WeightedCalibration
from tests.homes import remade, road_config, trained
from tests.own_versions import install

NINETY = Decimal("0.9")
COLUMNS = (
    Column("person", "text", "Identifies the person.", role="group", pattern=r"[a-z0-9-]+"),
    Column("x", "float", "What is measured.", low=-20, high=20),
    Column("z", "float", "Nothing to do with it.", low=-20, high=20),
    Column("stands_for", "float", "For how many people the row stands.", role="weight", low=0.001),
    Column("outcome", "category", "What came of it.", role="label", levels=("no", "yes")),
)
CONFIG: dict[str, Any] = {
    "feature_version": "v902",
    "training": {"rounds": 40, "early_stopping_rounds": 10, "params": {"learning_rate": 0.2, "max_depth": 2}},
    "gate": {"min_roc_auc": 0.6, "max_brier": 0.3, "min_positives": 50},
}
SELDOM = 0.15
"""Chance that a person who is hard to tell is asked; all others are asked for certain."""


def people(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, outcome, chance to be asked) of n people: those of either outcome near the other are seldom asked."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(np.int64)
    x = rng.normal(np.where(y == 1, 1.0, -1.0))
    return x, y, np.where(np.abs(x) < 1.0, SELDOM, 1.0)


def asked(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, outcome, weight) of those of n people who are asked."""
    x, y, chance = people(n, seed)
    found = np.random.default_rng(seed + 1).random(n) < chance
    return x[found], y[found], 1.0 / chance[found]


def frame(n: int, seed: int) -> pd.DataFrame:
    x, y, weight = asked(n, seed)
    z = np.random.default_rng(seed + 2).normal(size=x.size)
    names = [f"p{seed}-{i}" for i in range(x.size)]
    labels = np.array(["no", "yes"])[y]
    return pd.DataFrame({"person": names, "x": x, "z": z, "stands_for": weight, "outcome": labels})


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, tmp_path, "v902", COLUMNS)


def rows_of(table: pd.DataFrame) -> LabelledRows:
    return label_rows(table, "v902", road_config().split, "survey")


@cache
def _model() -> tuple[PackedModel, LabelledRows]:
    rows = rows_of(frame(9_000, 3))
    return trained(road_config(**CONFIG), rows), rows


@pytest.fixture
def model(version: None) -> tuple[PackedModel, LabelledRows]:
    return _model()


# --- the guarantee, by simulation ---------------------------------------------------------------------------------


def posterior(x: np.ndarray) -> np.ndarray:
    p = 1.0 / (1.0 + np.exp(-2.0 * x))
    return np.column_stack([1.0 - p, p])


def with_weights(proba: np.ndarray, y: np.ndarray, weights: np.ndarray) -> WeightedCalibration:
    """What ``survey_calibration`` makes, of arrays."""
    shares = weights / weights.max()
    order = [np.argsort(1.0 - proba[y == k, k], kind="stable") for k in (0, 1)]
    ratio = DensityRatio({"center": [0.0], "scale": [1.0], "coefficients": [0.0], "intercept": 0.0})
    return WeightedCalibration(calibrate(proba, y, 2), tuple(shares[y == k][order[k]] for k in (0, 1)), ratio)


def test_each_class_of_the_population_is_covered_as_promised_which_unweighted_rows_do_not():
    """The promise is a mean over calibrations of at least 0.9; its error is that of 150 of them and of 40,000 people."""
    x, y, _ = people(40_000, 1)
    proba, draws = posterior(x), 150
    weighted, plain = np.empty((draws, 2)), np.empty((draws, 2))
    for i in range(draws):
        seen, outcome, weight = asked(1_500, 1_000 + 10 * i)
        found = with_weights(posterior(seen), outcome, weight)
        sets = found.rows(proba, NINETY, np.ones(x.size)).sets, found.plain.sets(proba, NINETY)
        for k in (0, 1):
            weighted[i, k], plain[i, k] = (each[y == k, k].mean() for each in sets)
    error = np.sqrt(weighted.var(axis=0) / draws + 0.09 / np.bincount(y))
    assert (weighted.mean(axis=0) >= 0.9 - 4 * error).all()
    assert (weighted.mean(axis=0) <= 0.95).all()  # not by sets that hold everything
    assert (plain.mean(axis=0) < 0.88).all()


@given(st.integers(0, 10_000), st.floats(0.01, 1.0))
def test_a_set_for_the_largest_weight_holds_the_set_of_every_weight(seed, weight):
    seen, outcome, weights = asked(400, seed)
    found, proba = with_weights(posterior(seen), outcome, weights), posterior(np.linspace(-4, 4, 60))
    largest, own = (found.rows(proba, NINETY, np.full(60, w)).sets for w in (1.0, weight))
    assert (largest | ~own).all()


def test_equal_weights_change_no_p_value():
    x, y, _ = people(700, 5)
    proba = posterior(x)
    found = with_weights(proba, y, np.full(x.size, 7.0))
    assert np.allclose(found.p_values(proba, np.ones(x.size)), found.plain.p_values(proba), rtol=0, atol=1e-15)


# --- metrics ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_whole_weights_are_rows_that_are_there_so_often(seed, n_classes):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, 40)])
    proba = np.round(rng.dirichlet(np.ones(n_classes), y.size), 1)  # with ties
    proba[:, 0] = 1.0 - proba[:, 1:].sum(axis=1)
    proba = np.clip(proba, 0.0, 1.0)
    often = rng.integers(1, 5, y.size)
    again = np.repeat(proba, often, axis=0), np.repeat(y, often)
    found = score_metrics(proba, y, often.astype(np.float64))
    assert found == pytest.approx(score_metrics(*again), abs=1e-12)
    calibration = calibrate(*again, n_classes)
    mine = evaluate(proba, y, calibration, NINETY, None, range(n_classes), weights=often.astype(np.float64)).metrics
    theirs = evaluate(*again, calibration, NINETY, None, range(n_classes)).metrics
    counts = [name for name in mine if name.startswith("n_")]
    assert {n: v for n, v in mine.items() if n not in counts} == pytest.approx(
        {n: v for n, v in theirs.items() if n not in counts}, abs=1e-12
    )
    assert mine["n_test"] == y.size


def test_the_paired_difference_of_two_areas_takes_weights():
    x, y, _ = people(300, 8)
    new, old = posterior(x)[:, 1], posterior(x + np.random.default_rng(1).normal(size=300))[:, 1]
    often = np.random.default_rng(2).integers(1, 4, 300)
    people_of = np.arange(300)
    plain = paired_auc_difference(y, new, old, people_of)
    alike = paired_auc_difference(y, new, old, people_of, np.full(300, 5.0))
    assert (alike.difference, alike.standard_error) == pytest.approx((plain.difference, plain.standard_error))
    weighted = paired_auc_difference(y, new, old, people_of, often.astype(np.float64))
    repeated = paired_auc_difference(*(np.repeat(a, often) for a in (y, new, old, people_of)))
    assert weighted.difference == pytest.approx(repeated.difference, abs=1e-12)
    assert weighted.standard_error == pytest.approx(repeated.standard_error, rel=0.02)


# --- a model from its rows to its answers -------------------------------------------------------------------------


def verdicts(folder: Path, rows: LabelledRows) -> dict[str, bool]:
    case = GateCase(Predictor(read_bundle(folder)), rows, road_config(**CONFIG), folder)
    return {rule.rule: rule.passed for rule in gate_verdicts(case)}


def test_its_promise_is_for_the_population_and_the_gate_agrees(model):
    packed, rows = model
    manifest = packed.bundle.manifest
    assert manifest.guarantee == "weighted"
    assert manifest.weighting is not None
    assert manifest.weighting.column == "stands_for"
    counts = {str(c): int(n) for c, n in zip(rows.classes, np.bincount(rows.part("calibration").y_index), strict=True)}
    assert all(worth < counts[label] for label, worth in manifest.weighting.effective_rows.items())
    found = verdicts(packed.folder, rows)
    assert all(found.values()), [name for name, passed in found.items() if not passed]
    assert {"weights_match", "weights_reproduce", "coverage_class_yes", "effective_rows_class_yes"} <= found.keys()
    assert trained(road_config(**CONFIG), rows).model_hash == packed.model_hash


def test_a_model_calibrated_without_the_weights_is_refused(model, tmp_path):
    packed, rows = model
    plain = trained(road_config(**CONFIG), LabelledRows(**{**rows.__dict__, "weights": None}))
    assert plain.bundle.manifest.guarantee == "class_conditional"
    assert not verdicts(plain.folder, rows)["weights_match"]
    weighting = packed.bundle.manifest.weighting
    assert weighting is not None
    remade(packed.folder, tmp_path / "b", weighting=weighting.model_copy(update={"column": "z"}).model_dump())
    assert not verdicts(tmp_path / "b", rows)["weights_match"]


def test_the_population_outside_the_survey_is_covered(model):
    """A floor from theory: one calibration of about 350 effective rows of a class, judged on 6,000 people."""
    packed, _ = model
    x, y, _ = people(20_000, 77)
    columns = {"x": x, "z": np.random.default_rng(4).normal(size=x.size)}
    sets = Predictor(packed.bundle).predict(columns).sets
    assert packed.bundle.manifest.weighting is not None
    for k, worth in enumerate(packed.bundle.manifest.weighting.effective_rows.values()):
        assert sets[y == k, k].mean() > 0.9 - 5 * np.sqrt(0.09 / worth + 0.09 / (y == k).sum())


def test_the_reference_is_that_of_the_population(model):
    packed, rows = model
    with np.load(packed.folder / "reference.npz") as stored:
        mean, n = float(stored["mean/x"][0]), int(stored["count/x"][0])
    everybody = people(100_000, 6)[0]
    assert abs(mean - everybody.mean()) < 5 * everybody.std() / np.sqrt(n)
    assert n < len(rows)


def test_a_request_may_send_its_weight_which_is_checked_and_not_looked_at(model):
    packed, _ = model
    reader = RecordReader(packed.bundle.features.columns)
    plain, heavy = reader.read({"x": 1.0, "z": 0.0}), reader.read({"x": 1.0, "z": 0.0, "stands_for": 9.0})
    assert reader.canonical(plain) == reader.canonical(heavy)
    with pytest.raises(InvalidRecord):
        reader.read({"x": 1.0, "z": 0.0, "stands_for": "many"})


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("promise", [{"guarantee": "marginal"}, {"training_conditional": "0.95"}])
def test_weights_with_another_promise_are_refused(version, promise):
    with pytest.raises(ConfigError, match="rows with weights"):
        trained(road_config(**CONFIG, conformal=promise), rows_of(frame(3_000, 3)))


def test_a_few_rows_that_stand_for_nearly_everybody_are_refused(version):
    table = frame(3_000, 3)
    table.loc[table.index[:3], "stands_for"] = 1e6
    with pytest.raises(DataError, match=r"class 'no' weigh as much as 1\.0 rows of the largest weight.*needs 9"):
        trained(road_config(**CONFIG), rows_of(table))


def test_a_row_without_a_weight_counts_like_the_mean_row(version):
    table = frame(3_000, 3)
    table.loc[table.index[:5], "stands_for"] = np.nan
    rows = rows_of(table)
    assert rows.weights is not None
    assert rows.weights.max() == 1.0
    assert rows.weights[:5] == pytest.approx(np.full(5, rows.weights[5:].mean()))
    assert rows_of(table.drop(columns="stands_for")).weights is None


@pytest.mark.parametrize(
    ("facts", "words"),
    [({"dtype": "text"}, "is the weight"), ({"low": None}, "is the weight"), ({"low": 0.0}, "above 0")],
)
def test_a_weight_column_is_a_number_above_zero(facts, words):
    columns = [c if c.role != "weight" else Column(**{**_fields(c), **facts}) for c in COLUMNS]
    assert words in (table_fault(columns) or "")
    assert table_fault(COLUMNS) is None
    assert "2 columns have the role 'weight'" in (
        table_fault((*COLUMNS, Column(**{**_fields(COLUMNS[3]), "name": "w2"}))) or ""
    )


def _fields(column: Column) -> dict[str, Any]:
    return {name: getattr(column, name) for name in Column.__dataclass_fields__}
