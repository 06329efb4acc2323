"""A real service of two workers and a real monitor: lost coverage, a dead monitor, and an acknowledged alarm."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.lab.watching.live_performance import matured_answers
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.rollout.monitor_state import MonitorState, MonitorView
from tests.e2e.workplace import Workplace
from tests.serve.answering.stored import Home
from tests.toy_models import NAME, toy_record

pytestmark = pytest.mark.e2e

WITHIN_S = 30.0
HEALTHY = toy_record(age=35, glucose=90.0, bmi=23.0, bp_systolic=120.0)
"""The set of this record holds only 0, so a label of 1 is a miss."""
SETTINGS = {
    "SURETY_WORKERS": "2",
    "SURETY_LABEL_HORIZON_DAYS": "0",
    "SURETY_COVERAGE_ALARM_LABELS": "200",
    "SURETY_MONITOR_TIMEOUT_S": "3",
    "SURETY_DRIFT_WINDOW_ROWS": "1000000",  # the same record again and again would rightly be called drift
}


class Callers:
    """Kept connections, one to each of two workers. The log file of an answer shows which worker gave it.

    A connection that was idle for long is closed by the server, and the next one may reach the other worker.
    """

    def __init__(self, address: str, settings: Settings, stack: ExitStack) -> None:
        self._address, self._stack = address, stack
        self._log = PredictionLog(settings.log)
        self._connections: list[httpx.Client] = []

    def ask(self) -> list[dict[str, Any]]:
        """An answer of each worker."""
        found: dict[str, tuple[httpx.Client, dict[str, Any]]] = {}

        def both_reached() -> bool:
            for client in (*self._connections, *self._one_more(found)):
                answer = _asked(client)
                found[self._worker(answer)] = client, answer
            return len(found) == 2

        until(both_reached, "both workers have answered")
        self._connections = [client for client, _ in found.values()]
        return [answer for _, answer in found.values()]

    def both_say(self, *word: str) -> bool:
        """Whether answers of both workers now carry that validity with those reasons."""
        return [(answer["validity"], *answer["validity_reasons"]) for answer in self.ask()] == [word, word]

    def _one_more(self, found: Collection[str]) -> list[httpx.Client]:
        """Open a new connection if the kept ones do not reach both workers."""
        is_enough = len(self._connections) == 2 and not found
        return [] if is_enough else [self._stack.enter_context(httpx.Client(base_url=self._address, timeout=30))]

    def _worker(self, answer: dict[str, Any]) -> str:
        """Log file that holds the answer or will hold it; each worker has its own."""
        until(lambda: self._log.find(answer["request_id"]) is not None, "the answer is in the log")
        logged = self._log.find(answer["request_id"])
        assert isinstance(logged, LoggedAnswer)
        assert (logged.validity, list(logged.validity_reasons)) == (answer["validity"], answer["validity_reasons"])
        return logged.file


def _asked(client: httpx.Client) -> dict[str, Any]:
    reply = client.post("/predict", json={"features": HEALTHY})
    assert reply.status_code == 200
    return reply.json()  # type: ignore[no-any-return]


@contextmanager
def callers(address: str, settings: Settings) -> Iterator[Callers]:
    with ExitStack() as stack:
        yield Callers(address, settings, stack)


def until(condition: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < ends, f"not within {WITHIN_S:g} s: {what}"
        time.sleep(0.1)


@contextmanager
def monitoring(place: Workplace) -> Iterator[subprocess.Popen[bytes]]:
    """`surety monitor --every 1s`, killed at the end."""
    with (place.folder / "monitor.log").open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ml_core.cli.main", "monitor", "--every", "1s"],
            cwd=place.run, env=place.environment(), stdout=out, stderr=out,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def published(settings: Settings) -> MonitorState | None:
    view = MonitorView(settings)
    view.look()
    return view.state


def metric(address: str, name: str, **labels: str) -> float:
    text = httpx.get(f"{address}/metrics", timeout=30).text
    families = text_string_to_metric_families(text)
    return sum(
        s.value for family in families for s in family.samples if s.name == name and labels.items() <= s.labels.items()
    )


def test_lost_coverage_reaches_every_answer_outlives_the_monitor_and_ends_by_somebodys_word(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    settings = home.settings
    place = Workplace(tmp_path, NAME, SETTINGS)
    with place.serving() as address, callers(address, settings) as both:
        assert both.both_say("unmonitored")
        with monitoring(place):
            until(lambda: both.both_say("valid"), "both workers say valid")
            labels = [{"request_id": answer["request_id"], "label": 1} for _ in range(20) for answer in both.ask()]
            reply = httpx.post(f"{address}/labels", json={"labels": labels}, timeout=30)
            assert (reply.status_code, reply.json()["accepted"]) == (200, len(labels))
            until(lambda: both.both_say("suspect", "coverage:1"), "both workers say suspect and why")
            state = published(settings)
            assert state is not None
            ((alarm,),) = [health.alarms for health in state.models.values()]
            behind_s = time.time() - datetime.fromisoformat(alarm.since).timestamp()
            record_property("suspect_everywhere_after_s", round(behind_s, 2))

            until(lambda: metric(address, "surety_alarm", reason="coverage:1") == 1, "the metric says so too")
            (shown,) = place.surety("alarms", "show", status=3)
            assert (shown["alarm"], shown["model_version"]) == ("coverage:1", "1")
            before = matured_answers(settings).detectors
            assert {name: (d.labels, d.misses) for name, d in before.items()} == {"coverage:1": (len(labels),) * 2}

        until(lambda: both.both_say("unmonitored"), "without a monitor nobody says valid or suspect")
        with monitoring(place):
            until(lambda: both.both_say("suspect", "coverage:1"), "a new monitor knows what the old one knew")
            assert matured_answers(settings).detectors == before
            (done,) = place.surety("alarms", "acknowledge", "coverage:1", "--why", "labels of the test")
            assert done["model_hash"] == home.hash_of(home.v1)
            until(lambda: both.both_say("valid"), "the alarm is off")
            until(lambda: metric(address, "surety_alarm", reason="coverage:1") == 0, "and in the metrics")
            assert place.surety("alarms", "show") == []
    events = [e["event"] for e in Journal(settings.journal).entries() if e["event"].startswith("alarm.")]
    assert events == ["alarm.raised", "alarm.acknowledged"]
