"""The configuration of a model: what its YAML may say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ml_core.base.errors import ConfigError, UnknownFeatureVersion
from ml_core.lab.config import load_config
from ml_core.serve.features import versions
from ml_core.serve.features.versions import get_feature_version

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


COLUMNS = """
columns:
  who: {dtype: text, role: group}
  age: {dtype: int, low: 0, high: 120}
  found: {dtype: category, role: label, levels: [a, b]}
"""
MODULE = """
import numpy as np
FEATURE_NAMES = ("decades",)
def transform(columns):
    return (columns["age"][:, None] / 10).astype(np.float32)
"""


def project(tmp_path: Path, lines: str, columns: str = COLUMNS) -> Path:
    """A configuration in a folder with columns.yaml and decades.py."""
    (tmp_path / "columns.yaml").write_text(columns)
    (tmp_path / "decades.py").write_text(MODULE)
    path = tmp_path / "model.yaml"
    path.write_text(f"model: m\n{lines}data: {{source: rows.csv}}\n")
    return path


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_registered", dict(versions._registered))


@pytest.mark.usefixtures("_own_registry")
def test_a_column_table_is_named_by_a_path_beside_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project(tmp_path, "columns: columns.yaml\n")
    monkeypatch.chdir(tmp_path.parent)
    config = load_config(path)
    version = get_feature_version(config.feature_version)
    assert (version.is_table, version.feature_names, config.columns) == (True, ("age",), tmp_path / "columns.yaml")
    assert load_config(path) == config


@pytest.mark.usefixtures("_own_registry")
@pytest.mark.parametrize(
    "lines",
    ["columns: columns.yaml\nmodule: decades.py\n", "columns: columns.yaml\nmodule: decades.py\ntransform: decades\n"],
)
def test_a_column_table_may_have_a_transform_of_its_own(tmp_path: Path, lines: str) -> None:
    config = load_config(project(tmp_path, lines))
    assert config.feature_version.startswith("decades_")
    assert get_feature_version(config.feature_version).feature_names == ("decades",)


@pytest.mark.usefixtures("_own_registry")
@pytest.mark.parametrize("lines", ["module: all.py\n", "module: all.py\nfeature_version: all\n"])
def test_a_module_brings_table_and_transform(tmp_path: Path, lines: str) -> None:
    table = "from ml_core.features.columns import Column\nCOLUMNS = (Column('who', 'text', '', role='group'),"
    table += "Column('age', 'int', ''), Column('found', 'category', '', role='label', levels=('a', 'b')))\n"
    (tmp_path / "all.py").write_text(table + MODULE)
    assert load_config(project(tmp_path, lines)).feature_version == "all"


@pytest.mark.usefixtures("_own_registry")
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("", "says nothing of its features: set columns, or feature_version, or module"),
        ("feature_version: v1\ntransform: decades\n", "transform needs columns"),
        ("feature_version: v1\nmodule: decades.py\n", "model.yaml: module: is decades, and feature_version is v1"),
        ("columns: columns.yaml\ntransform: v1\nmodule: decades.py\n", "module: is decades, and transform is v1"),
        ("columns: columns.yaml\nfeature_version: v1\n", "feature_version: is what columns says already"),
        ("columns: none.yaml\n", "none.yaml: there is no such file"),
        ("feature_version: V1\n", "model.yaml: feature_version: String should match"),
        ("columns: columns.yaml\ntransform: nowhere\n", "feature version 'nowhere' is not known here"),
        ("module: decades.py\n", "feature version decades: has no COLUMNS"),
    ],
)
def test_what_cannot_be_meant_is_told(tmp_path: Path, lines: str, says: str) -> None:
    with pytest.raises((ConfigError, UnknownFeatureVersion), match=re.escape(says)):
        get_feature_version(load_config(project(tmp_path, lines)).feature_version)


def test_a_fault_of_the_table_names_its_file(tmp_path: Path) -> None:
    text = COLUMNS.replace("low: 0", "lwo: 0")
    with pytest.raises(ConfigError, match=r"columns\.yaml: age\.lwo is no key of a column; low is meant\?"):
        load_config(project(tmp_path, "columns: columns.yaml\n", text))
    text = COLUMNS.replace("low: 0", "transform: one_hot, low: 0")
    with pytest.raises(ConfigError, match=r"columns\.yaml: age\.transform: cannot be one_hot for the dtype int"):
        load_config(project(tmp_path, "columns: columns.yaml\n", text))


def test_a_split_in_time_may_name_its_column(tmp_path: Path) -> None:
    config = load_config(
        written(tmp_path, "split: {by: time, order_by: age}\ngate: {prove: true, min_coverage_returning: 0.8}\n")
    )
    assert (config.split.by, config.split.order_by, config.gate.prove) == ("time", "age", True)
