"""Two readers of Arrow streams, each in a process of its own: ours, and pyarrow with all of its checks.

``python -m tests.security.arrow_readers ours|pyarrow`` reads pickled lists of streams on its standard input and writes
what each one reads as, so that a reader that dies or hangs is noticed.
"""

from __future__ import annotations

import math
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Timer
from typing import Any, BinaryIO, Literal

from tests.security.arrow_streams import COLUMNS

__all__ = ["OUTSIDE", "UNPACKED_BYTES", "Outcome", "Reader", "same"]

OUTSIDE = ("moment", None)
UNPACKED_BYTES = 16 << 20
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - both readers tell UTC without saying so
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one stream.

    Attributes
    ----------
    kind : ``read``; ``refused``, as it should be; ``fault``, an exception of another kind; ``died``, with the process
    told : the refusal or the fault
    batches : the columns of each batch that has rows, as lists of plain values
    """

    kind: Literal["read", "refused", "fault", "died"]
    told: str = ""
    batches: tuple[dict[str, list[Any]], ...] = ()


def same(ours: Outcome, theirs: Outcome) -> bool:
    """Whether two readers read the same values, in the same batches."""
    return len(ours.batches) == len(theirs.batches) and all(
        mine.keys() == yours.keys()
        and all(len(mine[name]) == len(yours[name]) and all(map(_same_value, mine[name], yours[name])) for name in mine)
        for mine, yours in zip(ours.batches, theirs.batches, strict=True)
    )


def _same_value(mine: Any, yours: Any) -> bool:
    return mine == yours or (yours == OUTSIDE and mine == 2**62)


class Reader:
    """A reader in a process of its own, started anew when it dies."""

    def __init__(self, name: str, timeout_s: float = 120.0) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._process = self._start()
        self.deaths = 0

    def read(self, streams: Sequence[bytes]) -> list[Outcome]:
        """What becomes of each stream. After a death they are tried one by one."""
        try:
            return self._ask(list(streams))[0]
        except EOFError:
            self._process = self._start()
        if len(streams) > 1:
            return [outcome for stream in streams for outcome in self.read([stream])]
        self.deaths += 1
        return [Outcome("died")]

    def peak_bytes(self) -> int:
        """The most memory that the process has held."""
        return int(self._ask([])[1])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.security.arrow_readers", self._name]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def _ask(self, streams: list[bytes]) -> tuple[list[Outcome], int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = Timer(self._timeout_s, self._process.kill)
        watchdog.start()
        try:
            pickle.dump(streams, self._process.stdin)
            self._process.stdin.flush()
            answer: tuple[list[Outcome], int] = pickle.load(self._process.stdout)
        except (BrokenPipeError, pickle.UnpicklingError) as error:
            raise EOFError from error
        finally:
            watchdog.cancel()
        return answer


def _plain(value: Any) -> Any:
    """A value as both readers tell it: floats by their bits, moments in microseconds."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value.hex()
    if isinstance(value, datetime):
        return ("moment", (value - _EPOCH) // _MICROSECOND)
    return value


class _EveryName(Collection[str]):
    """Every name is one that the model knows, so that every column is read."""

    def __contains__(self, _: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)


def _ours() -> Callable[[bytes], Outcome]:
    from ml_core.base.errors import InvalidRecord
    from ml_core.serve.features.table import encode_table
    from ml_core.serve.features.versions import get_feature_version
    from ml_core.serve.http.arrow_reader import StreamLimits, read_records
    from ml_core.serve.http.replies import Refused

    columns, limits = get_feature_version("v1").columns, StreamLimits(5_000, UNPACKED_BYTES)

    def read(stream: bytes) -> Outcome:
        batches = []
        try:
            for cells in read_records(stream, _EveryName(), limits):
                batches.append({name: [_plain(v) for v in column.objects()] for name, column in cells.items()})
                encode_table(columns, cells)
        except Refused as error:
            return Outcome("refused", str(error))
        except InvalidRecord as error:
            return Outcome("refused", f"records: {error}")
        except Exception as error:  # noqa: BLE001 - this is what must not happen
            return Outcome("fault", f"{type(error).__name__}: {error}")
        return Outcome("read", "", tuple(batches))

    return read


def _pyarrow() -> Callable[[bytes], Outcome]:
    import pyarrow as pa

    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

    def read(stream: bytes) -> Outcome:
        batches = []
        try:
            reader = pa.ipc.open_stream(stream)
            while True:
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    break
                batch.validate(full=True)
                if batch.num_rows:
                    batches.append({name: _values(pa, batch.column(i)) for i, name in enumerate(batch.schema.names)})
        except Exception as error:  # noqa: BLE001 - pyarrow has many
            return Outcome("refused", f"{type(error).__name__}: {error}")
        return Outcome("read", "", tuple(batches))

    return read


def _values(pa: Any, column: Any) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        levels = [*_values(pa, column.dictionary), None]
        return [levels[-1 if code is None else code] for code in column.indices.to_pylist()]
    if not pa.types.is_temporal(column.type):
        values = column.to_pylist()
        floats = pa.types.is_floating(column.type)
        return [_plain(float(v) if floats and v is not None else v) for v in values]
    counts = column.view(pa.int32() if pa.types.is_date32(column.type) else pa.int64()).to_pylist()
    unit = "D" if pa.types.is_date32(column.type) else "ms" if pa.types.is_date64(column.type) else column.type.unit
    return [None if count is None else _moment(count, unit) for count in counts]


def _moment(count: int, unit: str) -> tuple[str, int | None]:
    numerator, divisor = {"D": (86_400 * 10**6, 1), "s": (10**6, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}[
        unit
    ]
    microseconds = count * numerator // divisor
    try:
        return _plain(_EPOCH + timedelta(microseconds=microseconds))  # type: ignore[no-any-return]
    except OverflowError:
        return OUTSIDE


def _serve(name: str, source: BinaryIO, sink: BinaryIO) -> None:
    read = _ours() if name == "ours" else _pyarrow()
    while True:
        try:
            streams = pickle.load(source)
        except EOFError:
            return
        outcomes = [read(stream) for stream in streams]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pickle.dump((outcomes, peak), sink)
        sink.flush()


if __name__ == "__main__":
    import tests.security.arrow_readers as _module  # so that outcomes are pickled under the module's name

    _module._serve(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
