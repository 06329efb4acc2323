"""New answers of the prediction log, past files that cannot be read: one for all that the monitor reads them for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from ml_core.base.errors import LogDamaged
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import FOR_EVER, Cursor, PredictionLog

__all__ = ["ReadableLog"]

logger = logging.getLogger(__name__)


class ReadableLog:
    """The prediction log without the files that could not be read, so that one of them does not hide the others.

    Parameters
    ----------
    log : the whole log
    """

    def __init__(self, log: PredictionLog) -> None:
        self._log = log
        self._unreadable: set[str] = set()

    def after(self, cursor: Cursor, limit: int, until_us: int = FOR_EVER) -> tuple[list[LoggedAnswer], Cursor]:
        """As ``PredictionLog.after``; a file that cannot be read is told once and passed over from then on.

        Raises
        ------
        LogDamaged
            Something other than one of the log's files cannot be read.
        """
        while True:
            try:
                return self._log.after(cursor, limit, self._unreadable, until_us)
            except LogDamaged as error:
                if error.file not in {file.path.name for file in self._log.files()} - self._unreadable:
                    raise
                self._unreadable.add(error.file)
                logger.error("log.unreadable", extra={"file": error.file, "reason": str(error)})  # noqa: TRY400 - one line

    def pages(
        self, cursor: Cursor, limit: int, until_us: int = FOR_EVER
    ) -> Iterator[tuple[list[LoggedAnswer], Cursor]]:
        """All that a cursor has not seen, in pages as :meth:`after` gives them, each with the cursor after it."""
        while True:
            found, after = self.after(cursor, limit, until_us)
            if after == cursor:
                return
            cursor = after
            yield found, cursor

    def without_repeats(self, answers: Sequence[LoggedAnswer]) -> list[LoggedAnswer]:
        """Those that count: of the answers of a ``client_request_id`` the first."""
        repeats = self._log.repeats(answers)
        return [answer for answer in answers if answer.request_id not in repeats]
