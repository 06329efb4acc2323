"""Kills a writing process many times at a random moment, and checks what it has left (F12).

    python -m tests.faults.killing import|change TIMES SEED

Run in the environment of a workplace. Everything is imported once; each victim is a fork of this process. Prints one JSON
object: how often each state was found, and how far the victims had got.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from ml_core.base.errors import ArtefactError, NotLoaded
from ml_core.base.settings import Settings, load_settings
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_store import RolloutStore
from tests.folder_files import rollout_file


def killed_after(delay_s: float, work: Callable[[], object]) -> bool:
    """Fork, let the child work, kill it; whether it was still working."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(delay_s)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_imports(settings: Settings, times: int, dice: random.Random) -> dict[str, Any]:
    """Kill imports of version 2 while version 1 serves: after each kill version 2 is whole or not there."""
    import bentoml.mlflow
    import mlflow.pyfunc
    import mlflow.store.artifact.local_artifact_repo
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - so that no victim spends its time importing

    from ml_core.lab.registry.importer import import_version, stored_path
    from ml_core.lab.registry.model_registry import ModelRegistry

    def work() -> None:
        registry = ModelRegistry(settings)
        import_version(registry, registry.by_version(settings.model_name, "2"), settings)

    loader = ModelLoader(settings)
    old = loader.served_tag()
    new = next(tag for tag in loader.tags() if tag.split(":")[1].startswith("v2-"))
    bentoml.models.delete(new)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    whole_s = time.monotonic() - began
    assert loader.load(new).tag == new
    found: Counter[str] = Counter()
    for _ in range(times):
        folder = stored_path(new)
        if folder is not None:
            bentoml.models.delete(new)
        found["killed at work"] += killed_after(dice.uniform(0.4, 1.1) * whole_s, work)
        assert loader.load(old).tag == old, "the old one no longer loads"
        try:
            loader.tags()
        except Exception as error:  # noqa: BLE001 - any error that keeps commands from naming the other models
            found[f"listing broken by {type(error).__name__}"] += 1
        try:
            loader.load(new)
            found["new whole"] += 1
        except NotLoaded:
            found["new not there"] += 1
        except ArtefactError:
            found["new refused as damaged"] += 1
    work()
    assert loader.load(new).tag == new, "an import after all the kills does not make it whole"
    return {"one_import_s": round(whole_s, 2), **found}


def kill_changes(settings: Settings, times: int, dice: random.Random) -> dict[str, Any]:
    """Kill changes of the rollout between two versions: after each kill the state names one of them."""
    store = RolloutStore(settings)
    loader = ModelLoader(settings)
    one = loader.served_tag()
    two = next(tag for tag in loader.tags() if tag.split(":")[1].startswith("v2-"))
    store.begin(one, "", why="test")

    def work() -> None:
        while True:
            state = store.read()
            assert state is not None
            store.change(changes.full(two if state.champion == one else one), why="test", by="test")

    found: Counter[str] = Counter()
    generation = 1
    for _ in range(times):
        found["killed at work"] += killed_after(dice.uniform(0.0, 0.02), work)
        state = store.read()
        assert state is not None
        assert state.champion in {one, two}
        assert state.generation >= generation
        generation = state.generation
        found["champion 1" if state.champion == one else "champion 2"] += 1
    lines = settings.journal.read_text().splitlines()
    entries = [entry for entry in map(_parsed, lines) if entry is not None]
    journalled = {entry["generation"] for entry in entries if entry.get("event") == "rollout.changed"}
    assert set(range(1, generation + 1)) <= journalled, "a change took effect that the journal does not know"
    file = rollout_file(settings)
    left = len(list(file.parent.glob(f".{file.name}.*")))
    return {**found, "changes": generation, "temporary_files_left": left}


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)  # type: ignore[no-any-return]
    except ValueError:
        return None


if __name__ == "__main__":
    what, count, seed = sys.argv[1:]
    run = kill_imports if what == "import" else kill_changes
    sys.stdout.write("FOUND" + json.dumps(run(load_settings(), int(count), random.Random(int(seed)))))
