"""The service of the cluster's tests while it runs: load on it, changes from elsewhere, what it says, how it gets well."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_core.serve.home.homes import open_home
from ml_core.serve.http.api_keys import KeyPlace, add_key
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.changes import Change
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import WorkerReport, read_reports
from tests.cluster.machines import Cluster, Machine, MachinePlace, cluster
from tests.e2e.conftest import written_config
from tests.faults.load import Load
from tests.faults.place import RECORDS, until
from tests.folder_files import heartbeats

__all__ = ["BODIES", "WORKERS", "Running", "key_place", "running"]

WORKERS = 2
"""Of each machine."""
BODIES = [{"features": record, "subject": f"patient-{i}"} for i, record in enumerate(RECORDS)]
_LAG_S = 1.0
"""That an answer of a running service may wait at most (p99)."""
_FLAGS = {"log_mode": "standard", "shadow": True, "shadow_share": 1.0, "confidence_level": None}


@dataclass
class Running:
    """Three machines behind a balancer, two with a monitor.

    Attributes
    ----------
    port : of the balancer
    operator : a place without a service, from which the rollout is changed
    tags : of the champion, 1, and of another model that has passed its gate, 2
    """

    cluster: Cluster
    port: int
    operator: MachinePlace
    tags: Mapping[int, str]

    @property
    def machines(self) -> list[Machine]:
        return self.cluster.machines

    @property
    def workers(self) -> int:
        """Of all machines."""
        return WORKERS * len(self.machines)

    def load(self, rate: float, **more: Any) -> Load:
        """Load on the balancer."""
        return Load(f"http://127.0.0.1:{self.port}", bodies=BODIES, rate=rate, headers=self.cluster.headers, **more)

    def change(self, change: Change) -> int:
        """Change the rollout from elsewhere; the new generation."""
        return self.operator.change(change)

    def state(self) -> RolloutState:
        """The rollout."""
        found = RolloutStore(self.operator.settings).read()
        assert found is not None
        return found

    def obeyed(self, generation: int, within_s: float = 20.0) -> float:
        """When the last worker began to obey, seconds since 1970, by the services' own logs."""
        until(lambda: len(self._obeyed_at(generation)) == self.workers, within_s, f"all obey generation {generation}")
        return max(self._obeyed_at(generation))

    def _obeyed_at(self, generation: int) -> list[float]:
        return [at for machine in self.machines for at in machine.obeyed_at(generation)]

    def reports(self) -> list[WorkerReport]:
        """Of the workers that report now."""
        return self.operator.reports()

    def known_reports(self) -> list[WorkerReport]:
        """The last report of every worker, also of those that are no more."""
        return [r for r in read_reports(heartbeats(self.operator.settings)) if r.role == "api"]

    def lag_s(self) -> float:
        """How long the oldest answer has waited that is in no log but that of its machine.

        Raises
        ------
        ValueError
            Not all workers report.
        """
        shipping = [r.log.shipping for r in self.reports() if r.log is not None and r.log.shipping is not None]
        if len(shipping) < sum(WORKERS for machine in self.machines if machine.host.is_there):
            raise ValueError("not all workers report")  # as they do not while the database is away
        return max(each.oldest_s if each.unshipped else 0.0 for each in shipping)

    def shipped(self, within_s: float = 120.0) -> float:
        """Seconds until what had to wait is in the database."""
        return until(lambda: self.lag_s() <= _LAG_S, within_s, "what had to wait is shipped")

    def wholly_shipped(self) -> None:
        """Wait until everything is in the database, as the reports that follow the last answer say."""
        ended_at = time.monotonic()
        until(lambda: min(r.beat_s for r in self.reports()) > ended_at and self.lag_s() == 0, 120, "all is shipped")

    def rows_of(self, request_ids: Iterable[str]) -> dict[str, int]:
        """How many rows the log in the database has of each answer."""
        wanted = {id_bytes(text): text for text in request_ids}
        from ml_core.serve.home.postgres import schema_of  # with the driver, which lies in a folder of its own

        database = open_home(self.operator.settings).database
        assert database is not None
        with database.transaction(schema_of(self.operator.model)) as connection:
            query = "SELECT request_id, count(*) FROM log_entry WHERE request_id = ANY(%s) GROUP BY request_id"
            found = {bytes(raw): int(n) for raw, n in connection.execute(query, (list(wanted),))}
        return {text: found.get(raw, 0) for raw, text in wanted.items()}

    def acting(self) -> list[Machine]:
        """Machines whose monitor said last that it acts."""
        return [machine for machine in self.machines if machine.is_running("monitor") and _acts(machine)]

    def journal(self) -> list[dict[str, Any]]:
        """The home's journal."""
        return open_home(self.operator.settings).journal.entries()

    def get_well(self) -> None:
        """Take every fault away, start what has ended, and wait until all is as in the beginning."""
        os.kill(self.cluster.objects.pid, signal.SIGCONT)
        self.cluster.network.join(self.cluster.network.objects)
        if not self.cluster.database.is_running:
            self.cluster.database.start()
        for machine in self.machines:
            if not machine.host.is_there:
                machine = self.cluster.machine(instead_of=machine)
            machine.host.heal()
            if not machine.is_running("serve"):
                machine.serve(WORKERS)
            machine.place.break_model()
        for machine in self.machines[:2]:
            if not machine.is_running("monitor"):
                machine.monitor()
        for machine in self.machines:
            machine.until_ready()
        until(lambda: len(self.reports()) == self.workers, 30, "all workers report")
        self._put_back()
        until(lambda: len(self.acting()) == 1, 30, "one monitor acts")
        until(lambda: self._answering() == {m.name for m in self.machines}, 30, "the balancer asks all machines")

    def _answering(self) -> set[str]:
        return {seen.machine for seen in self.load(100, total=12, connections=12).run()}

    def _put_back(self) -> None:
        state = self.state()
        if state.mode != "off":
            self.change(changes.rollback())
        if state.champion != self.tags[1]:
            self.change(changes.full(self.tags[1]))
        if any(order.mode != "auto" for order in state.circuits.values()):
            self.change(changes.circuit("champion", "auto", reset=True))
        generation = self.change(changes.flags(_FLAGS))
        until(
            lambda: (
                all(r.generation >= generation and not r.problem for r in self.reports())
                and len(self.reports()) == self.workers
            ),
            30,
            "all workers obey",
        )


def _acts(machine: Machine) -> bool:
    """Its monitor begins as one that acts, and says each change in a line."""
    text = (machine.disk / "monitor.log").read_text(errors="replace")
    _, began, told = text.rpartition("monitoring ")
    stands_by, acts = told.rfind("standing by"), told.rfind("at work: acting")
    return bool(began) and acts >= stands_by


def key_place(operator: MachinePlace) -> KeyPlace:
    """Where the keys of all machines lie."""
    found = KeyPlace.of(operator.settings)
    assert found is not None
    return found


def make(place: MachinePlace, imported: Sequence[int]) -> dict[int, str]:
    """Two versions that have passed their gate, the first promoted; the tags of those that are imported."""
    first = written_config(place, "readmission_v1.yaml")
    second = first.with_name("second.yaml")
    second.write_text(json.dumps({**json.loads(first.read_text()), "seed": 20141}))
    place.in_turn(
        ["data", "make", "--out", "data/cohort.parquet", "--rows", "12000"],
        ["features", "run", "--config", str(first)],
        ["train", "--config", str(first)],
        ["validate", "--model", place.model, "--config", str(first)],
        ["promote", "--model", place.model, "--config", str(first)],
        ["train", "--config", str(second)],
        ["validate", "--model", place.model, "--config", str(second)],
        *(["import-model", "--model", place.model, "--version", str(version)] for version in imported),
    )
    return {version: place.tag(version) for version in imported}


@contextmanager
def running(folder: Path, imported: Sequence[int] = (1, 2)) -> Iterator[Running]:
    """Three machines with two workers each and a balancer in front; two of them have a monitor, too."""
    with cluster(folder) as whole:
        machines = [whole.machine() for _ in range(3)]
        tags = make(machines[0].place, imported)
        name = {"SURETY_MACHINE": "operator"}
        operator = MachinePlace(folder / "operator", machines[0].place.model, {**whole.settings, **name})
        key = add_key(key_place(operator), "tests", ["admin"])
        whole.headers["Authorization"] = f"Bearer {key}"
        for machine in machines:
            machine.serve(WORKERS)
        with whole.balanced() as port:
            found = Running(whole, port, operator, tags)
            try:
                found.get_well()
                yield found
            finally:
                open_home(operator.settings).close()
