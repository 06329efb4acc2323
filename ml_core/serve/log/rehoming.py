"""Rows of a spool that cannot be shipped any more, as rows to be stored in another one.

The day of a spool may have been sealed while its machine was cut off, or the database been put back to an older state.
Then what the database lacks is stored once more, in the spool that is written to now, as any row that comes late.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any

import orjson

from ml_core.base.errors import LogDamaged
from ml_core.serve.log import fields
from ml_core.serve.log.database import ENTRIES, open_for_reading, reading
from ml_core.serve.log.entries import ERASED, Lineage, Row
from ml_core.serve.log.log_files import LogFile, log_files
from ml_core.serve.log.segments import SegmentEntry
from ml_core.serve.log.shipped_spools import ShippedSpools

__all__ = ["rows_to_store_again"]


def rows_to_store_again(file: LogFile, spools: ShippedSpools) -> list[Row]:
    """Rows of a spool that neither the database nor another spool of this machine has; erased ones are left out.

    Raises
    ------
    HomeUnreachable
        The database cannot be asked.
    LogDamaged
        The spool cannot be read.
    """
    with reading(file) as connection:
        found = connection.execute(f"{ENTRIES} WHERE e.answer != x'' ORDER BY e.seq").fetchall()
    known = spools.known_ids([row["request_id"] for row in found])
    for other in log_files(file.folder):
        if other != file:
            with suppress(LogDamaged, sqlite3.Error), closing(open_for_reading(other.path)) as connection:
                known |= {bytes(row[0]) for row in connection.execute("SELECT request_id FROM entry")}
    lineages: dict[bytes, Lineage] = {}
    return [_row(row, lineages) for row in found if row["request_id"] not in known]


def _row(stored: sqlite3.Row, lineages: dict[bytes, Lineage]) -> Row:
    digest = bytes(stored["lineage_digest"])
    lineage = lineages.setdefault(digest, Lineage(orjson.loads(stored["facts"]), digest, bytes(stored["facts"])))
    given: Mapping[str, Any] = {
        each.name: stored[each.name]
        for each in fields.LAYOUT.fields
        if each.place == "column" and each.is_written_by == "row"
    }
    answers = SegmentEntry(**orjson.loads(stored["answer"])).rows if stored["kind"] else 1
    assert stored["answer"] != ERASED
    return Row(**given, lineage=lineage, answers=answers)
