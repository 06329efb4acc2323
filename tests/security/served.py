"""A running server whose processes are watched for pickles, and a body that leaves a trace where it is unpickled."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from tests.e2e.workplace import ROOT, Workplace

__all__ = ["RECORD", "LookUp", "Watched", "arrow_body", "bomb", "watched"]

RECORD = {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148}
_PROBE = Path(__file__).parent / "probe"


@dataclass(frozen=True, slots=True)
class LookUp:
    """A class that a pickle had looked up.

    Attributes
    ----------
    process : command line of the process
    what : module and name
    stack : modules on the stack, innermost first
    """

    process: str
    what: tuple[str, str]
    stack: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """A server whose every process writes down the classes that pickles had looked up.

    Attributes
    ----------
    service : ``Surety`` or ``SuretyIsolated``
    pid : of BentoML's arbiter
    audit : folder of what was written
    """

    service: str
    address: str
    pid: int
    audit: Path

    def processes(self) -> list[str]:
        """Command lines of the Python processes that were watched."""
        return [" ".join(self._lines(path)[0]["process"]) for path in self.audit.glob("*.jsonl")]

    def look_ups(self) -> list[LookUp]:
        """All of them so far."""
        found = []
        for path in self.audit.glob("*.jsonl"):
            first, *rest = self._lines(path)
            process = " ".join(first["process"])
            found += [LookUp(process, tuple(line["looked_up"]), tuple(line["stack"])) for line in rest]
        return found

    def tree(self) -> list[psutil.Process]:
        """Every process of the server."""
        root = psutil.Process(self.pid)
        return [root, *root.children(recursive=True)]

    @staticmethod
    def _lines(path: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@contextmanager
def watched(place: Workplace, service: str, audit: Path, **more: str) -> Iterator[Watched]:
    """Serve with the probe in every process."""
    environment = {"PYTHONPATH": f"{_PROBE}:{ROOT}", "SURETY_TEST_AUDIT": str(audit), **more}
    with place.serving(f"service:{service}", **environment) as address:
        yield Watched(service, address, place.server_pid, audit)


def bomb(trace: Path) -> bytes:
    """A pickle that makes that file when it is loaded: shown here, by loading it."""

    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
            return Path.touch, (trace,)

    packed = pickle.dumps(Bomb())
    pickle.loads(packed)
    trace.unlink()
    return packed


def arrow_body(rows: int = 20) -> bytes:
    """An Arrow stream of sound records."""
    table = pa.Table.from_pylist([RECORD] * rows)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
