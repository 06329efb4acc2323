"""New models under load: broken ones (F10, F11), and fifty changes in a row."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from ml_core.base.errors import GoldenMismatch, SuretyError
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL, ModelLoader
from ml_core.serve.rollout import changes
from tests.faults.figures import record
from tests.faults.load import Load, failed, percentile
from tests.faults.place import RECORDS, FaultPlace, Served, until
from tests.security.mutations import contents, mutations

BODIES = [{"features": r} for r in RECORDS]


# --- one mutation after the other, against the loader -------------------------------------------------------------


def flipped(folder: Path, name: str, at: float, bit: int) -> None:
    raw = bytearray((folder / name).read_bytes())
    raw[min(len(raw) - 1, int(at * len(raw)))] ^= 1 << bit
    (folder / name).write_bytes(raw)


def watched(monkeypatch: pytest.MonkeyPatch, module: object, name: str, called: list[str]) -> None:
    """Record each call of a parser and pass it on."""
    original = getattr(module, name)

    def call(*args: object, **named: object) -> object:
        called.append(name)
        return original(*args, **named)

    monkeypatch.setattr(module, name, call)


def refusal_of(loading: Callable[[], object]) -> Exception | None:
    try:
        loading()
    except SuretyError as error:
        return error
    return None


def test_f11_every_mutation_of_an_artefact_is_refused(place: FaultPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """v2 is loaded from SURETY_HOME/models, so that each mutation has a fresh copy of it."""
    import bentoml

    tag = place.tag(2)
    whole = place.bundle(tag).parents[2]
    other = place.bundle(place.tag(1))
    shutil.move(whole, place.folder / "whole")
    whole = place.folder / "whole"
    elsewhere = place.home / "models" / tag.replace(":", "/")
    # Nothing of that name in the Bento store: the loader then looks into SURETY_HOME.
    monkeypatch.setattr(bentoml.models, "get", lambda _: (_ for _ in ()).throw(bentoml.exceptions.NotFound("moved")))
    loader = ModelLoader(place.settings)

    shutil.copytree(whole, elsewhere)
    assert loader.load(tag).model_hash[:8] == tag.rpartition("-")[2]
    parsed: list[str] = []
    watched(monkeypatch, np, "load", parsed)
    watched(monkeypatch, ort, "InferenceSession", parsed)
    refused, slowest, reasons, seen_by_a_parser = 0, 0.0, set(), []
    for mutation in mutations(other):
        shutil.rmtree(elsewhere)
        shutil.copytree(whole, elsewhere)
        mutation.make(elsewhere / BUNDLE_IN_BENTO_MODEL)
        if contents(elsewhere) == contents(whole):
            continue
        parsed.clear()
        began = time.perf_counter()
        refusal = refusal_of(lambda: loader.load(tag))
        slowest = max(slowest, time.perf_counter() - began)
        assert refusal is not None, f"{mutation.name}: was loaded"
        if parsed or isinstance(refusal, GoldenMismatch):
            seen_by_a_parser.append(mutation.name)
        assert str(place.folder) not in str(refusal), f"{mutation.name}: the message tells a path"
        assert refusal_of(lambda: loader.check_gated(tag)) is not None, f"{mutation.name}: was not seen before loading"
        refused += 1
        reasons.add(type(refusal).__name__)
    assert refused >= 200
    assert slowest < 2
    assert seen_by_a_parser == []
    record(
        "F11 corrupt, truncated, swapped or escaping artefact, against the loader",
        "refused before any parser runs",
        {"mutations": refused, "refused": refused, "slowest_ms": round(slowest * 1000, 1), "by": sorted(reasons)},
    )


# --- live ---------------------------------------------------------------------------------------------------------


def broken(place: FaultPlace, version: int, name: str = "model.onnx") -> Path:
    """Flip a bit of that version's file in the Bento store; the original file is kept beside the folder."""
    bundle = place.bundle(place.tag(version))
    kept = place.folder / f"kept-{version}-{name}"
    shutil.copy(bundle / name, kept)
    flipped(bundle, name, 0.5, 3)
    return kept


def test_f10_f11_broken_new_model_is_refused_live_and_nobody_notices(place: FaultPlace) -> None:
    with place.served(SURETY_WORKERS="2") as served:
        until(lambda: len(place.reports()) == 2, 10, "two workers report")
        champion = served.champion()["model_hash"]
        with Load(served.address, bodies=BODIES, rate=150, connections=16) as load:
            time.sleep(2)
            offered_at = time.monotonic()
            kept = broken(place, 2)
            # The command sees it before any worker does ...
            place.surety("rollout", "full", "v2", status=1)
            place.surety("rollout", "shadow", "v2", status=1)
            # ... and workers that are told all the same find out by themselves.
            generation = place.change(changes.full(place.tag(2)))
            refused_s = until(
                lambda: len(place.reports()) == 2 and all(r.problem for r in place.reports()), 5, "both say no"
            )
            problem = served.status()["problem"]
            assert problem.startswith("model.onnx: ")
            assert served.metric("surety_rollout_problem") == 2
            assert served.champion()["model_hash"] == champion
            time.sleep(1)
            place.change(changes.rollback())
            until(lambda: not any(r.problem for r in place.reports()), 5, "the old one is right again")
            # The same as a challenger: the champion goes on by itself.
            place.change(changes.shadow(place.tag(2)))
            until(lambda: all(r.problem for r in place.reports()), 5, "both say no to the challenger")
            place.change(changes.rollback())
            # Gone altogether.
            shutil.move(place.bundle(place.tag(2)), place.folder / "gone")
            place.change(changes.full(place.tag(2)))
            until(lambda: all(r.problem for r in place.reports()), 5, "both say no to the missing one")
            # Brought back whole while the rollout still wants it: the workers try again by themselves.
            shutil.move(place.folder / "gone", place.bundle(place.tag(2)))
            shutil.copy(kept, place.bundle(place.tag(2)) / "model.onnx")
            healed_s = until(lambda: not any(r.problem for r in place.reports()), 15, "they try again")
            until(lambda: served.champion()["model_hash"] != champion, 5, "the new one serves")
            time.sleep(0.5)
    before = [s.latency_ms for s in load.seen if s.due_s < offered_at]
    during = [s.latency_ms for s in load.seen if s.due_s >= offered_at]
    assert generation > 1
    assert failed(load.seen) == []
    assert not any(s.flagged for s in load.seen)
    assert {s.model_hash[:8] for s in load.seen} == {place.tag(v).rpartition("-")[2] for v in (1, 2)}
    record(
        "F10 F11 corrupt or missing model offered to running workers",
        "refused with the reason in /status, the old one serves, no request fails; taken once it is whole",
        {
            "requests": len(load.seen),
            "failed": 0,
            "refused_within_s": round(refused_s, 2),
            "taken_after_repair_s": round(healed_s, 2),
            "p99_ms_before": percentile(before, 0.99),
            "p99_ms_during": percentile(during, 0.99),
        },
    )


def shows(served: Served, tag: str, generation: int) -> None:
    """Wait until the server has that champion in that generation."""

    def shown() -> bool:
        status = served.status()
        return (status["rollout"]["generation"], status["models"][0]["bento_tag"]) == (generation, tag)

    until(shown, 10, f"{tag} serves in generation {generation}")


def test_fifty_offers_under_load_most_of_them_bad_fail_no_request(place: FaultPlace) -> None:
    """`full` and `rollback` in turn at 100 requests a second: v2 whole, the ungated v3, v2 corrupt, and again.

    A server keeps what it has loaded as the previous champion; going back from v3 makes it let go of v2, so that the
    corrupt v2 is read from the disk.
    """
    offers = 51
    one, two, three = (place.tag(version) for version in (1, 2, 3))
    onnx = place.bundle(two) / "model.onnx"
    whole, corrupt = onnx.read_bytes(), bytearray(onnx.read_bytes())
    corrupt[len(corrupt) // 2] ^= 8
    verdicts = {"taken": 0, "ungated": 0, "corrupt": 0}
    with (
        place.served(SURETY_POLL_S="0.1") as served,
        Load(served.address, bodies=BODIES, rate=100, connections=16) as load,
    ):
        for number in range(offers):
            kind = ("taken", "ungated", "corrupt")[number % 3]
            onnx.write_bytes(corrupt if kind == "corrupt" else whole)
            generation = place.change(changes.full(three if kind == "ungated" else two))
            if kind == "taken":
                shows(served, two, generation)
                assert served.status()["problem"] is None
            else:
                until(lambda: served.status()["problem"], 5, "refused")
                assert ("gate" if kind == "ungated" else "model.onnx") in served.status()["problem"]
                assert served.champion()["bento_tag"] == one
            verdicts[kind] += 1
            shows(served, one, place.change(changes.rollback()))
            assert served.status()["problem"] is None
    assert failed(load.seen) == []
    assert not any(s.flagged for s in load.seen)
    assert {s.model_hash[:8] for s in load.seen} == {tag.rpartition("-")[2] for tag in (one, two)}
    assert all(s.strict for s in load.seen)
    record(
        "reload under load: full and rollback, two of three offers corrupt or ungated",
        "no request fails, every answer is of one gated model",
        {
            "changes": 2 * offers,
            **verdicts,
            "requests": len(load.seen),
            "failed": 0,
            "p99_ms": percentile([s.latency_ms for s in load.seen], 0.99),
        },
    )


def test_server_that_starts_with_a_damaged_champion_answers_and_heals(place: FaultPlace) -> None:
    with place.served() as served:
        place.obeyed(place.change(changes.full(place.tag(2))))
        until(lambda: served.champion()["model_version"] == "2", 5, "v2 is live")
    kept = broken(place, 2)
    with place.served() as served:
        first = served.predict()
        assert (first["fallback_reason"], first["lineage"]["slot"]) == ("model_not_loaded", "previous")
        status = served.status()
        assert (status["ready"], status["health"], status["rollout"]["not_loaded"]) == (True, "degraded", place.tag(2))
        assert place.tag(2) in status["notes"][0]
        with Load(served.address, bodies=BODIES, rate=100, connections=8) as load:
            shutil.copy(kept, place.bundle(place.tag(2)) / "model.onnx")
            healed_s = until(lambda: served.status()["notes"] == [], 65, "the champion is back")
        assert served.predict()["fallback_used"] is False
        assert failed(load.seen) == []
    record(
        "server started with a damaged champion",
        "ready; the previous champion answers, flagged; the champion answers by itself once it is whole; no failed request",
        {"requests": len(load.seen), "failed": 0, "healed_s": round(healed_s, 1)},
    )
