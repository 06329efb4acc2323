"""What every feature version owes: one transform for one row and for many, bit for bit, and a complete column table."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.serve.features.record import RecordReader
from ml_core.serve.features.versions import get_feature_version
from tests.own_versions import EVERY_KIND, STANDARD
from tests.raw_rows import valid_rows, valid_values

pytestmark = pytest.mark.parametrize("name", EVERY_KIND, ids=lambda name: name.partition("_")[0])


def matrix(version, rows):
    reader = RecordReader(version.columns)
    return version.transform(reader.arrays([reader.read(row) for row in rows]))


@st.composite
def rows_and_order(draw, version):
    rows = draw(
        st.lists(st.fixed_dictionaries({c.name: valid_values(c) for c in version.features}), min_size=1, max_size=20)
    )
    return rows, draw(st.permutations(range(len(rows))))


@given(data=st.data())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_rows_together_alone_and_shuffled_give_the_same_bits(name, data):
    version = get_feature_version(name)
    rows, order = data.draw(rows_and_order(version))
    together = matrix(version, rows)
    alone = np.vstack([matrix(version, [row]) for row in rows])
    shuffled = matrix(version, [rows[i] for i in order])
    assert together.tobytes() == alone.tobytes()
    assert together[list(order)].tobytes() == shuffled.tobytes()


def test_ten_thousand_rows_at_once_and_in_blocks_give_the_same_bits(name):
    version = get_feature_version(name)
    rows = valid_rows(version.columns, 3_000, seed=11)
    reader = RecordReader(version.columns)
    arrays = {k: np.ascontiguousarray(v) for k, v in reader.arrays([reader.read(row) for row in rows]).items()}
    whole = version.transform(arrays)
    for size in (1, 7, 64, 1_000):
        blocks = [version.transform({k: v[i : i + size] for k, v in arrays.items()}) for i in range(0, 3_000, size)]
        assert np.vstack(blocks).tobytes() == whole.tobytes()


def test_the_matrix_is_float32_with_the_named_columns_and_no_infinity(name):
    version = get_feature_version(name)
    x = matrix(version, valid_rows(version.columns, 500, seed=3))
    assert x.dtype == np.float32
    assert x.shape == (500, len(version.feature_names))
    assert len(set(version.feature_names)) == len(version.feature_names)
    assert not np.isinf(x).any()


def test_no_rows_give_an_empty_matrix(name):
    version = get_feature_version(name)
    assert matrix(version, []).shape == (0, len(version.feature_names))


def test_the_transform_leaves_its_columns_as_they_are(name):
    version = get_feature_version(name)
    reader = RecordReader(version.columns)
    arrays = reader.arrays([reader.read(row) for row in valid_rows(version.columns, 50, seed=4)])
    before = {k: v.tolist() for k, v in arrays.items()}
    version.transform(arrays)
    np.testing.assert_equal({k: v.tolist() for k, v in arrays.items()}, before)


def test_the_column_table_is_complete(name):
    columns = get_feature_version(name).columns
    assert len({c.name for c in columns}) == len(columns)
    assert [c.role for c in columns].count("label") == [c.role for c in columns].count("group") == 1
    for column in columns:
        assert column.doc.endswith("."), column.name
        if column.dtype in ("int", "float"):
            assert column.low < column.high, column.name
        if column.dtype == "category":
            assert len(set(column.levels)) == len(column.levels) >= 2 or name == STANDARD, column.name
            assert len({type(level) for level in column.levels}) == 1, column.name
        if column.dtype == "text":
            assert column.pattern, column.name
            assert column.examples or column.role != "feature", column.name
            assert all(re.fullmatch(column.pattern, example) for example in column.examples), column.name


def test_the_module_stands_alone_so_that_its_sha256_freezes_it(name):
    source = (
        Path(__file__).parents[3] / "ml_core" / "serve" / "features" / f"{'standard' if name == STANDARD else name}.py"
    )
    imported = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert imported <= {
        "__future__",
        "collections.abc",
        "dataclasses",
        "typing",
        "numpy",
        "numpy.typing",
        "ml_core.features.columns",
    }
