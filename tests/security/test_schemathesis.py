"""Schemathesis against a live service, by the service's own OpenAPI document: every check that it has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ml_core.serve.http.api_keys import add_key
from tests.e2e.workplace import ROOT, Workplace
from tests.faults.place import until
from tests.security.figures import record

pytestmark = pytest.mark.e2e

SEED = "20261124"


def fuzzed(example: Workplace, folder: Path, service: str, cases: int) -> dict[str, object]:
    """Schemathesis' report of a run with so many cases a route."""
    keys = folder / "keys.json"
    key = add_key(keys, "fuzzer", ["admin"])
    home = {"SURETY_HOME": str(example.copied_home(folder / "home")), "SURETY_API_KEYS_FILE": str(keys)}
    with example.serving(f"service:{service}", ready=False, **home) as address:
        until(lambda: httpx.get(f"{address}/readyz").status_code == 200, 90, "the service is ready")
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "run", f"{address}/docs.json",
                "--header", f"Authorization: Bearer {key}",
                "--max-examples", str(cases), "--checks", "all", "--phases", "examples,coverage,fuzzing", "--seed", SEED,
                "--no-color", "--report", "json", "--report-json-path", str(folder / "report.json"),
                "--generation-database", "none", "--suppress-health-check", "all",
            ],
            cwd=folder, capture_output=True, text=True, timeout=3_600, check=False,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.security.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
        assert httpx.get(f"{address}/health").status_code == 200
    report: dict[str, object] = json.loads((folder / "report.json").read_text())
    return report


def judge(report: dict[str, object], service: str, cases: int) -> None:
    assert report["complete"] is True
    assert report["failures"] == report["errors"] == []
    assert report["operations"]["tested"] == report["operations"]["total"] >= 18
    generated = report["test_cases"]["generated"]
    assert generated >= 2 * cases  # the routes without parameters have few different cases
    record(
        f"Schemathesis ({service}, {cases:,} cases a route)",
        "no 5xx, no reply outside its schema, nothing wrong accepted, nothing right refused, no route without a key",
        {"cases": generated, "failures": 0},
    )


def test_fuzzed_service_keeps_to_its_document(example: Workplace, tmp_path: Path) -> None:
    judge(fuzzed(example, tmp_path, "Surety", 200), "Surety", 200)


@pytest.mark.slow
@pytest.mark.timeout(3_800)
@pytest.mark.parametrize("service", ["Surety", "SuretyIsolated"])
def test_fuzzed_service_keeps_to_its_document_for_long(example: Workplace, tmp_path: Path, service: str) -> None:
    judge(fuzzed(example, tmp_path, service, 5_000), service, 5_000)
