"""M10: labels, audit, replay and erasure are asked for on other machines than the one that answered; nothing is left."""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path

import pytest

from ml_core.serve.home.object_stores import open_objects
from tests.cluster.running import Running
from tests.faults.figures import record
from tests.faults.place import RECORD, until


def test_m10_what_one_machine_answered_is_labelled_audited_replayed_and_erased_elsewhere(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = service.machines
    desk = service.operator  # where nothing was ever served
    secret = f"c4nary{secrets.token_hex(6)}"
    given = {
        machine.name: machine.served.post(
            "/predict",
            {"features": RECORD, "subject": f"{secret}-person", "client_request_id": f"{secret}-{machine.name}"},
        ).json()
        for machine in service.machines
    }
    ids = [answer["request_id"] for answer in given.values()]
    until(lambda: set(service.rows_of(ids).values()) == {1}, 30, "all is shipped")
    for (name, answer), other in zip(given.items(), (second, third, first), strict=True):
        told = other.served.post("/labels", {"labels": [{"request_id": answer["request_id"], "label": 1}]}).json()
        assert told["accepted"] == 1, told
        audited = other.surety("audit", answer["request_id"])
        assert audited["answer"]["probabilities"] == answer["probabilities"]
        assert audited["lineage"]["served_by"]["machine"] == name
        assert audited["labels"]["label"] == 1
        assert other.surety("replay", answer["request_id"])["states"]["equal"] == 1
    assert desk.surety("audit", "--client-request-id", f"{secret}-{second.name}")["answer"]
    assert desk.surety("log", "verify")["findings"] == []
    assert _places_of(service, secret, monkeypatch)
    for name in service.cluster.lost:  # by other tests: their last spools can be erased from no more
        desk.surety("log", "give-up", name, "--yes")
    erased = desk.surety("log", "erase-subject", f"{secret}-person", "--yes")
    left = _places_of(service, secret, monkeypatch)
    assert [each["found"] for each in erased["subjects"]] == [3]
    assert left == []
    assert third.surety("audit", ids[0])["is_erased"]
    assert first.surety("log", "verify")["findings"] == []
    record(
        "M10 labels, audit, replay, erasure asked on other machines",
        "as on one; after the erasure nothing is left in database files, spools and objects",
        {"answers": len(ids), "places_with_a_trace": len(left)},
    )


def _places_of(service: Running, secret: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files of the database's tables and of all machines, and objects, in which a text stands."""
    cluster = service.cluster
    at = ("-h", str(cluster.database.folder), "-p", str(cluster.database.port), "-U", "postgres")
    cluster.database.run("psql", *at, "-c", "CHECKPOINT")
    folders = [cluster.database.folder / "data" / "base", *(machine.disk for machine in service.machines)]
    for variable, value in cluster.objects.settings.items():
        monkeypatch.setenv(variable, value)
    objects = open_objects(cluster.settings["SURETY_OBJECTS"])
    stored = [name for name in objects.names("") if secret.encode() in (objects.get(name, 1 << 30) or b"")]
    return [found for folder in folders for found in _files_with(folder, secret)] + stored


def _files_with(folder: Path, text: str) -> list[str]:
    found = subprocess.run(["grep", "-rlaF", "--", text, str(folder)], capture_output=True, text=True)
    return found.stdout.split()
