"""A worker that is killed before the n-th different line of the steps that ship its rows; it prints what it has answered for.

python -m tests.serve.log.killed_shipping FOLDER URL LINE NUMBER ROWS DAY_BEFORE
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from tests.oracles import cluster_packages

cluster_packages()
from ml_core.serve.home.postgres import HomeDatabase  # noqa: E402 - needs the packages
from ml_core.serve.log import database as log_database  # noqa: E402
from ml_core.serve.log import shipped_spools, shipping, writer  # noqa: E402
from tests.serve.log.builders import DAY_US, row_now  # noqa: E402
from tests.serve.log.shipped import MODEL  # noqa: E402

_SHIPS = {shipped_spools.__file__, shipping.__file__, log_database.__file__}
_STEPS = {"take", "begin", "is_whole", "forget", "_remove", "_ship_left", "_ship_some"}


def main(folder: Path, url: str, line: int, number: int, rows: int, day_before: int) -> None:
    """Store rows, one after the other, until the end comes."""
    seen: set[tuple[str, int]] = set()

    def tracer(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in _SHIPS or frame.f_code.co_name not in _STEPS:
            return None
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            if len(seen) >= line:
                os.kill(os.getpid(), signal.SIGKILL)
        return tracer

    writer.STANDARD_WAIT_S = 30.0
    ships = shipping.Shipping(HomeDatabase(url), MODEL, "one", folder)
    worker = writer.LogWriter(folder, shipping=ships)
    if day_before:  # nothing is shipped on that day
        ships.start = lambda _spooler: None  # type: ignore[method-assign]
        writer._today = lambda: writer.day_of(time.time_ns() // 1_000 - DAY_US)
    else:
        threading.settrace(tracer)
    worker.start()

    async def store() -> None:
        for i in range(rows):
            row = row_now(number * 1_000 + i)
            row = row._replace(at_us=row.at_us - DAY_US * day_before)
            await worker.store([row])
            os.write(1, f"{row.request_id.hex()}\n".encode())
            await asyncio.sleep(0.003)

    asyncio.run(store())
    if line < 10**6 and not day_before:
        threading.Event().wait(0.7)  # the line comes in one of the next rounds
        os.write(2, b"not killed\n")
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    place, address, *numbers = sys.argv[1:]
    main(Path(place), address, *map(int, numbers))
