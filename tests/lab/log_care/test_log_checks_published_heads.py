"""Heads on the service's own log: a real writer publishes them, and collectors may wrap its lines as they like."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from ml_core.base.errors import DataError
from ml_core.lab.log_care.chain_check import verify_log
from ml_core.serve.http.json_logs import JsonFormatter
from ml_core.serve.log import writer as writer_module
from tests.serve.log.builders import until
from tests.serve.log.filled import row, tampering, today, writing


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Lines as the service writes them."""
    return [JsonFormatter().format(record) for record in caplog.records if record.getMessage() == "log.head"]


def served(settings, caplog: pytest.LogCaptureFixture, rows: int = 6) -> list[str]:
    caplog.set_level(logging.INFO, "ml_core")
    with writing(settings, [row(n, today()) for n in range(rows)]):
        pass
    return lines_of(caplog)


def findings(settings, path: Path) -> list[tuple[str, str, int | None]]:
    return [(found.kind, found.where, found.row) for found in verify_log(settings, heads=path).findings]


def test_a_writer_publishes_at_its_start_every_hour_and_at_its_end(settings, caplog, monkeypatch) -> None:
    monkeypatch.setattr(writer_module, "_PUBLISH_EVERY_S", 0.05)
    monkeypatch.setattr(writer_module, "_IDLE_S", 0.01)
    caplog.set_level(logging.INFO, "ml_core")
    with writing(settings, [row(n, today()) for n in range(3)]):
        until(lambda: any(json.loads(line)["seq"] == 3 for line in lines_of(caplog)), "it publishes the third row")
    last = json.loads(lines_of(caplog)[-1])
    assert (last["file"], last["day"], last["seq"]) == (f"predictions-{today()}-w01.db", today(), 3)
    assert len(last["mac"]) == 64


def wrapped(line: str) -> dict[str, Any]:
    return {"stream": "stderr", "log": f"{line}\n", "time": "2026-11-24T00:00:00Z"}


@pytest.mark.parametrize(
    "collected",
    [
        lambda line: line,
        lambda line: json.dumps(wrapped(line)),
        lambda line: f"2026-11-24T10:00:00Z worker-1 {line}",
        lambda line: json.dumps({"MESSAGE": json.dumps(wrapped(line))}),
    ],
)
def test_lines_are_found_however_a_collector_keeps_them(settings, caplog, tmp_path, collected) -> None:
    lines = served(settings, caplog)
    path = tmp_path / "collected"
    path.write_text("\n".join(["", "log.head {", '{"event": "log.head"}', *map(collected, lines), "[1]"]), "utf-8")
    assert findings(settings, path) == []
    file = f"predictions-{today()}-w01.db"
    with tampering(type("F", (), {"path": settings.log / file})) as connection:
        connection.execute("DELETE FROM entry WHERE seq > 4")
    assert findings(settings, path) == [("heads", file, 5)]


def test_a_file_without_heads_is_refused(settings, caplog, tmp_path) -> None:
    served(settings, caplog)
    path = tmp_path / "collected"
    with pytest.raises(DataError, match="cannot be read"):
        verify_log(settings, heads=path)
    path.write_text('{"event": "ready"}\n')
    with pytest.raises(DataError, match="holds no published head of toy_risk"):
        verify_log(settings, heads=path)
