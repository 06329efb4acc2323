"""M5: changes made elsewhere are obeyed on every machine within a second, and one of two operators at once is told so."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice

import httpx

from ml_core.serve.http.api_keys import add_key, revoke_key
from ml_core.serve.rollout import changes
from tests.cluster.forms import Form
from tests.cluster.machines import Machine
from tests.cluster.running import Running, key_place
from tests.faults.figures import record
from tests.faults.load import failed, percentile
from tests.faults.place import until


def test_m5_changes_from_elsewhere_are_obeyed_everywhere_within_a_second(service: Running, form: Form) -> None:
    in_turn = [
        changes.canary(service.tags[2], 0.3, None),
        changes.flags({"shadow_share": 0.5}),
        changes.circuit("champion", "metrics_only"),
        changes.circuit("champion", "auto", reset=True),
        changes.rollback(),
    ]
    took_s = []
    with service.load(form.rate) as load:
        for change in islice(cycle(in_turn), form.changes):
            began = time.time()
            generation = service.change(change)
            took_s.append(service.obeyed(generation) - began)
    assert failed(load.seen) == []
    assert not any(s.flagged for s in load.seen)
    p99 = percentile(took_s, 0.99)
    assert p99 <= 1.0 * form.patience, sorted(took_s)
    record(
        "M5 canary, rollback, breaker, flag from another machine",
        "obeyed by all workers of all machines within 1 s (p99); no failed request",
        {"rate": form.rate, "changes": form.changes, "p50_s": percentile(took_s, 0.5), "p99_s": p99,
         "requests": len(load.seen), "failed": 0},
    )  # fmt: skip


def test_m5_of_two_operators_at_once_one_wins_and_the_other_is_told(service: Running) -> None:
    with ThreadPoolExecutor() as operators:
        asked = [
            operators.submit(machine.command, "rollout", "canary", weight, "v2", "--unguarded", "--why", machine.name)
            for machine, weight in zip(service.machines[:2], ("0.2", "0.4"), strict=True)
        ]
        done = [each.result() for each in asked]
    won = [machine.name for machine, each in zip(service.machines, done, strict=False) if each.returncode == 0]
    told = [each.stderr for each in done if each.returncode != 0]
    if len(won) == 1:  # else one had begun after the other had ended, and saw what it did
        assert "look again and repeat" in told[0]
    assert service.state().why == won[-1]
    assert [e["why"] for e in service.journal() if e["event"] == "rollout.changed"][-len(won) :] == won


def test_m5_a_key_revoked_elsewhere_opens_no_machine_any_more(service: Running, form: Form) -> None:
    keys, took_s = key_place(service.operator), []
    with service.load(form.rate) as load:
        for number in range(form.changes // 5):
            name = f"caller-{number}"
            with _doors(service.machines, add_key(keys, name, ["predict"])) as doors:
                until(lambda doors=doors: all(map(_opens, doors)), 10, "the key is known")
                began = time.monotonic()
                revoke_key(keys, name)
                until(lambda doors=doors: not any(map(_opens, doors)), 10, "it opens nothing", every_s=0.01)
                took_s.append(time.monotonic() - began)
    assert failed(load.seen) == []
    p99 = percentile(took_s, 0.99)
    assert p99 <= 1.0 * form.patience, took_s
    record(
        "M5 key revoked on another machine",
        "refused by all machines within 1 s (p99); callers with other keys notice nothing",
        {"rate": form.rate, "keys": len(took_s), "p50_s": percentile(took_s, 0.5), "p99_s": p99,
         "requests": len(load.seen), "failed": 0},
    )  # fmt: skip


@contextmanager
def _doors(machines: Sequence[Machine], key: str) -> Iterator[list[httpx.Client]]:
    """Connections with that key, enough to be held by every worker."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(httpx.Client(base_url=machine.address, headers={"Authorization": f"Bearer {key}"}))
            for machine in machines
            for _ in range(6)
        ]


def _opens(door: httpx.Client) -> bool:
    return door.get("/nothing").status_code == 404
