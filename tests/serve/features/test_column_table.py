"""A column table in a file: read strictly, each fault by column and key, and written so that it is read back."""

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_core.base.errors import ConfigError
from ml_core.features.columns import Column, table_fault, table_hash
from ml_core.serve.features.column_table import parse_columns, read_columns, table_bytes
from ml_core.serve.features.versions import get_feature_version, known_versions

NEEDED = "  who: {dtype: text, role: group}\n  label: {dtype: category, role: label, levels: [benign, malignant]}\n"


def read(tmp_path: Path, text: str) -> tuple[Column, ...]:
    path = tmp_path / "columns.yaml"
    path.write_text(f"columns:\n{NEEDED}{text}")
    return read_columns(path)


def fault(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as found:
        read(tmp_path, text)
    assert str(found.value).startswith(f"{tmp_path / 'columns.yaml'}: ")
    return str(found.value).removeprefix(f"{tmp_path / 'columns.yaml'}: ")


def test_the_keys_of_a_line_are_those_of_a_column(tmp_path: Path) -> None:
    text = (
        "  age: {dtype: int, unit: years, low: 0, high: 120, nullable: true, doc: At admission., missing_flag: true}\n"
    )
    assert read(tmp_path, text)[-1] == Column(
        "age", "int", "At admission.", unit="years", low=0, high=120, nullable=True, missing_flag=True
    )


def test_the_table_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    assert [c.name for c in read(tmp_path, "  b: {dtype: int}\n  a: {dtype: float}\n")] == ["who", "label", "b", "a"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("age: {dtyp: int}", "age.dtyp is no key of a column; dtype is meant?"),
        ("age: {dtype: int, unti: years}", "age.unti is no key of a column; unit is meant?"),
        ("age: {dtype: int, xyz: 1}", "age.xyz is no key of a column; known are doc, dtype"),
        ("age: {dtype: integer}", "age.dtype must be one of int, float, bool, category, text, datetime; int is meant?"),
        (
            "age: {dtype: int, role: labels}",
            "age.role must be one of id, group, time, feature, label, weight; label is meant?",
        ),
        ("age: {dtype: int, low: '0'}", "age.low must be a number"),
        ("age: {dtype: int, low: true}", "age.low must be a number"),
        ("age: {dtype: float, high: .inf}", "age.high must be a number"),
        (f"age: {{dtype: float, high: {10**400}}}", "age.high must be a number"),
        (f"age: {{dtype: category, levels: [{2**64}]}}", "age.levels must be a list"),
        ("age: {dtype: int, nullable: 1}", "age.nullable must be true or false"),
        (
            "sex: {dtype: category, levels: [no, yes]}",
            "sex.levels must be a list of texts or of whole numbers; in quotes",
        ),
        ("sex: {dtype: category, levels: [1, b]}", "sex.levels must be a list"),
        ("sex: {dtype: category, levels: [1.5]}", "sex.levels must be a list"),
        ("sex: {dtype: category, levels: [2020-01-01]}", "sex.levels must be a list"),
        ("sex: {dtype: category, levels: F}", "sex.levels must be a list"),
        ("sex: {dtype: category}", "column 'sex' is a category, and needs levels"),
        ("icd: {dtype: text, examples: [250]}", "icd.examples must be a list of texts, in quotes"),
        (
            "age: {dtype: int, transform: onehot}",
            "age.transform must be one of as_is, one_hot, ordinal, date_parts, none",
        ),
        ("age: int", "age: describe the column by keys, as in `age: {dtype: float}`"),
        ("1: {dtype: int}", "1 is no name of a column: put it in quotes"),
        ("age: {unit: years}", "age.dtype is missing: one of int"),
        ("age: {dtype: int, dtype: int}", "has the key 'dtype' twice (line 4)"),
        ("who: {dtype: int}", "has the key 'who' twice (line 4)"),
        ("on: {dtype: datetime, low: 3}", "True is no name of a column"),
        ("seen: {dtype: datetime, low: 3}", "column 'seen' has low or high, which only numbers have"),
        ("urgent: {dtype: bool, role: time}", "column 'urgent' is a bool, which only a feature can be"),
    ],
)
def test_a_fault_is_told_by_column_and_key(tmp_path: Path, line: str, words: str) -> None:
    assert fault(tmp_path, f"  {line}\n").startswith(words)


def test_several_faults_are_told_at_once(tmp_path: Path) -> None:
    found = fault(tmp_path, "".join(f"  c{i}: {{dtype: nothing}}\n" for i in range(13)))
    assert all(f"c{i}.dtype must be" in found for i in range(10))
    assert found.endswith("; and 3 more")


@pytest.mark.parametrize("text", ["", "[1]", "column: {}", "columns: 3", "columns: {}\nmore: 1", "columns: {a"])
def test_another_document_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "columns.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_columns(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: there is no such file"):
        read_columns(tmp_path / "none.yaml")


def test_one_spelling_of_a_bound_is_one_table(tmp_path: Path) -> None:
    tables = [read(tmp_path, f"  x: {{dtype: float, low: {low}}}\n") for low in ("0", "0.0", "-0.0")]
    assert len({table_hash(table) for table in tables}) == 1


@pytest.mark.parametrize("name", known_versions())
def test_a_table_in_use_is_read_back(name: str) -> None:
    columns = get_feature_version(name).columns
    assert parse_columns(orjson.loads(table_bytes(columns)), "columns.json") == columns


names = st.text("abcdefgh_ äß.", min_size=1, max_size=8)
numbers = st.none() | st.integers(-100, -1)
features = st.one_of(
    st.builds(Column, names, st.just("int"), st.text(max_size=5), low=numbers, high=numbers),
    st.builds(Column, names, st.just("float"), st.text(max_size=5), low=numbers.map(lambda n: n and n + 0.5)),
    st.builds(Column, names, st.just("bool"), st.text(max_size=5), nullable=st.booleans()),
    st.builds(Column, names, st.just("datetime"), st.text(max_size=5), missing_flag=st.booleans()),
    st.builds(Column, names, st.just("category"), st.text(), levels=st.lists(st.text(), min_size=1).map(tuple)),
    st.builds(
        Column, names, st.just("category"), st.text(), levels=st.lists(st.integers(0, 99), min_size=1).map(tuple)
    ),
)
FIXED = (
    Column("who", "text", "Who.", role="group"),
    Column("what", "category", "What.", role="label", levels=("no", "yes")),
)


@given(st.lists(features, min_size=1, max_size=5).map(lambda found: (*FIXED, *found)))
def test_what_is_written_is_read_back(columns: tuple[Column, ...]) -> None:
    if len({c.name for c in columns}) == len(columns) and table_fault(columns) is None:
        back = parse_columns(orjson.loads(table_bytes(columns)), "columns.json")
        assert back == columns
        assert table_bytes(back) == table_bytes(columns)


def wide(n: int) -> str:
    """A column table of n numbers, as ``surety init`` writes it."""
    lines = [
        f"  gene_{i}: {{dtype: float, unit: '', low: -10, high: 10}}  # unit?; bounds to be checked" for i in range(n)
    ]
    ends = ["  who: {dtype: text, role: group}", "  ill: {dtype: category, role: label, levels: ['no', 'yes']}"]
    return "\n".join(["columns:", *lines, *ends, ""])


@pytest.mark.parametrize("n", [6_500, pytest.param(19_998, marks=pytest.mark.slow)])
def test_thousands_of_columns_are_read(tmp_path, n):
    (tmp_path / "columns.yaml").write_text(wide(n))
    columns = read_columns(tmp_path / "columns.yaml")
    assert (len(columns), columns[n - 1].name, columns[n - 1].high) == (n + 2, f"gene_{n - 1}", 10)


def test_more_columns_than_are_handled_are_refused_with_the_number(tmp_path, monkeypatch):
    monkeypatch.setattr("ml_core.serve.features.column_table.MOST_COLUMNS", 20)
    (tmp_path / "columns.yaml").write_text(wide(19))
    with pytest.raises(ConfigError, match="has 21 columns, and 20 are the most: leave some out"):
        read_columns(tmp_path / "columns.yaml")
