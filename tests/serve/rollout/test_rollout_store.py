"""The state file: whole, counted, journalled, also when many change it at once."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from ml_core.base.errors import ArtefactError, NotLoaded, RolloutConflict, RolloutRefused
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_store import RolloutStore
from tests.serve.rollout.states import V1, V2


def store_in(home: Path) -> RolloutStore:
    return RolloutStore(Settings(home=home, model_name="risk"))


@pytest.fixture
def store(tmp_path: Path) -> RolloutStore:
    made = store_in(tmp_path)
    made.begin(V1, "", by="service", why="first start")
    return made


def test_nothing_is_there_before_somebody_begins(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert store.read() is None
    with pytest.raises(NotLoaded):
        store.change(changes.shadow(V2), why="")


def test_beginning_twice_is_beginning_once(store: RolloutStore) -> None:
    first = store.read()
    assert store.begin(V2, "", why="late") == first


def test_change_counts_up_and_says_who_and_why(store: RolloutStore) -> None:
    before, after = store.change(changes.shadow(V2), why="new codes", by="anna")
    assert (before.generation, after.generation) == (1, 2)
    assert (after.changed_by, after.why) == ("anna", "new codes")
    assert store.read() == after


def test_every_change_is_in_the_journal_with_before_and_after(store: RolloutStore, tmp_path: Path) -> None:
    store.change(changes.shadow(V2), why="new codes", by="anna")
    entry = Journal(Settings(home=tmp_path).journal).entries()[-1]
    assert (entry["event"], entry["who"], entry["why"]) == ("rollout.changed", "anna", "new codes")
    assert (entry["before"]["mode"], entry["after"]["mode"]) == ("off", "shadow")


def test_refused_change_leaves_state_and_journal_alone(store: RolloutStore, tmp_path: Path) -> None:
    before, entries = store.read(), Journal(Settings(home=tmp_path).journal).entries()
    with pytest.raises(RolloutRefused):
        store.change(changes.rollback(), why="")
    assert store.read() == before
    assert Journal(Settings(home=tmp_path).journal).entries() == entries


def test_dry_run_shows_and_keeps_nothing(store: RolloutStore) -> None:
    before, after = store.change(changes.shadow(V2), why="", dry_run=True)
    assert after.mode == "shadow"
    assert store.read() == before


def test_change_decided_on_another_generation_is_a_conflict(store: RolloutStore) -> None:
    store.change(changes.shadow(V2), why="", expected=1)
    with pytest.raises(RolloutConflict):
        store.change(changes.rollback(), why="", expected=1)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff", b'{"model_name": "risk"}'])
def test_file_that_is_no_state_is_refused(store: RolloutStore, tmp_path: Path, content: bytes) -> None:
    (tmp_path / store.document).write_bytes(content)
    with pytest.raises(ArtefactError):
        store.read()


def change_many(home: str, n: int) -> list[int]:
    store = store_in(Path(home))
    return [store.change(changes.flags({"shadow_share": i / n}), why="race", by="test")[1].generation for i in range(n)]


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_changes_at_the_same_time_are_all_made_one_after_another(
    store: RolloutStore, tmp_path: Path, kind: type
) -> None:
    with kind(8) as pool:
        made = [g for part in pool.map(change_many, [str(tmp_path)] * 8, [10] * 8) for g in part]
    assert sorted(made) == list(range(2, 82))
    entries = [e for e in Journal(Settings(home=tmp_path).journal).entries() if e["why"] == "race"]
    assert sorted(e["generation"] for e in entries) == list(range(2, 82))
    assert store.read().generation == 81
