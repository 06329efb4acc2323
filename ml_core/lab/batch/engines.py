"""Who does the work on many pieces: this process, a pool of processes, or Dask; the results are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from ml_core.lab.batch.row_groups import Piece

__all__ = ["Engine", "InProcess", "engine_of", "in_order"]

S = TypeVar("S")
R = TypeVar("R")


class Engine(Protocol):
    """Runs one task on many pieces.

    Attributes
    ----------
    is_here : whether tasks run in this process, and see its objects themselves
    is_on_this_machine : whether tasks see the same disk
    """

    is_here: bool
    is_on_this_machine: bool

    def run(self, task: Callable[[S, Piece], R], shared: S, pieces: Sequence[Piece], name: str) -> Iterator[R]:
        """What the task returns for each piece, as they are finished.

        An error of a task ends the others and is raised here as it was raised there.

        Parameters
        ----------
        task : a function of a module; it may be run again for a piece whose process was lost
        shared : given to every task; brought to each process once
        name : of the work, for people who watch it

        Raises
        ------
        WorkersLost
            Processes ended before their work did.
        """
        ...


class InProcess:
    """One piece after another, in this process."""

    is_here = is_on_this_machine = True

    def run(
        self,
        task: Callable[[S, Piece], R],
        shared: S,
        pieces: Sequence[Piece],
        name: str,  # noqa: ARG002 - see Engine
    ) -> Iterator[R]:
        """See :class:`Engine`."""
        for piece in pieces:
            yield task(shared, piece)


def in_order(
    engine: Engine, task: Callable[[S, Piece], R], shared: S, pieces: Sequence[Piece], name: str
) -> Iterator[R]:
    """What the task returns for each piece, in the order of the pieces; see :meth:`Engine.run`."""
    early: dict[int, R] = {}
    wanted = iter(pieces)
    next_one = next(wanted, None)
    for number, found in engine.run(_numbered, (task, shared), pieces, name):
        early[number] = found
        while next_one is not None and next_one.number in early:
            yield early.pop(next_one.number)
            next_one = next(wanted, None)


def _numbered(work: tuple[Callable[[Any, Piece], Any], Any], piece: Piece) -> tuple[int, Any]:
    task, shared = work
    return piece.number, task(shared, piece)


def engine_of(processes: int, dask: str | None) -> Engine:
    """The engine that was asked for; nothing is started or imported before it runs.

    Parameters
    ----------
    processes : of this machine; 1 works in this process
    dask : address of a Dask scheduler, which then does it all
    """
    from ml_core.lab.batch.dask_engine import OnDask
    from ml_core.lab.batch.process_pool import ProcessPool

    if dask is not None:
        return OnDask(dask)
    return ProcessPool(processes) if processes > 1 else InProcess()
