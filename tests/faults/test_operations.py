"""Servers in operation: a second one on the same port, variables that have no effect here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e.workplace import ROOT
from tests.faults.place import FaultPlace

pytestmark = pytest.mark.e2e


def test_a_second_server_on_the_port_leaves_the_metrics_of_the_first_alone(place: FaultPlace) -> None:
    with place.served(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318") as first:
        for _ in range(5):
            first.predict()
        assert first.metric("surety_answers_total") == 5
        second = subprocess.run(
            [sys.executable, "-m", "bentoml", "serve", "service:Surety", "--port", str(first.port)],
            cwd=ROOT, env=place.environment(), capture_output=True, text=True, timeout=90,
        )  # fmt: skip
        assert second.returncode != 0
        first.predict()
        assert first.metric("surety_answers_total") == 6
        assert first.metric("surety_workers", role="api") == 1
        log = first.log.read_text()
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in log
    assert "no traces" in log
    assert list((place.folder / "bentoml" / "surety_metrics").iterdir()) == []
