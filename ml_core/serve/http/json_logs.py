"""Log lines as JSON: event first, facts as fields, and never a value that a caller sent."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

__all__ = ["OURS", "JsonFormatter", "configure"]

OURS = ("surety", "ml_core")
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, and whatever was given as ``extra``.

    An exception is told by its class and where it passed through, without its message: messages of libraries quote the
    values they stumbled over.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line for one record."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **{k: v for k, v in vars(record).items() if k not in _PLAIN},
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["through"] = _frames(record.exc_info[2])
        return json.dumps(line, default=str)


def _frames(trace: TracebackType | None) -> list[str]:
    frames = traceback.extract_tb(trace)
    return [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]


def configure() -> None:
    """Send this project's own log lines to stderr as JSON, in every process of the service; libraries keep theirs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
