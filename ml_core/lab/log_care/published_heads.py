"""Holds heads that the service has published on its own log against the store.

The file is what a log collector gives back: one JSON object a line, or one inside the text or a field of a line, with
other lines between. A head that is not in the store any more tells that history was changed after it was published.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_core.base.errors import DataError, LogDamaged
from ml_core.base.settings import Settings
from ml_core.lab.log_care.findings import Finding
from ml_core.lab.log_care.journal_marks import Marks
from ml_core.serve.log.database import reading
from ml_core.serve.log.label_file import LabelFile, has_chain
from ml_core.serve.log.log_files import log_files
from ml_core.serve.log.log_records import HEAD_EVENT, JOURNAL, LABELS, LogRecords, is_signed_head

__all__ = ["check_heads"]

_BUSY_S = 5.0
_DEPTH = 3
"""How deep a line may lie in fields of a collector's own lines."""
_Ends = Mapping[int, str]


def check_heads(path: Path, settings: Settings, records: LogRecords, marks: Marks) -> list[Finding]:
    """What differs from published heads.

    Raises
    ------
    DataError
        The file cannot be read, or holds no head of this model's log.
    """
    published: dict[str, dict[int, str]] = {}
    found: list[Finding] = []
    for number, line in _lines(path):
        if line.get("model") != settings.model_name:
            continue
        if records.with_key and not is_signed_head(records, line):
            found.append(Finding("heads", path.name, "this line is not signed with the log's key", number))
            continue
        before = published.setdefault(str(line["file"]), {}).setdefault(int(line["seq"]), str(line["head"]))
        if before != line["head"]:
            found.append(Finding("heads", path.name, "another line names another head for the same row", number))
    if not published and not found:
        raise DataError(str(path), f"holds no published head of {settings.model_name}")
    for name, heads in published.items():
        found += _held_against(name, heads, _store(name, settings, marks))
    return found


def _held_against(name: str, heads: _Ends, stored: _Ends | None) -> Iterator[Finding]:
    """The first head of a file that its chain does not have.

    Parameters
    ----------
    stored : all heads of the chain, by the number of the row each follows; None where the file is gone rightly
    """
    if stored is None:
        return
    last, good = max(stored, default=0), 0
    for seq in sorted(heads):
        if seq and seq > last:
            yield Finding("heads", name, f"the end is cut off: it had {seq} rows when its head was published", last + 1)
            return
        if stored.get(seq) != heads[seq]:
            problem = f"rows {good + 1} to {seq} are not those whose head was published: history was rewritten"
            yield Finding("heads", name, problem, good + 1)
            return
        good = seq


def _store(name: str, settings: Settings, marks: Marks) -> _Ends | None:
    if name == JOURNAL:
        return marks.marks
    if name == LABELS:
        with LabelFile(settings.labels, _BUSY_S).reading() as labels:
            is_chained = labels is not None and has_chain(labels)
            rows = (
                [] if labels is None or not is_chained else labels.execute("SELECT n, head FROM label_chain").fetchall()
            )
        return {int(row[0]): row[1].hex() for row in rows}
    file = next((each for each in log_files(settings.log) if each.path.name == name), None)
    if file is None:
        return None if name in marks.pruned else {}
    try:
        with reading(file) as connection:
            genesis = connection.execute("SELECT value FROM fact WHERE name = 'genesis'").fetchone()
            rows = connection.execute("SELECT seq, head FROM entry WHERE head IS NOT NULL").fetchall()
    except LogDamaged:
        return None  # what is wrong with it is told by the walk through its chain
    return {int(row["seq"]): row["head"].hex() for row in rows} | ({} if genesis is None else {0: genesis["value"]})


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, text in enumerate(file, start=1):
                line = _head_in(text, _DEPTH)
                if line is not None:
                    yield number, line
    except OSError as error:
        raise DataError(str(path), f"cannot be read: {error.strerror or type(error).__name__}") from error


def _head_in(text: str, depth: int) -> Mapping[str, Any] | None:
    """The head that a line tells of, where it does."""
    if HEAD_EVENT not in text or "{" not in text or not depth:
        return None
    try:
        line, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
    except (ValueError, RecursionError):
        return None
    if line.get("event") == HEAD_EVENT and {"model", "file", "seq", "head"} <= set(line):
        return line if isinstance(line["seq"], int) else None
    inner = (_head_in(value, depth - 1) for value in line.values() if isinstance(value, str))
    return next((found for found in inner if found is not None), None)
