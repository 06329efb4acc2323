"""What is said of the raw columns behind each feature is what the transform does: a value changes what names it, no more."""

from __future__ import annotations

import numpy as np
import pytest

from ml_core.base.errors import ConfigError
from ml_core.features.columns import Column
from ml_core.lab.training.conversion import drawn_columns
from ml_core.serve.features.matrix_sources import declared_sources
from ml_core.serve.features.table_versions import table_version
from ml_core.serve.features.versions import get_feature_version, module_version
from tests.own_versions import EVERY_KIND

ROWS = 4_000


@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_raw_column_changes_exactly_the_features_that_name_it(name):
    version, rng = get_feature_version(name), np.random.default_rng(5)
    drawn = drawn_columns(version.features, ROWS, rng)
    before = version.transform(drawn)
    assert len(version.sources) == len(version.feature_names)
    for column in version.features:
        other = {**drawn, column.name: drawn[column.name][rng.permutation(ROWS)]}
        changed = (before != version.transform(other)) & ~(np.isnan(before) & np.isnan(version.transform(other)))
        named = [column.name in sources for sources in version.sources]
        moves = changed.any(axis=0)
        constant = np.array([np.unique(values[~np.isnan(values)]).size < 2 for values in before.T])
        assert (moves[~constant] == np.array(named)[~constant]).all(), column.name
        assert not (moves & ~np.array(named)).any()


def test_a_table_with_a_modules_transform_has_the_modules_sources():
    v2 = get_feature_version("v2")
    assert table_version(v2.columns, "v2").sources == v2.sources


MODULE = """
import numpy as np

FEATURE_NAMES = ("age", "age_squared", "ratio")
{declared}

def transform(columns):
    age, weight = columns["age"], columns["weight"]
    return np.column_stack([age, age * age, age / weight]).astype(np.float32)
"""
COLUMNS = (
    Column("who", "text", "Who.", role="group", pattern="[a-z]+"),
    Column("age", "int", "Age.", low=0, high=120),
    Column("weight", "float", "Weight.", low=1, high=300),
    Column("ill", "category", "What came.", role="label", levels=(0, 1)),
)


def module(tmp_path, declared: str):
    path = tmp_path / "ratios.py"
    path.write_text(MODULE.format(declared=declared))
    return module_version(path)


def test_a_module_says_it_itself_and_columns_of_their_own_name_need_no_word(tmp_path):
    found = module(tmp_path, 'FEATURE_SOURCES = {"age_": ("age",), "ratio": ("age", "weight")}')
    assert found.sources == (("age",), ("age",), ("age", "weight"))


def test_a_module_that_says_nothing_has_none(tmp_path):
    assert module(tmp_path, "").sources is None


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"age_squared": ("age",)}, "of which raw columns 'ratio' is made"),
        ({"age_squared": ("age",), "ratio": ("age", "height")}, "of which raw columns 'ratio' is made"),
        ({"age_squared": (), "ratio": ("age",)}, "of which raw columns 'age_squared' is made"),
        (["age"], "is no mapping"),
    ],
)
def test_what_is_said_wrongly_is_refused_by_name(declared, words):
    with pytest.raises(ConfigError, match=words):
        declared_sources("ratios", ("age", "age_squared", "ratio"), COLUMNS, declared)
