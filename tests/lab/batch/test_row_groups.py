"""Pieces of work name every row once, in order, and never cut a row group."""

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.lab.batch.row_groups import pieces_of

GROUPS = st.lists(st.integers(0, 9), max_size=8)
TABLES = st.lists(st.one_of(GROUPS.map(tuple), st.integers(0, 9)), max_size=5)


def table(made):
    if isinstance(made, int):
        return SimpleNamespace(rows=made, group_rows=None)
    return SimpleNamespace(rows=sum(made), group_rows=made)


@settings(deadline=None)
@given(made=TABLES, piece_rows=st.integers(1, 20))
def test_every_row_is_in_one_piece_and_their_order_is_that_of_the_rows(made, piece_rows):
    tables = [table(each) for each in made]
    found = pieces_of(tables, piece_rows)
    assert [piece.number for piece in found] == list(range(len(found)))
    rows = [(p.file, row) for p in found for row in range(p.first_row, p.first_row + p.rows)]
    assert rows == [(number, row) for number, each in enumerate(tables) for row in range(each.rows)]
    for piece in found:
        groups = tables[piece.file].group_rows
        if groups is None:
            assert piece.groups is None
        else:
            assert piece.rows == sum(groups[g] for g in piece.groups)
            assert piece.first_row == sum(groups[: piece.groups[0]])


@settings(deadline=None)
@given(groups=GROUPS, piece_rows=st.integers(1, 20))
def test_a_piece_ends_with_the_row_group_that_fills_it(groups, piece_rows):
    found = pieces_of([table(tuple(groups))], piece_rows)
    for piece in found[:-1]:
        assert piece.rows >= piece_rows
    for piece in found:
        assert sum(groups[g] for g in piece.groups[:-1]) < piece_rows
