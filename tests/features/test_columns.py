"""A mistake in a new column table is told by the column's name; the tables in use have none."""

from dataclasses import replace

import pytest

from ml_core.features.columns import Column, table_fault
from ml_core.serve.features.versions import get_feature_version, known_versions

GROUP = Column("patient", "text", "Who.", role="group", pattern="[A-Z][0-9]+")
NUMBER = Column("size", "float", "How large.", low=0, high=10)
LABEL = Column("finding", "category", "What was found.", role="label", levels=("no", "yes"))
TABLE = (GROUP, NUMBER, LABEL)


@pytest.mark.parametrize("name", known_versions())
def test_tables_in_use_have_no_fault(name):
    assert table_fault(get_feature_version(name).columns) is None


@pytest.mark.parametrize(
    "column",
    [
        Column("n", "int", "x"),
        Column("n", "int", "x", low=3, high=3),
        Column("n", "float", "x", high=0, nullable=True),
        Column("n", "category", "x", levels=(1, 2)),
        Column("n", "category", "x", levels=("only",)),
        Column("n", "text", "x", pattern="[a-z]+", examples=("a", "bc")),
        Column("n", "datetime", "x", role="time"),
        Column("n", "text", "x", role="id"),
    ],
    ids=lambda column: f"{column.dtype}-{column.role}",
)
def test_a_sound_column_is_let_in(column):
    assert table_fault((*TABLE, column)) is None


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (Column("n", "number", "x"), "'n' has the dtype 'number'; it is one of int, float, bool, category"),
        (Column("n", "float", "x", role="patient"), "has the role 'patient'; it is one of id, group"),
        (Column("size", "float", "x"), "'size' is there twice"),
        (Column("n", "float", "x", low=2, high=1), "allows 2 to 1, which is no value"),
        (Column("n", "float", "x", levels=(1, 2)), "has levels, which only a category has"),
        (Column("n", "category", "x"), "is a category, and needs levels"),
        (Column("n", "category", "x", levels=(True, False)), "needs levels: all texts or all whole numbers"),
        (Column("n", "category", "x", levels=("a", "a")), "has levels that repeat"),
        (Column("n", "category", "x", levels=(1, "a")), "partly texts and partly numbers"),
        (Column("n", "text", "x"), "is a text feature, and needs examples"),
        (Column("n", "text", "x", pattern="[a-z", examples=("a",)), "has a pattern that is no regular expression"),
        (Column("n", "text", "x", pattern="[a-z]", examples=("A",)), "has examples that its own pattern refuses"),
        (replace(LABEL, name="other"), "2 columns have the role 'label'; one is wanted"),
        (replace(GROUP, name="other"), "2 columns have the role 'group'; one is wanted"),
        (replace(GROUP, name="ward", role="id"), None),
    ],
)
def test_a_faulty_column_is_named_with_what_is_wanted(column, words):
    found = table_fault((*TABLE, column))
    assert (found is None) if words is None else (words in str(found))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (replace(LABEL, levels=("no",)), "'finding' is the label: a category of at least two levels"),
        (replace(LABEL, nullable=True), "'finding' is the label"),
        (replace(LABEL, dtype="int", levels=()), "'finding' is the label"),
        (replace(GROUP, nullable=True), "'patient' is the group"),
        (replace(GROUP, dtype="float"), "'patient' is the group"),
        (replace(NUMBER, role="time"), "0 columns have the role 'feature'; at least one is wanted"),
        (replace(GROUP, role="id"), "0 columns have the role 'group'; one is wanted"),
    ],
)
def test_a_table_lacks_nothing_that_every_table_has(changed, words):
    named = {column.name: column for column in TABLE} | {changed.name: changed}
    assert words in str(table_fault(tuple(named.values())))
