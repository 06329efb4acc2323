"""A fetch that takes long keeps nobody waiting, is not begun twice, and is found by who asks again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ml_core.base.errors import HomeUnreachable, NotLoaded
from ml_core.serve.model.model_fetching import Fetches
from tests.waiting import soon

MODEL = ("name:v1-00000000", "0" * 64)


class Store:
    """A store that gives a model once it is let."""

    def __init__(self) -> None:
        self.may_give = threading.Event()
        self.asked = 0

    def fetch(self) -> Path:
        self.asked += 1
        assert self.may_give.wait(30)
        return Path("model")


def test_a_slow_fetch_goes_on_once_and_is_found_later() -> None:
    fetches, store = Fetches(0.01), Store()
    for _ in range(3):
        with pytest.raises(HomeUnreachable, match="name:v1-00000000 is still being fetched"):
            fetches.folder(MODEL, store.fetch)
    store.may_give.set()
    found: list[Path | None] = []

    def is_found() -> bool:
        try:
            found.append(fetches.folder(MODEL, store.fetch))
        except HomeUnreachable:
            return False
        return True

    soon(is_found)
    assert found == [Path("model")]
    assert store.asked == 1
    assert fetches.folder(MODEL, store.fetch) == Path("model")
    assert store.asked == 2


def test_what_goes_wrong_is_told_to_who_asks_and_the_next_asks_anew() -> None:
    fetches, tries = Fetches(30.0), []

    def fetch() -> Path:
        tries.append(1)
        raise NotLoaded("no such model")

    for _ in range(2):
        with pytest.raises(NotLoaded, match="no such model"):
            fetches.folder(MODEL, fetch)
    assert len(tries) == 2


def test_without_a_limit_the_fetch_is_made_by_who_asks() -> None:
    here = []
    Fetches(None).folder(MODEL, lambda: here.append(threading.current_thread()))
    assert here == [threading.current_thread()]
