"""A copy that is killed anywhere goes on when it is asked for again, and ends as one that was never killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_core.base.errors import ConfigError
from ml_core.base.settings import Settings
from ml_core.lab.home_care.copying import CopiedHome, copy_home
from ml_core.serve.home.object_stores import FolderObjects
from tests.lab.home_care.lived_in import MODEL, said_by_database, said_by_folder, state_of
from tests.postgres import Server
from tests.waiting import soon


def counted(done: Callable[[], None]) -> None:
    """Call that before every statement to the database, every object that is written, and every file that appears."""
    import psycopg

    def before(kind: Any, name: str) -> None:
        plain = getattr(kind, name)

        def patched(*given: Any, **more: Any) -> Any:
            done()
            return plain(*given, **more)

        setattr(kind, name, patched)

    for kind, name in (
        (psycopg.Connection, "execute"),
        (psycopg.Cursor, "execute"),
        (psycopg.Cursor, "executemany"),
        (psycopg.Copy, "write_row"),
        (FolderObjects, "put"),
        (Path, "replace"),
        (os, "link"),
    ):
        before(kind, name)


def killed_at(step: int, work: Callable[[], object]) -> int | None:
    """Do the work in a process that is killed before that step; how many steps it took where it ended before."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        taken = 0

        def count() -> None:
            nonlocal taken
            taken += 1
            if taken == step:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            counted(count)
            work()
            os.write(writing, str(taken).encode())
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as told:
        steps = told.read()
    os.waitpid(child, 0)
    return int(steps) if steps else None


def gone_on(source: Settings, target: Settings) -> CopiedHome:
    """Copy on, as soon as the database has noticed that the killed process is gone."""
    found: list[CopiedHome] = []

    def is_free() -> bool:
        try:
            found.append(copy_home(source, target))
        except ConfigError as error:
            if "by another process" not in str(error):
                raise
        return bool(found)

    soon(is_free)
    return found[0]


def targets(server: Server, kept_home: Settings, place: Path) -> Settings:
    keys = {"log_key_file": kept_home.log_key, "subject_key_file": kept_home.subject_key}
    return Settings(
        home=place / "here",
        database=server.new_database(),
        objects=str(place / "objects"),
        model_name=MODEL,
        machine="a",
        **keys,
    )


def check_kills(server: Server, kept_home: Settings, place: Path, kills: int, seed: str) -> None:
    """Kill copies at steps drawn over their whole length, some of them several times in a row; both ways."""
    drawn = random.Random(seed)
    before = state_of(kept_home.home)
    wanted = said_by_folder(kept_home.home)
    steps = killed_at(-1, lambda: copy_home(kept_home, targets(server, kept_home, place / "whole")))
    assert steps is not None
    assert steps > 100
    target = Settings()
    for n in range(kills):
        target = targets(server, kept_home, place / str(n))
        for _ in range(1 + n % 3):
            killed_at(drawn.randint(1, steps), lambda to=target: copy_home(kept_home, to))  # type: ignore[misc]
        done = gone_on(kept_home, target)
        assert (done.is_final, done.is_sound) == (True, True)
        assert said_by_database(target.database, target.objects) == wanted, n
        assert state_of(kept_home.home) == before
    keys = {"log_key_file": kept_home.log_key, "subject_key_file": kept_home.subject_key}
    for n in range(kills):
        back = Settings(home=place / f"back{n}", model_name=MODEL, **keys)
        killed_at(drawn.randint(1, steps // 2), lambda to=back: copy_home(target, to))  # type: ignore[misc]
        done = gone_on(target, back)
        assert (done.is_final, done.is_sound) == (True, True)
        assert said_by_folder(back.home) == wanted, n
        shutil.rmtree(back.home)


def test_killed_anywhere_it_goes_on_and_ends_the_same(
    database_server: Server, kept_home: Settings, tmp_path: Path
) -> None:
    check_kills(database_server, kept_home, tmp_path, 3, "few")


@pytest.mark.slow
def test_killed_at_many_places_it_goes_on_and_ends_the_same(
    database_server: Server, kept_home: Settings, tmp_path: Path
) -> None:
    check_kills(database_server, kept_home, tmp_path, 40, "many")
