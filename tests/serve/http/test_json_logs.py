"""Log lines are JSON with facts as fields, and tell no value of a failing call."""

from __future__ import annotations

import json
import logging
import sys

from ml_core.serve.http.json_logs import JsonFormatter


def line_of(**facts: object) -> dict[str, object]:
    record = logging.makeLogRecord({"name": "surety", "levelname": "INFO", "msg": "model.loaded", **facts})
    return json.loads(JsonFormatter().format(record))


def test_facts_are_fields() -> None:
    line = line_of(model_hash="abc", rows=3)
    assert (line["event"], line["model_hash"], line["rows"]) == ("model.loaded", "abc", 3)


def test_exception_is_told_without_its_message() -> None:
    try:
        int("MRN-777")
    except ValueError:
        line = line_of(exc_info=sys.exc_info())
    assert line["exception"] == "ValueError"
    assert "test_json_logs.py" in str(line["through"])
    assert "MRN-777" not in json.dumps(line)
