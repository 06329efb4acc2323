"""Figures are kept by name, and those of tests that have gone are dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.figures import FigureBook

HERE = "tests/test_figures.py"


@pytest.fixture
def book(tmp_path: Path) -> FigureBook:
    return FigureBook(tmp_path / "new" / "figures.json")


def test_figure_is_kept_with_its_promise_and_the_running_test(book: FigureBook) -> None:
    book.record("F1", "holds", {"failed": 0})
    entry = book.known()["F1"]
    assert (entry["promise"], entry["figure"]) == ("holds", {"failed": 0})
    assert entry["test"].endswith("::test_figure_is_kept_with_its_promise_and_the_running_test")


def test_one_test_may_keep_several_figures_in_a_run(book: FigureBook) -> None:
    book.record("F1", "holds", 1)
    book.record("F2", "holds", 2)
    assert book.known().keys() == {"F1", "F2"}


def test_next_run_of_a_test_drops_what_it_no_longer_records(book: FigureBook) -> None:
    book.record("old name", "holds", 1)
    FigureBook(book.path).record("new name", "holds", 1)
    assert book.known().keys() == {"new name"}


def test_figure_of_a_test_that_has_gone_is_dropped_with_the_next_one(book: FigureBook) -> None:
    book.record("F1", "holds", 1, test=f"{HERE}::test_that_has_gone")
    book.record("F3", "holds", 1, test=f"{HERE}::test_one_test_may_keep_several_figures_in_a_run")
    FigureBook(book.path).record("F2", "holds", 1)
    assert book.known().keys() == {"F2", "F3"}


def test_table_says_numbers_in_words_and_in_the_order_asked_for(book: FigureBook) -> None:
    book.record("F10", "ten", {"lost_rows": 0, "took_s": 1.5}, test=f"{HERE}::book[case]")
    book.record("F2", "two", 12_345, test=f"{HERE}::book")
    rows = book.table("fault", lambda name: int(name[1:])).splitlines()
    assert rows[0] == "| fault | promise | last figure | test |"
    assert rows[2:] == ["| F2 | two | 12,345 | `book` |", "| F10 | ten | lost rows 0, took s 1.5 | `book` |"]
