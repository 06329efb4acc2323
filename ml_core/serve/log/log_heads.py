"""Heads of the log, published on the service's own log: what was true then can be held against the store later.

A line names a file, the number of its last row and the head of its chain after it, and is signed with the log's key.
The chain of labels is published as the file ``labels``, the journal's entries on the log as ``journal``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.errors import SuretyError
from ml_core.serve.log.log_records import LogRecords

__all__ = ["HEAD_EVENT", "JOURNAL", "LABELS", "head_facts", "is_signed_head", "publish_heads"]

logger = logging.getLogger(__name__)

HEAD_EVENT = "log.head"
LABELS, JOURNAL = "labels", "journal"
_SIGNED = ("model", "file", "day", "seq", "head", "published_at")


def publish_heads(records: LogRecords, ends: Mapping[str, tuple[int, str]]) -> list[dict[str, Any]]:
    """Write a line for each of these databases, for the labels and for the journal; the facts of the lines.

    Parameters
    ----------
    ends : number of the last row, and head (hex), by name of the database

    Raises
    ------
    ConfigError, OSError
        The log's key cannot be used.
    """
    found = dict(ends)
    with suppress(SuretyError):  # labels that cannot be read are told of elsewhere
        labels = records.label_end()
        found |= {} if labels is None else {LABELS: labels}
    marks = records.read().marks
    if marks:
        found[JOURNAL] = max(marks), marks[max(marks)]
    lines = [head_facts(records, file, seq, head) for file, (seq, head) in found.items()]
    for line in lines:
        logger.info(HEAD_EVENT, extra=line)
    return lines


def head_facts(records: LogRecords, file: str, seq: int, head: str) -> dict[str, Any]:
    """What a line says.

    Parameters
    ----------
    seq, head : number of the last row, and head of the chain after it (hex)
    """
    key = records.key()
    now = utc_text(utc_now())
    day = file[12:22] if file.startswith("predictions-") else now[:10]
    facts = {"model": records.model, "file": file, "day": day, "seq": seq, "head": head, "published_at": now}
    return {**facts, "key": key.id, "mac": key.sign("head", facts)}


def is_signed_head(records: LogRecords, line: Mapping[str, Any]) -> bool:
    """Whether the log's key has signed a line."""
    key = records.keys.all().get(str(line.get("key")))
    facts = {name: line.get(name) for name in (*_SIGNED, "mac")}
    return key is not None and key.has_signed("head", facts)
