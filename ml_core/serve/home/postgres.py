"""The database of a home on many machines: few connections, transactions that nest, numbered formats, our errors.

Needs the extra ``cluster`` (psycopg 3). Nothing imports this module where ``SURETY_DATABASE`` is not set.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

try:
    import psycopg
    from psycopg import errors as sql_errors
    from psycopg import sql
    from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout
except ImportError as missing:  # pragma: no cover - a test runs it in an environment without the extra
    raise ImportError("SURETY_DATABASE needs the extra `cluster`: pip install 'surety-bundle[cluster]'") from missing

from ml_core.base.errors import ConfigError, HomeTooNew, HomeTooOld, HomeUnreachable

__all__ = ["SHARED", "DatabaseFormat", "HomeDatabase", "schema_of"]

SHARED = "surety"
"""Schema of what belongs to no single model."""
MOST_CONNECTIONS = 4
"""Of one process, at most; they are opened when they are needed."""
_WAIT_S = 5.0
_KEPT_IDLE_S = 60.0
_SOCKET = {
    "connect_timeout": 3,
    "tcp_user_timeout": 4_000,
    "keepalives": 1,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
}
"""A database that is cut off is noticed within about five seconds, also by a statement that waits for its reply."""
_OPTIONS = (
    "-c statement_timeout=60000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=60000 -c timezone=UTC "
    "-c tcp_keepalives_idle=2 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3 -c tcp_user_timeout=4000"
)
"""The database notices a machine that is cut off as soon, and gives up what it had locked."""
_LONGEST_NAME = 50
_PORT = 5432
_PROBE_S = 0.4
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # each failed attempt; who needs the database says so


def schema_of(model_name: str) -> str:
    """Schema of what belongs to one model.

    A model's name may have 100 characters and a schema's 63, so a long one ends in a part of its hash.
    """
    if len(model_name) <= _LONGEST_NAME:
        return f"model {model_name}"
    return f"model {model_name[:40]} {sha256(model_name.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class DatabaseFormat:
    """Tables of one kind in one schema, by numbered steps (migrations), as a SQLite file has them in ``user_version``.

    Step n brings the tables from version n - 1 to n; new ones go through all of them. Steps add and never take away
    what the release before needs, so that two releases can run side by side while the software is changed.

    Attributes
    ----------
    kind : names the tables in messages and in ``surety.format``
    steps : statements by number, from 1; names without a schema are of the schema they are made in
    oldest : version that a release must know at least to work with tables of the newest version
    """

    kind: str
    steps: Mapping[int, Sequence[str]]
    oldest: int = 1

    @property
    def version(self) -> int:
        """The version that this release makes."""
        return max(self.steps)


_SET_PATH = "SELECT set_config('search_path', %s, true)"
_SET_PATH_AND_LOCK = f"{_SET_PATH}, pg_advisory_xact_lock(hashtextextended(%s, 0))"
_FORMAT_TABLE = (
    f"CREATE TABLE IF NOT EXISTS {SHARED}.format(schema text, kind text, version integer NOT NULL, "
    "oldest integer NOT NULL, changed_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY(schema, kind))"
)
_REGISTER = (f"CREATE SCHEMA IF NOT EXISTS {SHARED}", _FORMAT_TABLE)
_FORMAT_OF = f"SELECT version, oldest FROM {SHARED}.format WHERE schema = %s AND kind = %s"  # noqa: S608 - names of ours
_SET_FORMAT = (
    f"INSERT INTO {SHARED}.format(schema, kind, version, oldest) VALUES(%s, %s, %s, %s) ON CONFLICT(schema, kind) "
    "DO UPDATE SET version = EXCLUDED.version, oldest = EXCLUDED.oldest, changed_at = clock_timestamp()"
)


class HomeDatabase:
    """A PostgreSQL database, used by any thread of one process.

    Parameters
    ----------
    url : ``postgresql://…``, as libpq reads it
    most : connections of this process, at most

    Raises
    ------
    ConfigError
        The address cannot be read. What it says is not repeated: it may hold a password.
    """

    def __init__(self, url: str, most: int = MOST_CONNECTIONS) -> None:
        try:
            given = psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise ConfigError("SURETY_DATABASE", "is no address of a PostgreSQL database") from error
        self._places = _places(given)
        self._address = psycopg.conninfo.make_conninfo(url, **{k: v for k, v in _SOCKET.items() if k not in given})
        self.shown = f"postgresql://{given.get('host', '')}/{given.get('dbname', '')}"
        self._pool: ConnectionPool[psycopg.Connection[Any]] | None = None
        self._most = most
        self._making = threading.Lock()
        self._local = threading.local()
        self._opened: set[tuple[str, str, int]] = set()
        self._is_away = False  # so it seemed last; then a look at its port saves the wait for a connection

    def close(self) -> None:
        """Give the connections back."""
        with self._making:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close(timeout=1.0)

    def connect(self) -> psycopg.Connection[Any]:
        """A connection of the caller's own, outside the pool, in autocommit: to listen, to copy, to hold a seat.

        Raises
        ------
        HomeUnreachable
            The database cannot be reached.
        """
        with self.our_errors():
            return psycopg.connect(self._address, autocommit=True, options=_OPTIONS, application_name="surety")

    def answers(self, timeout_s: float) -> bool:
        """Whether somebody listens at a port of the database. True where it is reached by no address and port."""
        for place in self._places:
            with suppress(OSError), socket.create_connection(place, timeout_s):
                return True
        return not self._places

    @contextmanager
    def fenced(self, check: Callable[[psycopg.Connection[Any]], None]) -> Iterator[None]:
        """A block in which transactions of this thread that write begin with that check, which raises to refuse it."""
        before = getattr(self._local, "fence", None)
        self._local.fence = check
        try:
            yield
        finally:
            self._local.fence = before

    @contextmanager
    def transaction(
        self, schema: str = SHARED, lock: str = "", *, snapshot: bool = False
    ) -> Iterator[psycopg.Connection[Any]]:
        """A connection in a transaction: committed at the end of the block, undone on any error.

        A block inside a block of the same thread is part of the same transaction.

        Parameters
        ----------
        schema : where names without a schema are looked up
        lock : held until the (outer) transaction ends; one process at a time has it. "" for none
        snapshot : nothing is changed, and all statements see one moment; in a block inside a block, that of the outer

        Raises
        ------
        HomeUnreachable
            The database cannot be reached, is going down, or others hold the lock for too long.
        """
        outer: tuple[psycopg.Connection[Any], str] | None = getattr(self._local, "held", None)
        if outer is None:
            if self._is_away and not self.answers(_PROBE_S):
                raise HomeUnreachable(self.shown, "nobody answers at its port")
            with (
                self.our_errors(),
                self._connections().connection() as connection,
                _begun(connection, snapshot=snapshot),
                self._held(connection, schema, lock, writes=not snapshot),
            ):
                self._is_away = False
                yield connection
            return
        connection, before = outer
        try:
            with connection.transaction(), self._held(connection, schema, lock):
                yield connection
        finally:
            if connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
                connection.execute(_SET_PATH, (_path(before),))

    @contextmanager
    def _held(
        self, connection: psycopg.Connection[Any], schema: str, lock: str, *, writes: bool = True
    ) -> Iterator[None]:
        before = getattr(self._local, "held", None)
        self._local.held = (connection, schema)
        try:
            if lock:
                connection.execute(_SET_PATH_AND_LOCK, (_path(schema), f"{schema}/{lock}"))
            else:
                connection.execute(_SET_PATH, (_path(schema),))
            fence: Callable[[psycopg.Connection[Any]], None] | None = getattr(self._local, "fence", None)
            if before is None and fence is not None and writes:
                fence(connection)
            yield
        finally:
            self._local.held = before

    def ready(self, wanted: DatabaseFormat, schema: str = SHARED) -> None:
        """Make sure that the tables are there in a version that this release can work with; new ones are made.

        Raises
        ------
        HomeTooOld
            The tables are of an earlier version: ``surety home migrate`` brings them up to date.
        HomeTooNew
            They are of a version that this release does not know.
        HomeUnreachable
            As :meth:`transaction`.
        """
        if not self.is_made(wanted, schema):
            with self._apart():
                self.migrate(wanted, schema)
            self._opened.add((schema, wanted.kind, wanted.version))

    def is_made(self, wanted: DatabaseFormat, schema: str = SHARED) -> bool:
        """Whether the tables are there, in a version that this release can work with; makes none.

        Raises
        ------
        HomeTooOld, HomeTooNew, HomeUnreachable
            As :meth:`ready`.
        """
        if (schema, wanted.kind, wanted.version) in self._opened:
            return True
        with self._apart():
            found = self.format_of(wanted, schema)
        if found is None:
            return False
        version, oldest = found
        if version < wanted.version:
            raise HomeTooOld(wanted.kind, version, wanted.version)
        if oldest > wanted.version:
            raise HomeTooNew(wanted.kind, version, wanted.version)
        self._opened.add((schema, wanted.kind, wanted.version))
        return True

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """A block whose transactions are none of those that this thread is in: neither undone nor kept with them."""
        before = self._local.__dict__.copy()
        self._local.__dict__.clear()
        try:
            yield
        finally:
            self._local.__dict__.update(before)

    def format_of(self, wanted: DatabaseFormat, schema: str = SHARED) -> tuple[int, int] | None:
        """Version of the tables that are there, and the oldest that a release must know; None where there are none."""
        with self.transaction() as connection:
            if connection.execute("SELECT to_regclass(%s)", (f"{SHARED}.format",)).fetchone() == (None,):
                return None
            row = connection.execute(_FORMAT_OF, (schema, wanted.kind)).fetchone()
        return None if row is None else (int(row[0]), int(row[1]))

    def migrate(self, wanted: DatabaseFormat, schema: str = SHARED) -> tuple[int, int]:
        """Bring the tables up to date; the versions before (0: none) and after. Newer ones are left as they are.

        Raises
        ------
        HomeUnreachable
            As :meth:`transaction`.
        """
        with self.transaction(SHARED, lock="migrate") as connection:
            for statement in _REGISTER:
                connection.execute(statement)
            row = connection.execute(_FORMAT_OF, (schema, wanted.kind)).fetchone()
            found = 0 if row is None else int(row[0])
            if found >= wanted.version:
                return found, found
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
            connection.execute(_SET_PATH, (_path(schema),))
            for number in range(found + 1, wanted.version + 1):
                for statement in wanted.steps.get(number, ()):
                    connection.execute(statement)
            connection.execute(_SET_FORMAT, (schema, wanted.kind, wanted.version, wanted.oldest))
            return found, wanted.version

    @contextmanager
    def our_errors(self) -> Iterator[None]:
        """Our errors for those that say that the database cannot be reached or used now.

        Raises
        ------
        HomeUnreachable
            In their place; it names the database without user or password.
        """
        try:
            yield
        except (psycopg.OperationalError, PoolTimeout, PoolClosed, sql_errors.ReadOnlySqlTransaction) as error:
            self._is_away = True
            raise HomeUnreachable(self.shown, _reason(error)) from error

    def _connections(self) -> ConnectionPool[psycopg.Connection[Any]]:
        with self._making:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self._address,
                    kwargs={"autocommit": True, "options": _OPTIONS, "application_name": "surety"},
                    min_size=0,
                    max_size=self._most,
                    timeout=_WAIT_S,
                    max_idle=_KEPT_IDLE_S,
                    reconnect_timeout=_WAIT_S,
                    num_workers=1,
                    check=ConnectionPool.check_connection,
                    open=True,
                    name="surety-home",
                )
            return self._pool


@contextmanager
def _begun(connection: psycopg.Connection[Any], *, snapshot: bool) -> Iterator[None]:
    """A transaction; what is set here goes along with its BEGIN."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ if snapshot else None
    connection.read_only = True if snapshot else None
    with connection.transaction():
        yield


def _places(given: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Addresses and ports of the servers; none where a socket in a folder is meant."""
    hosts = [host for host in str(given.get("hostaddr") or given.get("host") or "").split(",") if host]
    ports = str(given.get("port") or _PORT).split(",")
    return [(host, int(ports[i % len(ports)])) for i, host in enumerate(hosts) if host[0] not in "/@"]


def _path(schema: str) -> str:
    quoted = schema.replace('"', '""')
    return f'"{quoted}"'


def _reason(error: BaseException) -> str:
    """The first line of an error in few words; libpq's own lines name host and port, never a password."""
    if isinstance(error, PoolTimeout):
        return f"no connection within {_WAIT_S:g} s"
    lines = str(error).strip().splitlines()
    with suppress(IndexError):
        return lines[0][:200]
    return type(error).__name__
