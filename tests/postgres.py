"""A PostgreSQL server of the tests' own: made in a temporary folder, on a socket and a port of its own, ended after."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from tests.oracles import cluster_packages

_SETTINGS = {"max_connections": "300", "shared_buffers": "64MB", "log_checkpoints": "off"}
_QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""For tests that end no server: they need no disk."""

_EMPTY = """
DO $$ DECLARE found text; BEGIN
    FOR found IN SELECT nspname FROM pg_namespace WHERE nspname = 'surety' OR nspname LIKE 'model %' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', found);
    END LOOP;
END $$
"""


def programs() -> Path | None:
    """Folder of the newest PostgreSQL's programs; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    here = shutil.which("postgres")
    return None if here is None else Path(here).resolve().parent


@dataclass
class Server:
    """A running server.

    Attributes
    ----------
    folder : of its data, its log and its socket
    address : host name or address that it listens on besides the socket
    """

    folder: Path
    port: int
    address: str = "127.0.0.1"

    def __post_init__(self) -> None:
        self._numbers = count(1)

    def url(self, database: str = "postgres") -> str:
        """The address of one of its databases."""
        return f"postgresql://postgres@{self.address}:{self.port}/{database}"

    def new_database(self, *options: str) -> str:
        """The address of a new, empty database; options as ``createdb`` has them."""
        name = f"home{os.getpid()}_{next(self._numbers)}"
        self.run("createdb", "-h", str(self.folder), "-p", str(self.port), *options, name)
        return self.url(name)

    def empty(self, url: str) -> None:
        """Take everything out of one of its databases."""
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_EMPTY)

    def end_sessions(self, url: str) -> None:
        """End what homes have open in one of its databases, as if it were restarted."""
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'surety'"
            )

    def stored(self, url: str) -> bytes:
        """All that lies in the files of a database, its log of changes (WAL) left aside."""
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            row = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
        assert row is not None
        files = (self.folder / "data" / "base" / str(row[0])).iterdir()
        return b"".join(path.read_bytes() for path in files)

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not ended since."""
        return (self.folder / "data" / "postmaster.pid").exists()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "-t", "60", "start")

    def stop(self, how: str = "fast") -> None:
        """End it: ``smart``, ``fast``, or ``immediate``, which is as good as kill -9."""
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", how, "-w", "stop")

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs as a user that it accepts (it refuses root)."""
        place = programs()
        assert place is not None
        as_user = "postgres" if os.getuid() == 0 else None
        with tempfile.TemporaryFile("w+") as told:  # no pipe: a server that is started keeps its output open
            done = subprocess.run(
                [str(place / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=subprocess.STDOUT,
                user=as_user,
                group=as_user,
                extra_groups=[] if as_user else None,
                cwd=self.folder,
            )
            told.seek(0)
            if done.returncode:
                raise RuntimeError(f"{program}: {told.read()}")
            return told.read()


@contextmanager
def server(*, listens_on: str = "127.0.0.1", durable: bool = False, **more: str) -> Iterator[Server]:
    """A server with an empty data folder; ended at the end of the block.

    Skips the test where PostgreSQL or the extra ``cluster`` cannot be had, and fails it in CI.

    Parameters
    ----------
    durable : whether commits reach the disk, for tests that end the server
    more : further settings of ``postgresql.conf``
    """
    cluster_packages()
    if programs() is None:
        told = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    folder = Path(tempfile.mkdtemp(prefix="surety-pg-"))
    try:
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
        with socket.socket() as probe:
            probe.bind((listens_on, 0))
            port = probe.getsockname()[1]
        found = Server(folder, port, listens_on)
        found.run(
            "initdb", "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"
        )
        settings = {
            **_SETTINGS,
            **({} if durable else _QUICK),
            "port": str(port),
            "listen_addresses": f"'{listens_on}'",
            "unix_socket_directories": f"'{folder}'",
            **more,
        }
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())
        with (folder / "data" / "pg_hba.conf").open("a") as file:
            file.write("host all all 0.0.0.0/0 trust\n")
        found.start()
        try:
            yield found
        finally:
            if found.is_running:
                found.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
