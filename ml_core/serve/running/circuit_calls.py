"""Calling functions through a circuit breaker: plain, awaited, or streams that count when they end."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, ParamSpec, Self, TypeVar, cast, overload

from ml_core.base.errors import BadModelOutput
from ml_core.serve.running.circuit_views import Permit

__all__ = ["Calls", "Guard"]

P = ParamSpec("P")
T = TypeVar("T")


class Calls:
    """The part of a breaker that makes calls; permits and verdicts are the breaker's own."""

    name: str
    clock: Callable[[], float]
    excluded: tuple[type[BaseException], ...]
    _is_failure: Callable[[Any], bool] | None

    def acquire(self) -> Permit:
        """Leave to make a call now, or :class:`ml_core.base.errors.CircuitOpen`."""
        raise NotImplementedError

    def succeed(self, permit: Permit, duration_ms: float) -> None:
        """Count the call as a success."""
        raise NotImplementedError

    def fail(self, permit: Permit, duration_ms: float) -> None:
        """Count the call as a failure."""
        raise NotImplementedError

    def release(self, permit: Permit) -> None:
        """Give the permit back: the call says nothing about the model."""
        raise NotImplementedError

    def record(self) -> Guard:
        """A guard for ``with`` and ``async with``; entering it takes the permit."""
        return Guard(self)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result; its exceptions come through unchanged.

        A generator counts when it ends, with the time until then; closed or dropped before, it is released.

        Raises
        ------
        CircuitOpen
            The function was not called.
        BadModelOutput
            ``is_failure`` refused the result.
        """
        with self.record() as guard:
            return self._accepted(function(*args, **kwargs), guard)

    @overload
    async def acall(self, function: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def acall(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def acall(self, function: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """As :meth:`call`, for coroutine functions and async generator functions."""
        with self.record() as guard:  # holds no lock, so awaiting inside is fine
            result = function(*args, **kwargs)
            return self._accepted(await result if inspect.isawaitable(result) else result, guard)

    def _accepted(self, result: T, guard: Guard) -> T:
        """The result, if it may go out; a stream takes the rest of the call with it."""
        if isinstance(result, GeneratorType):
            stream = _stream(result, guard.hand_on())
            next(stream)
            return cast("T", stream)
        if isinstance(result, AsyncGeneratorType):
            async_stream = _async_stream(result, guard.hand_on())
            with contextlib.suppress(StopIteration):
                async_stream.__anext__().send(None)  # nothing is awaited up to the first stop: this needs no loop
            return cast("T", async_stream)
        if isinstance(result, CoroutineType):
            result.close()
            raise TypeError("call() does not await: use acall() for a coroutine function")
        if self._is_failure is not None and self._is_failure(result):
            raise BadModelOutput(f"circuit {self.name}: the result did not pass its check")
        return result


class Guard:
    """One guarded call, as ``with`` or ``async with``: how the block ends is how the call counts."""

    __slots__ = ("_began_s", "_breaker", "_permit")

    def __init__(self, breaker: Calls, permit: Permit | None = None, began_s: float = 0.0) -> None:
        self._breaker, self._permit, self._began_s = breaker, permit, began_s

    def __enter__(self) -> Self:
        if self._permit is None:
            self._permit = self._breaker.acquire()
            self._began_s = self._breaker.clock()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        permit, self._permit = self._permit, None
        if permit is None:  # handed on
            return
        duration_ms = (self._breaker.clock() - self._began_s) * 1000.0
        if error is None:
            self._breaker.succeed(permit, duration_ms)
        elif isinstance(error, Exception) and not isinstance(error, self._breaker.excluded):
            self._breaker.fail(permit, duration_ms)
        else:  # also cancellation, KeyboardInterrupt, SystemExit, GeneratorExit
            self._breaker.release(permit)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)

    def hand_on(self) -> Guard:
        """The rest of the call, for a stream that outlives this block."""
        permit, self._permit = self._permit, None
        return Guard(self._breaker, permit, self._began_s)


def _stream(items: Generator[Any, Any, Any], guard: Guard) -> Generator[Any, Any, Any]:
    """The items, after one empty stop inside the guard: dropped from there on, even unread, it ends the guard."""
    with guard:
        yield
        return (yield from items)


async def _async_stream(items: AsyncGenerator[Any, Any], guard: Guard) -> AsyncGenerator[Any, Any]:
    """As :func:`_stream`, for reading only: what is sent to it goes no further."""
    async with guard, contextlib.aclosing(items):
        yield
        async for item in items:
            yield item
