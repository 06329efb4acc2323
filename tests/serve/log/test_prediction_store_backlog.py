"""What waits is bounded and in order, and every answer comes to one outcome, whoever is first to decide."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.serve.log.prediction_store import MOST_WAITING_ROWS, Backlog, Ticket, by_day, release
from tests.serve.log.builders import DAY_US, NOON_US, row


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs when it is told to."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def backlog() -> Backlog:
    return Backlog()


def turn(loop: asyncio.AbstractEventLoop) -> None:
    """Let the event loop do what it has been called to."""
    loop.run_until_complete(asyncio.sleep(0))


def put_in(backlog: Backlog, one: Ticket) -> bool:
    """Admit a ticket and leave it to the thread."""
    admitted = backlog.admit(one)
    if admitted:
        backlog.queue((one,))
    return admitted


def ticket(loop: asyncio.AbstractEventLoop, n_rows: int = 1, *, strict: bool = False, **changes: Any) -> Ticket:
    return Ticket([row(i, **changes) for i in range(n_rows)], loop, strict=strict)


def test_tickets_come_out_in_the_order_they_went_in(backlog: Backlog, loop: asyncio.AbstractEventLoop) -> None:
    tickets = [ticket(loop, n) for n in (1, 5, 2, 7)]
    assert all(put_in(backlog, one) for one in tickets)
    assert backlog.take(6, 0.01) == (tickets[:2], True)
    assert backlog.take(100, 0.01) == (tickets[2:], True)
    assert backlog.take(100, 0.01) == ([], True)


def test_the_end_comes_behind_what_was_taken_in_and_nothing_behind_it(
    backlog: Backlog, loop: asyncio.AbstractEventLoop
) -> None:
    before = ticket(loop)
    put_in(backlog, before)
    assert backlog.end()
    assert not backlog.end()
    assert not put_in(backlog, ticket(loop))
    assert backlog.take(100, 0.01) == ([before], False)


def test_room_is_counted_in_rows_and_given_back(backlog: Backlog, loop: asyncio.AbstractEventLoop) -> None:
    bulk, half = ticket(loop, answers=1_000_000), ticket(loop, MOST_WAITING_ROWS // 2)
    rest = ticket(loop, MOST_WAITING_ROWS // 2 - 1)
    assert put_in(backlog, bulk)
    assert put_in(backlog, half)
    assert backlog.is_half_full
    assert put_in(backlog, rest)
    assert not put_in(backlog, ticket(loop))
    assert backlog.counts("").pending == 1_000_000 + MOST_WAITING_ROWS - 1
    backlog.decide([half], stored=True)
    assert put_in(backlog, ticket(loop))


def test_a_call_larger_than_all_room_waits_alone(backlog: Backlog, loop: asyncio.AbstractEventLoop) -> None:
    large = ticket(loop, MOST_WAITING_ROWS + 1)
    assert put_in(backlog, large)
    assert not put_in(backlog, ticket(loop))
    backlog.decide([large], stored=True)
    assert put_in(backlog, ticket(loop))


@pytest.mark.parametrize(
    ("strict", "given_up", "let_go", "stored", "fate"),
    [
        (False, False, False, True, "stored"),
        (False, False, False, False, "lost"),
        (False, True, False, True, "stored"),  # answered before it was stored, as standard mode does
        (False, True, False, False, "lost"),
        (True, False, False, True, "stored"),
        (True, False, False, False, "refused"),
        (True, True, False, True, "unanswered"),
        (True, True, False, False, "refused"),
        (True, False, True, True, "stored"),
        (True, False, True, False, "lost"),  # its caller went away, and counts as answered
    ],
)
def test_fates(
    backlog: Backlog,
    loop: asyncio.AbstractEventLoop,
    strict: bool,
    given_up: bool,
    let_go: bool,
    stored: bool,
    fate: str,
) -> None:
    one = ticket(loop, 3, strict=strict)
    put_in(backlog, one)
    if given_up:
        assert backlog.give_up(one) is None
    if let_go:
        backlog.let_go(one)
    backlog.decide([one], stored=stored)
    assert one.fate == fate
    assert getattr(backlog.counts(""), fate) == 3
    assert backlog.counts("").pending == 0


def test_who_gives_up_too_late_hears_what_was_decided(backlog: Backlog, loop: asyncio.AbstractEventLoop) -> None:
    one = ticket(loop, strict=True)
    put_in(backlog, one)
    backlog.decide([one], stored=True)
    assert backlog.give_up(one) == "stored"
    assert backlog.counts("").stored == 1


def test_strict_ones_are_refused_where_the_others_may_wait(backlog: Backlog, loop: asyncio.AbstractEventLoop) -> None:
    standard, strict, gone, given_up = (ticket(loop, strict=s) for s in (False, True, True, True))
    for one in (standard, strict, gone, given_up):
        put_in(backlog, one)
    backlog.let_go(gone)
    backlog.give_up(given_up)
    assert backlog.wanted([standard, strict, gone, given_up]) == [standard, strict, gone]
    assert backlog.kept([standard, strict, gone]) == [standard, gone]
    assert (backlog.counts("").refused, backlog.counts("").pending) == (2, 2)


def test_callers_hear_once(backlog: Backlog, loop: asyncio.AbstractEventLoop) -> None:
    one, two = ticket(loop), ticket(loop)
    heard = [one.future, two.future]
    put_in(backlog, one)
    put_in(backlog, two)
    release([one], stored=False)
    backlog.decide([one, two], stored=True)
    turn(loop)
    assert [future.result() for future in heard if future is not None] == [False, True]


def test_an_ended_event_loop_does_not_matter(backlog: Backlog) -> None:
    loop = asyncio.new_event_loop()
    one = ticket(loop)
    put_in(backlog, one)
    loop.close()
    backlog.decide([one], stored=True)
    assert backlog.counts("").stored == 1


def test_tickets_go_by_day_in_their_order(loop: asyncio.AbstractEventLoop) -> None:
    days = [1, 0, 1, 0, 2, 1]
    tickets = [ticket(loop, at_us=NOON_US + day * DAY_US - i) for i, day in enumerate(days)]
    assert by_day(tickets) == [
        ("2026-11-23", [tickets[1], tickets[3]]),
        ("2026-11-24", [tickets[0], tickets[2], tickets[5]]),
        ("2026-11-25", [tickets[4]]),
    ]
    assert by_day([]) == []


operation = st.tuples(
    st.sampled_from(["put", "miss", "give_up", "let_go", "decide", "wanted", "kept"]), st.booleans(), st.integers(0, 9)
)


@settings(deadline=None, max_examples=200)
@given(st.lists(operation, max_size=40))
def test_the_account_is_exact_whatever_happens_in_which_order(script: list[tuple[str, bool, int]]) -> None:
    loop, backlog = asyncio.new_event_loop(), Backlog()
    put, tickets = 0, []
    for what, flag, n in script:
        waiting = [one for one in tickets if one.fate is None]
        chosen = waiting[n % len(waiting)] if waiting else None
        if what == "put":
            tickets.append(ticket(loop, n + 1, strict=flag))
            assert put_in(backlog, tickets[-1])
            put += n + 1
        elif what == "miss":
            backlog.miss(n, strict=flag)
            put += n
        elif chosen is not None and what == "give_up":
            backlog.give_up(chosen)
        elif chosen is not None and what == "let_go":
            backlog.let_go(chosen)
        elif chosen is not None and what == "decide":
            backlog.decide([chosen], stored=flag)
        elif what in {"wanted", "kept"}:
            left = getattr(backlog, what)(waiting)
            assert all(one.fate is None for one in left)
        counts = backlog.counts("")
        pending = sum(one.answers for one in tickets if one.fate is None)
        assert counts.pending == pending
        assert counts.stored + counts.lost + counts.refused + counts.unanswered + pending == put
    loop.close()
