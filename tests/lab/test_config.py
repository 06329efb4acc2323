"""The configuration of a model: what its YAML may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_core.base.errors import ConfigError
from ml_core.lab.config import load_config

LEAST = "model: toy\nfeature_version: v1\ndata: {source: rows.parquet}\n"


def written(folder: Path, more: str) -> Path:
    path = folder / "toy.yaml"
    path.write_text(LEAST + more)
    return path


def test_the_primary_metric_of_earlier_versions_is_accepted_where_it_is_the_auc(tmp_path: Path) -> None:
    older = load_config(written(tmp_path, "promotion: {primary_metric: roc_auc, min_improvement: 0.03}\n"))
    assert older == load_config(written(tmp_path, "promotion: {min_improvement: 0.03}\n"))


def test_another_primary_metric_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"promotion.*ROC AUC always decides a promotion: take primary_metric out"):
        load_config(written(tmp_path, "promotion: {primary_metric: brier}\n"))


def test_shares_must_sum_to_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the four shares sum to 1\.1"):
        load_config(written(tmp_path, "split: {train: 0.6}\n"))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("gate: {min_auc: 0.7}\n", "gate.min_auc"),
        ("conformal: {confidence_level: 0.4}\n", "conformal.confidence_level"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, more: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config(written(tmp_path, more))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("split: {order_by: age}\n", "order_by needs by: time"),
        ("gate: {min_coverage_returning: 0.8}\n", "min_coverage_returning needs split.by: time"),
        ("conformal: {training_conditional: 0.3}\n", "conformal.training_conditional"),
    ],
)
def test_what_belongs_together_is_asked_for_together(tmp_path: Path, more: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(written(tmp_path, more))


def test_a_split_in_time_may_name_its_column(tmp_path: Path) -> None:
    config = load_config(
        written(tmp_path, "split: {by: time, order_by: age}\ngate: {prove: true, min_coverage_returning: 0.8}\n")
    )
    assert (config.split.by, config.split.order_by, config.gate.prove) == ("time", "age", True)
