"""Who writes to a home now, seen without a change to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ml_core.base.settings import Settings
from ml_core.lab.home_care.known_models import of_model
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.log_files import log_files
from ml_core.serve.rollout.worker_reports import beating, read_reports

__all__ = ["writers_of"]

_SEAT_HELD = """
SELECT EXISTS(SELECT 1 FROM pg_locks, (SELECT hashtextextended(%s, 0) AS k) AS wanted
WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND classid::bigint = ((k >> 32) & 4294967295) AND objid::bigint = (k & 4294967295))
"""


def writers_of(settings: Settings, names: Sequence[str]) -> list[str]:
    """Processes that serve or watch one of these models, in words; none where nobody writes.

    Raises
    ------
    HomeUnreachable
        The home cannot be asked now.
    """
    return [writer for name in names for writer in _writers(of_model(settings, name), name)]


def _writers(settings: Settings, name: str) -> Iterator[str]:
    home = open_home(settings)
    for report in beating(read_reports(home.heartbeats(name))):
        where = f" on {report.machine}" if report.machine else ""
        yield f"process {report.pid} serves {name}{where}"
    if home.database is None:
        if _is_held(settings.monitor / f"{name}.lock"):
            yield f"a monitor watches {name}"
        for file in log_files(settings.log):
            if _is_held(file.lock_path):
                yield f"a worker writes to {file.path.name} of {name}"
        return
    with home.database.transaction() as connection:
        if connection.execute(_SEAT_HELD, (f"surety/seat/monitor/{name}",)).fetchone() == (True,):
            yield f"a monitor watches {name}"


def _is_held(path: Path) -> bool:
    """Whether somebody has a lock on a file, which is not made."""
    with suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False
