"""The service with its model in a separate process gives the same answers as the other, and survives the end of that process."""

from __future__ import annotations

import json
import signal
import stat
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.workplace import Workplace

pytestmark = pytest.mark.e2e

RECORDS = [
    {"age": 20 + i, "glucose": None if i % 5 == 0 else 90.0 + 2 * i, "bmi": 31.2, "bp_systolic": 100 + i}
    for i in range(60)
]


def told(answer: dict[str, Any]) -> dict[str, Any]:
    """The part of an answer that is the same for two services: all but ids and times."""
    lineage = {k: v for k, v in answer["lineage"].items() if k != "timestamp"}
    return {**{k: v for k, v in answer.items() if k != "request_id"}, "lineage": lineage}


def answers(address: str) -> list[dict[str, Any]]:
    with httpx.Client(base_url=address, timeout=30) as client:
        single = [client.post("/predict", json={"features": record}).json() for record in RECORDS[:20]]
        batch = client.post("/predict_batch", json={"records": RECORDS, "confidence_level": 0.95}).json()["predictions"]
        wrong = client.post("/predict", json={"features": {**RECORDS[1], "age": 130}})
    assert (wrong.status_code, wrong.json()["error"]["fields"][0]["field"]) == (422, "age")
    return [told(answer) for answer in (*single, *batch)]


def test_isolated_service_answers_as_the_inline_one_does(example: Workplace) -> None:
    with example.serving() as address:
        inline = answers(address)
    with example.serving("service:SuretyIsolated") as address:
        assert answers(address) == inline
        assert httpx.get(f"{address}/status").json()["models"][0]["where"] == "runner"


def test_lost_runner_costs_no_request(example: Workplace) -> None:
    with example.serving("service:SuretyIsolated") as address:
        arbiter = psutil.Process(example.server_pid)
        (runner,) = [p for p in arbiter.children(recursive=True) if "SuretyRunner" in p.cmdline()]
        (socket,) = {Path(c.laddr) for c in runner.net_connections("unix") if c.laddr and c.laddr.endswith(".sock")}
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        with httpx.Client(base_url=address, timeout=30) as client:
            assert client.post("/predict", json={"features": RECORDS[1]}).json()["fallback_used"] is False
            runner.send_signal(signal.SIGKILL)
            replies = [client.post("/predict", json={"features": record}) for record in RECORDS[:8]]
            assert client.get("/readyz").status_code == 200
    for reply in replies:
        assert reply.status_code == 200, json.dumps(reply.json())
        body = reply.json()
        assert body["fallback_used"] is True
        assert body["fallback_reason"] == reply.headers["x-fallback-reason"]
        assert body["lineage"]["slot"] in {"scorecard", "prior"}
