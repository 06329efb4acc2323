"""The report of a live service with two workers, a monitor and labels, in a wide and a narrow browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from ml_core.lab.data.cohort import make_cohort
from tests.e2e.workplace import Workplace
from tests.lab.report.browser import BROWSER, NAMES, measured_in, opened_in
from tests.lab.report.outline import Outline
from tests.lab.watching.ward import records_of

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(BROWSER is None, reason=f"no browser on PATH: one of {', '.join(NAMES)} is needed"),
]

ROWS, STRANGE = 400, 400
AT_ONCE = {
    "SURETY_LABEL_HORIZON_DAYS": "0",
    "SURETY_DRIFT_WINDOW_ROWS": "200",
    "SURETY_DRIFT_BLOCK_ROWS": "20",
    "SURETY_DRIFT_ALARM_WINDOWS": "100",
}
"""Labels count at once, and windows and blocks have few answers, so that a month passes in a minute."""
MOST_BYTES = 5_000_000


@dataclass(frozen=True)
class Reported:
    """The output of ``surety report``, and the files it wrote."""

    said: dict[str, Any]
    page: str
    facts: dict[str, Any]


def ask(client: httpx.Client, rows: Any) -> list[dict[str, Any]]:
    """Send these rows, some of them one by one, and their labels."""
    records, outcomes = records_of(rows)
    answers = [client.post("/predict", json={"features": record}).json() for record in records[:20]]
    answers += client.post("/predict_batch", json={"records": records[20:]}).json()["predictions"]
    labels = [{"request_id": a["request_id"], "label": o} for a, o in zip(answers, outcomes, strict=True)]
    told = client.post("/labels", json={"labels": labels}).json()
    assert told["accepted"] == len(answers)
    return answers


@pytest.fixture(scope="module")
def reported(example: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """The report of a running service that got usual records and then unusual ones."""
    folder: Path = tmp_path_factory.mktemp("report")
    usual, _ = make_cohort(ROWS, seed=77)
    strange, _ = make_cohort(STRANGE, seed=78)
    home = example.copied_home(folder / "home")
    more, example.more = example.more, {**example.more, **AT_ONCE, "SURETY_HOME": str(home)}
    try:
        with (
            example.serving(SURETY_WORKERS="2") as address,
            httpx.Client(base_url=address, timeout=60) as client,
        ):
            example.surety("monitor", "--once")
            ask(client, usual)
            example.surety("monitor", "--once")
            ask(client, strange.assign(glucose=(strange["glucose"] * 1.6).clip(30, 600)))
            example.surety("monitor", "--once", status=3)
            said = example.surety("report", "--out", str(folder / "report.html"), "--verify")
    finally:
        example.more = more
    return Reported(
        said, (folder / "report.html").read_text(), orjson.loads((folder / "report.json").read_bytes())["facts"]
    )


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_its_window_and_its_letters_can_be_read(reported: Reported, tmp_path: Path, width: int) -> None:
    found, console = measured_in(tmp_path, reported.page, width)
    assert console == []
    assert (found["window"], found["page"] <= width) == (width, True)
    assert 9.0 <= found["smallest"] <= found["largest"] <= 16.0


def test_the_console_stays_silent_and_nothing_is_fetched(reported: Reported, tmp_path: Path) -> None:
    document, console = opened_in(tmp_path, reported.page, 1280)
    assert console == []
    assert 'id="lineage"' in document
    assert all(address.startswith("#") for address in Outline(reported.page).addresses)
    assert len(reported.page.encode()) == reported.said["bytes"] <= MOST_BYTES


def test_the_status_is_what_the_monitor_found(reported: Reported) -> None:
    assert (reported.said["status"], reported.said["gaps"]) == ("attention", [])
    text = Outline(reported.page).text
    assert "Drift alarm since" in text
    assert "is served by 2 processes" in text
    assert "It is watched" in text


def test_every_answer_and_outcome_is_counted(reported: Reported) -> None:
    facts = reported.facts
    assert sum(bucket["answers"] for bucket in facts["answers"]["buckets"]) == ROWS + STRANGE
    assert (facts["labels"]["counted"], facts["labels"]["missing"]) == (ROWS + STRANGE, 0)
    assert sum(judged["rows"] for judged in facts["coverage"]["classes"]) == ROWS + STRANGE
    assert facts["performance"]["trained_auc"] > 0.75
    assert facts["bucket_s"] == 3_600.0


def test_the_model_and_the_log_vouch_for_themselves(reported: Reported) -> None:
    (model,) = reported.facts["models"]
    assert (model["slot"], model["gate"]["passed"]) == ("champion", True)
    assert model["trained_at"] is not None
    assert model["promoted_at"] is not None
    store = reported.facts["store"]
    assert (store["rows"], store["lost"], store["broken"]) == (ROWS + STRANGE, 0, [])
    assert store["verified_at"] == reported.facts["written_at"]
    assert {file["state"] for file in store["files"]} == {"live"}
    events = [entry["event"] for entry in reported.facts["rollout"]["journal"]]
    assert {"model registered", "gate passed", "promoted", "model imported", "rollout begins", "alarm raised"} <= set(
        events
    )
