"""The state file under many hands, a full disk and a wrong hand: whole or not at all, and never lost."""

from __future__ import annotations

import json
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from ml_core.base.errors import ArtefactError, HomeUnwritable, RolloutConflict
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.rollout_store import RolloutStore
from tests.folder_files import rollout_file

A, B = "toy:v1-aaaaaaaa", "toy:v2-bbbbbbbb"
WORKERS, EACH = 8, 12


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path / "home", model_name="toy")


@pytest.fixture
def store(settings) -> RolloutStore:
    found = RolloutStore(settings)
    found.begin(A, "t1", by="service", why="first start")
    return found


def change_many(settings: Settings, worker: int) -> None:
    store = RolloutStore(settings)
    for i in range(EACH):
        store.change(changes.flags({"shadow_share": (worker * EACH + i) / 1_000}), why=f"{worker}.{i}", by=str(worker))


def in_threads(settings: Settings) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(change_many, [settings] * WORKERS, range(WORKERS)))


def in_processes(settings: Settings) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=change_many, args=(settings, worker)) for worker in range(WORKERS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * WORKERS


@pytest.mark.parametrize("run", [in_threads, in_processes])
def test_each_change_of_many_hands_starts_from_the_one_before(store, settings, run):
    run(settings)
    made = Journal(settings.journal).entries()[1:]
    assert [entry["generation"] for entry in made] == list(range(2, 2 + WORKERS * EACH))
    for worker in range(WORKERS):
        assert [e["why"] for e in made if e["who"] == str(worker)] == [f"{worker}.{i}" for i in range(EACH)]
    assert all(later["before"] == earlier["after"] for earlier, later in pairwise(made))
    assert RolloutState.model_validate(made[-1]["after"]) == store.read()


def test_of_many_who_decided_on_the_same_generation_one_wins(store, settings):
    def decide(worker: int) -> str:
        try:
            RolloutStore(settings).change(changes.shadow(B), why=str(worker), expected=1)
        except RolloutConflict:
            return "conflict"
        return "won"

    with ThreadPoolExecutor(WORKERS) as pool:
        assert sorted(pool.map(decide, range(WORKERS))) == ["conflict"] * (WORKERS - 1) + ["won"]
    assert store.read().generation == 2


def test_many_who_begin_at_once_begin_one_state(settings):
    with ThreadPoolExecutor(WORKERS) as pool:
        found = list(pool.map(lambda i: RolloutStore(settings).begin(f"toy:v{i}", "", why="start"), range(WORKERS)))
    assert len({state.champion for state in found}) == 1
    assert len(Journal(settings.journal).entries()) == 1


def test_readers_see_whole_states_in_their_order_while_others_write(store, settings):
    def generations(stopping: threading.Event) -> list[int]:
        found = []
        while not stopping.is_set():
            found.append(RolloutStore(settings).read().generation)
        return found

    stopping = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(generations, stopping)
        in_threads(settings)
        stopping.set()
    assert reading.result() == sorted(reading.result())


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff\xfe"])
def test_a_corrupt_file_stops_every_act_and_is_never_written_over(store, settings, content):
    rollout_file(settings).write_bytes(content)
    for act in (store.read, lambda: store.change(changes.shadow(B), why=""), lambda: store.begin(A, "", why="")):
        with pytest.raises(ArtefactError, match=r"toy\.json"):
            act()
    assert rollout_file(settings).read_bytes() == content
    assert len(Journal(settings.journal).entries()) == 1


@pytest.mark.parametrize("change", [{"generation": 0}, {"mode": "sideways"}, {"surprise": 1}, {"weight": 2}])
def test_a_file_edited_into_nonsense_is_refused(store, settings, change):
    file = rollout_file(settings)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ArtefactError):
        store.read()


@pytest.mark.parametrize("where", ["journal", "state"])
def test_a_full_disk_leaves_the_old_state_and_no_litter(store, settings, monkeypatch, where):
    before, entries = store.read(), Journal(settings.journal).entries()
    calls = {
        "journal": [OSError(28, "No space left on device")],
        "state": [None, OSError(28, "No space left on device")],
    }

    def sync(descriptor):
        outcome = calls[where].pop(0)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr("os.fsync", sync)  # the journal is flushed first, then the state
    with pytest.raises(HomeUnwritable, match="space"):
        store.change(changes.shadow(B), why="")
    monkeypatch.undo()
    assert store.read() == before
    assert {path.suffix for path in rollout_file(settings).parent.iterdir()} == {".json", ".lock"}
    after = store.change(changes.shadow(B), why="again")[1]
    assert after.generation == 2
    assert [e["why"] for e in Journal(settings.journal).entries()][len(entries) :][-1] == "again"


def test_each_model_name_has_a_state_of_its_own(store, settings):
    other = RolloutStore(settings, "other")
    other.begin(B, "", why="x")
    assert (store.read().champion, other.read().champion) == (A, B)
