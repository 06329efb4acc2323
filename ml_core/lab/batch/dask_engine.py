"""Pieces of work on a Dask cluster, which the user runs; Dask itself is not among our packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, TypeVar
from uuid import uuid4

from ml_core.base.errors import ConfigError, DataError, SuretyError, WorkersLost
from ml_core.lab.batch.row_groups import Piece

__all__ = ["OnDask"]

S = TypeVar("S")
R = TypeVar("R")

_CONNECT_SECONDS = 10
_TRIES_AGAIN = 2


class OnDask:
    """Engine of a Dask cluster, see :class:`ml_core.lab.batch.engines.Engine`.

    A task is named by the run and the number of its piece. Dask would name it by a token of its arguments, and slices
    of one Arrow table have one token: it would compute the first and hand it out for all. So no rows are arguments.

    Parameters
    ----------
    address : of the scheduler, e.g. ``tcp://10.0.0.5:8786``
    """

    is_here = is_on_this_machine = False

    def __init__(self, address: str) -> None:
        self._address = address

    def run(self, task: Callable[[S, Piece], R], shared: S, pieces: Sequence[Piece], name: str) -> Iterator[R]:
        """See :class:`ml_core.lab.batch.engines.Engine`."""
        distributed = _distributed()
        try:
            client = distributed.Client(self._address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise DataError(self._address, "no Dask scheduler answers there: is the address right?") from error
        with client:
            self._check_workers(client)
            run = f"{name}-{uuid4().hex[:8]}"  # Dask would hand out what it still holds of another run
            brought = client.scatter(shared, broadcast=True, hash=False)
            waiting = [
                client.submit(
                    _work, task, brought, piece, key=f"{run}-{piece.number}", pure=False, retries=_TRIES_AGAIN
                )
                for piece in pieces
            ]
            try:
                for future in distributed.as_completed(waiting, loop=client.loop):
                    found = self._result_of(future, distributed)
                    if isinstance(found, SuretyError):
                        raise found
                    yield found
            finally:
                client.cancel(waiting)

    def _result_of(self, future: Any, distributed: Any) -> Any:
        try:
            return future.result()
        except (distributed.scheduler.KilledWorker, distributed.client.FutureCancelledError) as error:
            raise WorkersLost(
                f"workers of {self._address} ended before their work was done",
                "the same command goes on where this one stopped",
            ) from error

    def _check_workers(self, client: Any) -> None:
        """Every worker there is has our package, of this very version."""
        ours = version("surety-bundle")
        try:
            theirs = client.run(_version_there)
        except ModuleNotFoundError as error:
            raise DataError(self._address, "has workers without surety-bundle: install it there too") from error
        if not theirs:
            raise DataError(self._address, "has no workers: start some, e.g. `dask worker ADDRESS`")
        other = sorted({*theirs.values()} - {ours})
        if other:
            raise DataError(
                self._address, f"its workers have surety-bundle {', '.join(other)}, here is {ours}: install the same"
            )


def _version_there() -> str:
    """The version of our package on a worker."""
    return version("surety-bundle")


def _work(task: Callable[[Any, Piece], Any], shared: Any, piece: Piece) -> Any:
    """An error of ours comes back as a value: Dask would try it again, in vain."""
    try:
        return task(shared, piece)
    except SuretyError as error:
        return error


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        problem = "Dask is not installed here: pip install 'dask[distributed]' here and on the workers"
        raise ConfigError("--dask", problem) from error
    return distributed
