"""Nothing that serves unpickles: Python's own audit hook saw no class looked up, but on the isolated service's private hop."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.security.figures import record
from tests.security.served import RECORD, Watched, arrow_body

pytestmark = pytest.mark.e2e

ARROW = "application/vnd.apache.arrow.stream"
PAGES = (
    "/",
    "/docs.json",
    "/schema.json",
    "/metrics",
    "/status",
    "/health",
    "/livez",
    "/readyz",
    "/healthz",
    "/nothing",
)
HOP = {"_bentoml_impl.client.proxy2", "_bentoml_impl.server.app"}
"""BentoML's two ends of the hop: where a worker asks, and where the runner reads."""


def asked_of_every_kind(address: str) -> int:
    """How many requests were answered: of every route and kind of body, sound and not."""
    with httpx.Client(base_url=address, timeout=60) as client:
        replies = [client.get(page) for page in PAGES * 3]
        for i in range(30):
            replies.append(client.post("/predict", json={"features": {**RECORD, "age": 20 + i}}))
            replies.append(client.post("/predict", json={"features": {**RECORD, "age": "old"}}))
            replies.append(client.post("/predict_batch", json={"records": [RECORD, {}, {"age": -1}] * (1 + i)}))
        for rows in (1, 20, 2_000):
            body = arrow_body(rows)
            replies.append(client.post("/predict_batch", content=body, headers={"content-type": ARROW}))
        replies.append(client.post("/predict_batch", content=b"\x80\x04N.", headers={"content-type": ARROW}))
        told = [
            {"request_id": reply.json()["request_id"], "label": 1}
            for reply in replies
            if "request_id" in reply.text[:20]
        ]
        replies += [client.post("/labels", json={"labels": told}), client.delete("/predict")]
    assert {reply.status_code for reply in replies} <= {200, 400, 404, 405, 422}, {r.status_code for r in replies}
    assert told
    return len(replies)


def test_probe_sees_what_a_pickle_looks_up(server: Watched, tmp_path: Path) -> None:
    """What shows that silence means something: the same probe in another process, which does unpickle."""
    code = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))"
    probe = Path(__file__).parent / "probe"
    environment = {**os.environ, "PYTHONPATH": str(probe), "SURETY_TEST_AUDIT": str(tmp_path)}
    packed = pickle.dumps(Path("x")).hex()
    subprocess.run([sys.executable, "-c", code, packed], env=environment, check=True, timeout=300)
    seen = Watched("", "", 0, tmp_path).look_ups()
    assert [look_up.what[0].partition(".")[0] for look_up in seen] == ["pathlib"]


def test_nothing_is_unpickled_but_on_the_private_hop(server: Watched) -> None:
    requests = asked_of_every_kind(server.address)
    assert requests >= 100
    processes = server.processes()
    workers = [process for process in processes if "_bentoml_impl" in process]
    assert len(workers) == (1 if server.service == "Surety" else 2)
    assert any("bentoml serve" in process for process in processes)
    seen = server.look_ups()
    figure: dict[str, object] = {"requests": requests, "processes": len(processes), "look_ups": len(seen)}
    if server.service == "Surety":
        assert seen == []
    else:
        assert seen, "the hop is pickled by BentoML: the probe must see it"
        for look_up in seen:
            assert look_up.process in workers
            assert look_up.stack[0] == "_bentoml_impl.serde", look_up
            assert HOP & set(look_up.stack), look_up
            assert look_up.what[0].partition(".")[0] == "numpy", look_up
        figure["looked up"] = sorted({".".join(look_up.what) for look_up in seen})
    record(
        f"unpickling, service:{server.service}",
        "no class looked up by a pickle from start on"
        + ("" if server.service == "Surety" else ", but arrays on BentoML's own private hop"),
        figure,
    )


def test_only_the_service_listens_beyond_this_machine(server: Watched) -> None:
    """The runner's hop is a socket in a folder of the owner's; BentoML's process manager listens on the loopback alone."""
    port = int(server.address.rpartition(":")[2])
    beyond, loopback = set(), 0
    for process in server.tree():
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                if connection.laddr.ip in ("127.0.0.1", "::1"):
                    loopback += 1
                else:
                    beyond.add(connection.laddr.port)
    sockets = {
        Path(connection.laddr)
        for process in server.tree()
        for connection in process.net_connections("unix")
        if connection.laddr.endswith(".sock")
    }
    assert beyond <= {port}
    assert len(sockets) == (0 if server.service == "Surety" else 1)
    for path in sockets:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    record(
        f"listening sockets, service:{server.service}",
        "one port beyond this machine; the hop's socket in a folder of mode 0700",
        {"beyond this machine": len(beyond), "on the loopback": loopback, "private sockets": len(sockets)},
    )
