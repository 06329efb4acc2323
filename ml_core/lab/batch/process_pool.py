"""A pool of processes of this machine: fresh ones, which end with the process that wanted them, however it ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ml_core.base.errors import WorkersLost
from ml_core.lab.batch.row_groups import Piece

__all__ = ["ProcessPool"]

S = TypeVar("S")
R = TypeVar("R")


class ProcessPool:
    """Engine of some processes, see :class:`ml_core.lab.batch.engines.Engine`.

    They are started fresh and not forked: threads of Arrow and ONNX Runtime do not survive a fork.

    Parameters
    ----------
    processes : how many
    """

    is_here = False
    is_on_this_machine = True

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def run(
        self,
        task: Callable[[S, Piece], R],
        shared: S,
        pieces: Sequence[Piece],
        name: str,  # noqa: ARG002 - see Engine
    ) -> Iterator[R]:
        """See :class:`ml_core.lab.batch.engines.Engine`."""
        if not pieces:
            return
        context = get_context("spawn")
        watched, held = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(
            min(self._processes, len(pieces)), context, initializer=_begin, initargs=(watched, task, shared)
        )
        try:
            waiting: list[Future[R]] = [pool.submit(_work, piece) for piece in pieces]
            for future in as_completed(waiting):
                yield future.result()
            pool.shutdown()
        except BrokenProcessPool as error:
            raise WorkersLost(
                "a process of the pool was ended before its work was done (killed, or out of memory)",
                "the same command goes on where this one stopped; fewer --processes need less memory",
            ) from error
        finally:
            held.close()  # ends the processes that still work
            pool.shutdown(wait=True, cancel_futures=True)
            watched.close()


_given: tuple[Callable[[Any, Piece], Any], Any] | None = None


def _begin(watched: Connection, task: Callable[[Any, Piece], Any], shared: Any) -> None:
    """Get a process ready: it leaves Ctrl-C to its parent, and ends with it."""
    global _given  # noqa: PLW0603 - an initialiser of a pool has no other way to hand something on
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
    _given = (task, shared)


def _end_with_parent(watched: Connection) -> None:
    watched.poll(None)  # readable only when the other end is closed
    os._exit(1)


def _work(piece: Piece) -> Any:
    assert _given is not None
    task, shared = _given
    return task(shared, piece)
