"""The figures of the house: what counts as a name, as a place that names a field, as a shape of an answer."""

from __future__ import annotations

import ast

import pytest

from benchmarks import house


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch):
    """Makes these texts the files of the product."""

    def write(**texts: str) -> None:
        trees = {f"ml_core/{name}.py": ast.parse(text) for name, text in texts.items()}
        monkeypatch.setattr(house, "trees", lambda: trees)

    return write


def test_a_public_name_counts_where_two_files_define_it(written) -> None:
    written(
        a="from x import C\nT = TypeVar('T')\nlogger = 1\n_own = 2\ndef f(): ...\nclass C: ...",
        b="T = TypeVar('T')\nlogger = 1\n_own = 2\ndef f(): ...\nfrom ml_core.a import C",
    )
    assert house.names_twice() == {"f": ["ml_core/a.py", "ml_core/b.py"]}


def test_a_field_is_named_by_attributes_parameters_and_texts_but_not_by_docstrings(written) -> None:
    written(
        a="x.site", b="f(site=1)", c="SQL = 'insert into answers (day, site)'", d="'''About site.'''", e="website = 1"
    )
    assert house.files_naming("site") == ["ml_core/a.py", "ml_core/b.py", "ml_core/c.py"]


def test_an_answer_has_two_of_its_fields_and_a_labelled_one_the_truth_too(written) -> None:
    written(
        a="class A:\n    prediction: int\n    p_values: list\nclass B:\n    prediction: int\n    label: int\nclass C:\n    label: int"
    )
    assert house.answer_shapes() == ["ml_core/a.py:A"]
    assert house.labelled_answers() == ["ml_core/a.py:B"]
