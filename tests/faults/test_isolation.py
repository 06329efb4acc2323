"""Tests both services with real processes, and the faults that only the isolated one can have."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ml_core.serve.rollout import changes
from tests.faults.figures import record
from tests.faults.load import Load, answered, failed, percentile
from tests.faults.place import RECORD, RECORDS, FaultPlace, Served, until

BODIES = [{"features": r} for r in RECORDS]
ISOLATED = "service:SuretyIsolated"
ARROW = "application/vnd.apache.arrow.stream"
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
ENVELOPE = [
    "request_id", "prediction", "probability", "confidence", "probabilities", "prediction_set", "p_values",
    "confidence_level", "guarantee", "validity", "validity_reasons", "fallback_used", "fallback_reason", "error", "lineage",
    "client_request_id", "group",
]  # fmt: skip
LINEAGE = [
    "model_name", "model_version", "model_hash", "feature_version", "calibration_id", "input_hash", "slot", "bento",
    "served_by", "timestamp",
]  # fmt: skip


# --- the contract, on both ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["service:Surety", ISOLATED])
def both(place_for: Callable[[str], FaultPlace], request: pytest.FixtureRequest) -> Iterator[tuple[FaultPlace, Served]]:
    """One server of each service. Tests heal its model and reset its circuit."""
    place = place_for("contract")
    with place.served(request.param, SURETY_DEADLINE_MS="400") as served:
        yield place, served


@pytest.fixture
def served(both: tuple[FaultPlace, Served]) -> Iterator[Served]:
    place, found = both
    yield found
    place.break_model()
    time.sleep(0.1)
    generation = place.change(changes.circuit("champion", "auto", reset=True))
    until(lambda: found.status()["rollout"]["generation"] == generation, 5, "reset")


@pytest.fixture(scope="module")
def expected(both: tuple[FaultPlace, Served]) -> list[dict[str, Any]]:
    """The answers to RECORDS from the artefact alone, without a server."""
    from ml_core.serve.model.bundle import read_bundle
    from ml_core.serve.model.predictor import Predictor

    place, _ = both
    predictor = Predictor(read_bundle(place.bundle(place.tag(1))))
    found = predictor.predict(predictor.reader.arrays([predictor.reader.read(dict(r)) for r in RECORDS]))
    return [
        {
            "probability": float(found.proba[i, 1]),
            "p_values": {"0": float(found.p_values[i, 0]), "1": float(found.p_values[i, 1])},
            "prediction_set": [k for k in (0, 1) if found.sets[i, k]],
            "prediction": int(found.predictions[i]),
        }
        for i in range(len(RECORDS))
    ]


def arrow_stream(records: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa

    table = pa.Table.from_pylist(records)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_envelope_has_exactly_the_keys_of_the_contract(served: Served) -> None:
    reply = served.post("/predict", {"features": RECORD, "client_request_id": "visit-7", "subject": "s"})
    answer = reply.json()
    assert reply.status_code == 200
    assert list(answer) == ENVELOPE
    assert list(answer["lineage"]) == LINEAGE
    assert UUID7.fullmatch(answer["request_id"])
    assert reply.headers["x-request-id"] == answer["request_id"]
    assert reply.headers["x-model-hash"] == answer["lineage"]["model_hash"]
    assert reply.headers["x-model-version"] == "1"
    assert (answer["client_request_id"], answer["lineage"]["slot"]) == ("visit-7", "champion")
    assert (answer["fallback_used"], answer["fallback_reason"], answer["error"]) == (False, None, None)


def test_answers_are_those_of_the_artefact_bit_for_bit(served: Served, expected: list[dict[str, Any]]) -> None:
    for given, wanted in zip(RECORDS, expected, strict=True):
        answer = served.predict(given)
        assert {name: answer[name] for name in wanted} == wanted


def test_json_batch_small_and_large_gives_the_same_answers(served: Served, expected: list[dict[str, Any]]) -> None:
    for n in (1, 10, 200):
        reply = served.post("/predict_batch", {"records": RECORDS[:n]})
        assert (reply.status_code, list(reply.json())) == (200, ["batch_id", "predictions"])
        for answer, wanted in zip(reply.json()["predictions"], expected[:n], strict=True):
            assert {name: answer[name] for name in wanted} == wanted
            assert list(answer)[: len(ENVELOPE)] == ENVELOPE


def test_arrow_batch_gives_the_same_answers(served: Served, expected: list[dict[str, Any]]) -> None:
    import pyarrow as pa

    reply = httpx.post(
        f"{served.address}/predict_batch", content=arrow_stream(RECORDS), headers={"content-type": ARROW}, timeout=30
    )
    assert (reply.status_code, reply.headers["content-type"]) == (200, ARROW)
    rows = pa.ipc.open_stream(reply.content).read_all().to_pylist()
    for row, wanted in zip(rows, expected, strict=True):
        assert row["probability"] == wanted["probability"]
        assert [k for k in (0, 1) if row[f"in_set_{k}"]] == wanted["prediction_set"]
        assert {"0": row["p_value_0"], "1": row["p_value_1"]} == wanted["p_values"]
        assert (row["slot"], row["fallback_reason"], row["error"]) == ("champion", None, None)


def test_wrong_field_is_named_and_no_failure_of_the_model(served: Served) -> None:
    for _ in range(10):  # more than open a circuit
        reply = served.post("/predict", {"features": {**RECORD, "age": 130}})
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], list(error)) == (422, "invalid_record", ["code", "message", "fields"])
        assert [f["field"] for f in error["fields"]] == ["age"]
    rows = served.post("/predict_batch", {"records": [RECORD, {"age": -1}]}).json()["predictions"]
    assert rows[1]["error"]["code"] == "invalid_record"
    assert served.post("/predict_batch", {"records": [{}], "on_error": "reject"}).status_code == 422
    for sent, status, code in (
        (b"{", 400, "invalid_json"),
        (b'{"features": {"age": NaN}}', 400, "invalid_json"),
        (b'{"features": {}, "features": {}}', 400, "invalid_json"),
        (b'{"feature": {}}', 422, "invalid_request"),
    ):
        reply = httpx.post(f"{served.address}/predict", content=sent, headers={"content-type": "application/json"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert served.champion()["circuit"]["state"] == "closed"
    assert served.predict()["fallback_used"] is False


@pytest.mark.parametrize(
    ("do", "reason"), [("raise", "model_error"), *((kind, "bad_output") for kind in ("nan", "sum", "shape"))]
)
def test_broken_model_is_answered_for_with_all_labels_and_flagged(
    both: tuple[FaultPlace, Served], served: Served, do: str, reason: str
) -> None:
    place, _ = both
    place.break_model({"do": do})
    time.sleep(0.1)
    for _ in range(3):
        answer = served.predict()
        assert (answer["fallback_used"], answer["fallback_reason"]) == (True, reason)
        assert (answer["prediction_set"], answer["lineage"]["slot"]) == ([0, 1], "prior")
        assert list(answer) == ENVELOPE


def test_row_that_breaks_the_model_costs_its_neighbours_nothing(
    both: tuple[FaultPlace, Served], served: Served, expected: list[dict[str, Any]]
) -> None:
    """The model raises for every call with such a row; the batch is split until that row is alone."""
    place, _ = both
    records = [{**r, "age": 40} for r in RECORDS[:50]]
    healthy = served.post("/predict_batch", {"records": records}).json()["predictions"]
    records[17] = {**records[17], "age": 111}
    place.break_model({"do": "raise", "column": 0, "above": 110})
    time.sleep(0.1)
    rows = served.post("/predict_batch", {"records": records}).json()["predictions"]
    assert [i for i, row in enumerate(rows) if row["fallback_used"]] == [17]
    assert (rows[17]["fallback_reason"], rows[17]["prediction_set"]) == ("model_error", [0, 1])
    for i, row in enumerate(rows):
        if i != 17:
            assert row["probability"] == healthy[i]["probability"]


def test_model_that_hangs_is_answered_for_at_the_deadline(both: tuple[FaultPlace, Served], served: Served) -> None:
    place, _ = both
    place.break_model({"do": "sleep", "ms": 1_000})
    time.sleep(0.1)
    first = served.predict()  # a model on the event loop holds it once, then it has to go to the pool
    took = []
    for _ in range(2):
        began = time.monotonic()
        answer = served.predict()
        took.append(time.monotonic() - began)
        assert answer["fallback_reason"] in {"deadline", "stuck", "circuit_open"}
    assert list(first) == ENVELOPE
    assert max(took) < 0.9
    place.break_model()
    time.sleep(1.2)


# --- only the isolated one ----------------------------------------------------------------------------------------


def test_socket_to_the_runner_is_for_its_owner_alone(both: tuple[FaultPlace, Served]) -> None:
    _, served = both
    runners = json.loads(served.worker().environ()["BENTOML_RUNNER_MAP"])
    assert ("SuretyRunner" in runners) == bool(served.processes("runner"))
    if "SuretyRunner" not in runners:  # the model is in the worker itself: nothing crosses
        return
    socket = Path(runners["SuretyRunner"].removeprefix("file://"))
    assert socket.is_socket()
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert socket.parent.stat().st_uid == os.getuid()
    inherited = (
        served.port
    )  # BentoML hands every listening socket to every child; the runner takes nothing from this one
    ports = {
        c.laddr.port for p in served.processes("runner") for c in p.net_connections("inet") if c.status == "LISTEN"
    }
    assert ports <= {inherited}, "the runner listens on the network"


def test_calls_that_come_together_cross_together(place: FaultPlace) -> None:
    """BentoML's own metric of the runner counts fewer hops than requests."""
    with place.served(ISOLATED) as served:

        def hops() -> float:
            return served.metric("bentoml_service_request_total", service_name="SuretyRunner", endpoint="/score")

        served.predict()
        before = hops()
        seen = Load(served.address, bodies=BODIES, rate=1e6, total=400, connections=40).run()
        crossed = hops() - before
        assert {(s.status, s.flagged) for s in seen} == {(200, False)}
        if crossed == 0:
            pytest.skip("the runner's process is not in these metrics")
        assert crossed < 0.7 * len(seen)
        record(
            "isolated: 400 requests on 40 connections",
            "calls that come together cross together",
            {"requests": len(seen), "hops": int(crossed)},
        )


@pytest.mark.parametrize("where", ["on a machine", "in a container"])
def test_killed_runner_costs_no_request_and_comes_back(place: FaultPlace, where: str) -> None:
    rate = 300
    container = {"BENTOML_CONTAINERIZED": "1"} if "container" in where else {}
    with place.served(ISOLATED, **container) as served:
        until(lambda: place.reports("runner"), 10, "the runner reports")
        with Load(served.address, bodies=BODIES, rate=rate, connections=32) as load:
            time.sleep(2)
            (runner,) = served.processes("runner")
            killed_at = time.monotonic()
            runner.send_signal(signal.SIGKILL)
            until(lambda: place.reports("runner") and place.reports("runner")[0].pid != runner.pid, 20, "a new runner")
            until(lambda: served.predict()["fallback_used"] is False, 10, "the model answers again")
            back_s = time.monotonic() - killed_at
            time.sleep(3)
    flagged = [s for s in load.seen if s.flagged]
    reasons = Counter(s.reason for s in flagged)
    assert failed(load.seen) == []
    assert all(s.strict for s in load.seen)
    assert all(killed_at - 0.5 <= s.due_s for s in flagged)
    assert set(reasons) <= {"model_error", "runner_lost", "circuit_open", "deadline"}
    assert back_s <= 15
    assert not any(s.flagged for s in load.seen if s.due_s > killed_at + back_s + 1.5)
    record(
        f"isolated: kill -9 of the runner at 300/s {where}",
        "no request fails, fallbacks are flagged, the model answers again within 15 s",
        {
            "requests": len(load.seen),
            "failed": 0,
            "flagged": dict(reasons),
            "model_again_s": round(back_s, 1),
            "p99_ms": percentile([s.latency_ms - s.waited_ms for s in answered(load.seen)], 0.99),
            "max_ms": percentile([s.latency_ms - s.waited_ms for s in answered(load.seen)], 1),
        },
    )


def test_runner_lost_in_a_container_is_shown_while_the_fallback_answers_until_bentoml_ends(place: FaultPlace) -> None:
    """BentoML's own behaviour: in a container it does not replace a process. Its arbiter looks every ten seconds and ends
    when no process of a kind is left. The container engine then starts the container again.
    """
    began = time.monotonic()
    more = {"BENTOML_CONTAINERIZED": "1", "SURETY_RESPAWN": "false", "SURETY_MISSING_WORKER_S": "3"}
    with place.served(ISOLATED, **more) as served:
        until(lambda: place.reports("runner"), 10, "the runner reports")
        arbiter = psutil.Process(served.pid)
        looks_at = arbiter.create_time() - time.time() + time.monotonic() + 11.5  # just after its first look
        assert looks_at - began < 20
        time.sleep(max(0.0, looks_at - time.monotonic()))
        assert served.status()["workers"]["alive"] == {"api": 1, "runner": 1}
        (runner,) = served.processes("runner")
        killed_at = time.monotonic()
        runner.send_signal(signal.SIGKILL)
        until(lambda: served.status()["workers"]["alive"]["runner"] == 0, 6, "/status shows the loss")
        shown_s = time.monotonic() - killed_at
        until(lambda: served.metric("surety_workers", role="runner") == 0, 6, "/metrics shows the loss")
        counted_s = time.monotonic() - killed_at
        assert served.champion()["unavailable"] == "runner_lost"
        ready: list[int] = []

        def dead() -> bool:
            ready.append(served.get("/readyz").status_code)
            answer = served.predict()
            assert answer["fallback_reason"] in {"runner_lost", "circuit_open"}
            assert (answer["fallback_used"], answer["lineage"]["slot"]) == (True, "scorecard")
            return served.get("/livez").status_code == 503

        until(dead, 6, "/livez fails")
        dead_s = time.monotonic() - killed_at
        assert set(ready) == {200}
        assert counted_s <= 6
        assert 3 <= dead_s <= 9
        status = arbiter.wait(15)
        ended_s = time.monotonic() - killed_at
        assert status != 0
    record(
        "isolated: runner lost in a container with SURETY_RESPAWN=false",
        "ready on the fallback, shown within 5 s in /status and /metrics, /livez 503 after the limit (3 s); "
        "BentoML ends the server at its next look",
        {
            "shown_s": round(shown_s, 1),
            "in_metrics_s": round(counted_s, 1),
            "livez_503_s": round(dead_s, 1),
            "bentoml_ended_s": round(ended_s, 1),
        },
    )


def test_model_that_takes_its_process_down_takes_only_the_runner(place: FaultPlace) -> None:
    with place.served(ISOLATED) as served:
        pid = served.worker().pid
        (runner,) = served.processes("runner")
        place.break_model({"do": "exit", "column": 0, "above": 110})
        time.sleep(0.2)
        answer = served.predict({**RECORD, "age": 115})
        assert (answer["fallback_used"], answer["fallback_reason"]) == (True, "model_error")
        assert answer["prediction_set"] == [0, 1], "it may be this row's doing: only all labels keep the promise"
        place.break_model()
        until(lambda: served.predict()["fallback_used"] is False, 15, "the model answers again")
        assert served.worker().pid == pid
        assert served.processes("runner")[0].pid != runner.pid


def test_new_models_are_taken_up_across_the_hop_without_a_failed_or_degraded_answer(place: FaultPlace) -> None:
    one, two = place.tag(1), place.tag(2)
    took = []
    with place.served(ISOLATED, SURETY_POLL_S="0.1") as served:
        until(lambda: place.reports("runner"), 10, "the runner reports")
        with Load(served.address, bodies=BODIES, rate=100, connections=16) as load:
            for number in range(8):
                wanted = two if number % 2 == 0 else one
                place.change(changes.full(wanted))
                took.append(until(lambda w=wanted: served.champion()["bento_tag"] == w, 15, f"{wanted} serves"))  # type: ignore[misc]
            time.sleep(0.5)
        assert served.status()["problem"] is None
    assert failed(load.seen) == []
    assert not any(s.flagged for s in load.seen)
    assert {s.model_hash[:8] for s in load.seen} == {tag.rpartition("-")[2] for tag in (one, two)}
    record(
        "isolated: eight changes of the champion at 100/s",
        "no failed and no degraded answer",
        {"requests": len(load.seen), "failed": 0, "flagged": 0, "slowest_change_s": round(max(took), 2)},
    )


def test_f3_hanging_runner_holds_nobody_beyond_the_deadline_and_is_asked_again_once_healed(place: FaultPlace) -> None:
    wait_s = 3
    with place.served(ISOLATED, SURETY_CIRCUIT_WAIT_S=str(wait_s)) as served:
        served.predict()
        served.status()
        threads = served.worker().num_threads()
        place.break_model({"do": "sleep", "ms": 3_000})
        time.sleep(0.1)
        at_once = Load(served.address, bodies=BODIES, rate=1e6, total=50, connections=50).run()
        assert {s.status for s in at_once} == {200}
        assert all(s.flagged and s.reason in {"deadline", "circuit_open"} for s in at_once)
        slowest = max(s.latency_ms for s in at_once)
        assert slowest <= 2_000
        until(lambda: served.champion()["circuit"]["state"] == "open", 5, "the circuit opens")
        later = Load(served.address, bodies=BODIES, rate=100, total=200, connections=64).run()
        assert {(s.status, s.flagged) for s in later} == {(200, True)}
        assert served.worker().num_threads() <= threads + 2
        place.break_model()
        healed_s = until(lambda: served.predict()["fallback_used"] is False, 4 * wait_s + 6, "the model answers again")
    record(
        "isolated: F3 model sleeps 3 s, deadline 1 s, 50 callers at once",
        "an answer at the deadline, flagged; circuit open; the model answers again after the wait",
        {
            "max_ms": round(slowest, 1),
            "then_p99_ms": percentile([s.latency_ms for s in later], 0.99),
            "healed_s": round(healed_s, 1),
        },
    )
