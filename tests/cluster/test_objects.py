"""M7: the object store is away, slow, or holds a wrong object: live models answer, and nothing wrong is ever loaded."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from ml_core.serve.home.object_stores import open_objects
from ml_core.serve.rollout import changes
from tests.cluster.forms import Form
from tests.cluster.machines import Machine
from tests.cluster.running import Running
from tests.faults.figures import record
from tests.faults.load import failed
from tests.faults.place import until

PATIENCE_S = 60.0


def test_m7_without_the_object_store_live_models_answer_and_changes_that_need_it_are_refused(
    service: Running, form: Form
) -> None:
    first, second, _ = service.machines
    for machine in service.machines:
        _forget(machine, service.tags[2])
    before = service.state().generation
    with service.load(form.rate) as load:
        with _objects_away(service):
            began = time.monotonic()
            with ThreadPoolExecutor() as operators:
                refusals = list(operators.map(_refused, (first, second)))
            refused_s = time.monotonic() - began
            time.sleep(form.gone_s / 2)
        assert service.state().generation == before
        second.surety("rollout", "canary", "0.5", "v2", "--unguarded", "--why", "the objects are back")
        until(lambda: _answers(service, load_s=1.0) == {m.name for m in service.machines}, PATIENCE_S, "all have it")
    assert failed(load.seen) == []
    assert all("could not be" in told or "cannot be" in told for told in refusals), refusals
    record(
        "M7 object store away",
        "live models answer; a change that needs it is refused with the reason; no failed request",
        {"rate": form.rate, "requests": len(load.seen), "failed": 0, "refused_after_s": round(refused_s, 1)},
    )


def test_m7_a_slow_object_store_holds_up_nothing_but_the_model_that_is_fetched(service: Running, form: Form) -> None:
    for machine in service.machines:
        _forget(machine, service.tags[2])
    with service.load(form.rate) as load:
        with _objects_held(service, form.gone_s):
            service.change(changes.canary(service.tags[2], 0.5, None))
            time.sleep(form.gone_s / 2)
            reporting = len(service.reports())
            began = time.time()
            generation = service.change(changes.flags({"shadow_share": 0.5}))
            obeyed_s = service.obeyed(generation, within_s=2 * form.gone_s) - began
        until(lambda: _answers(service, load_s=1.0) == {m.name for m in service.machines}, PATIENCE_S, "all have it")
    assert failed(load.seen) == []
    assert not any(s.flagged for s in load.seen)
    assert reporting == service.workers
    assert obeyed_s <= 1.0 * form.patience
    record(
        "M7 object store slow",
        "workers that wait for a model answer, report, and obey other changes within 1 s; no failed request",
        {"rate": form.rate, "held_s": form.gone_s, "requests": len(load.seen), "failed": 0, "obeyed_s": round(obeyed_s, 2)},
    )  # fmt: skip


def test_m7_a_wrong_object_under_a_models_name_is_never_loaded(
    service: Running, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second, third = service.machines
    for variable, value in service.cluster.objects.settings.items():
        monkeypatch.setenv(variable, value)
    objects = open_objects(service.cluster.settings["SURETY_OBJECTS"])
    (name,) = [n for n in objects.names("models") if n.endswith("/model.onnx") and _digits(service.tags[2]) in n]
    right = objects.get(name, 1 << 30)
    assert right is not None
    wrong = right[:-1] + bytes([right[-1] ^ 1])
    for machine in (second, third):
        _forget(machine, service.tags[2])
    try:
        objects.put(name, wrong, replace=True)
        with service.load(form.rate) as load:
            told = _refused(second)
            service.change(changes.canary(service.tags[2], 0.5, None))
            until(lambda: len(_not_loaded(third)) >= 1, 30, "the wrong object is found")
            time.sleep(3)
            status = third.served.status()
    finally:
        objects.put(name, right, replace=True)
    assert failed(load.seen) == []
    assert "model.onnx" in told
    answered_by = {s.machine for s in load.seen if s.slot == "challenger"}
    assert answered_by <= {service.machines[0].name}  # it has the model that was imported on it
    assert "model.onnx" in (status["problem"] or "")
    retried_s = until(lambda: not service.machines[2].served.status()["problem"], PATIENCE_S, "the right one is loaded")
    record(
        "M7 another object under a model's name",
        "the change is refused where the model must be fetched, and no worker loads it; no failed request",
        {"rate": form.rate, "requests": len(load.seen), "failed": 0, "right_one_loaded_after_s": round(retried_s, 1)},
    )


def _digits(tag: str) -> str:
    return tag.rpartition("-")[2]


def _forget(machine: Machine, tag: str) -> None:
    """Take a model out of what a machine has fetched before."""
    for folder in (machine.disk / "home" / "models").glob(f"**/*{_digits(tag)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _refused(machine: Machine) -> str:
    """What the command says that may not start a canary."""
    done = machine.command("rollout", "canary", "0.5", "v2", "--unguarded", "--why", "must be refused")
    assert done.returncode != 0
    return done.stderr


def _answers(service: Running, load_s: float) -> set[str]:
    """Machines whose second model answers."""
    seen = service.load(40, total=int(40 * load_s)).run()
    return {s.machine for s in seen if s.slot == "challenger"}


def _not_loaded(machine: Machine) -> list[object]:
    return list(machine.served.logged("challenger.not_loaded"))


@contextmanager
def _objects_away(service: Running) -> Iterator[None]:
    network = service.cluster.network
    network.leave(network.objects)
    try:
        yield
    finally:
        network.join(network.objects)


@contextmanager
def _objects_held(service: Running, seconds: float) -> Iterator[None]:
    """The store accepts questions, and answers none of them for so long."""
    os.kill(service.cluster.objects.pid, signal.SIGSTOP)
    going_on = threading.Timer(seconds, os.kill, (service.cluster.objects.pid, signal.SIGCONT))
    going_on.start()
    try:
        yield
    finally:
        going_on.join()
