"""Keys before a real service: every route that BentoML has, both workers, both deployables, a revocation while it runs."""

from __future__ import annotations

import time
from pathlib import Path

import bentoml
import httpx
import pytest

from ml_core.serve.http.access import OPEN_TO_ALL
from ml_core.serve.http.api_keys import ROLES, add_key, revoke_key
from tests.e2e.workplace import Workplace
from tests.security.figures import record

pytestmark = pytest.mark.e2e

RECORD = {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148}
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
EXTRA = [
    "/",
    "/schema.json",
    "/docs.json",
    "/static_content/main.js",
    "/assets/x",
    "/nothing",
    "/__task__",
    "/ws",
    "/v2",
    "/v2/models/x/infer",
]


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def bentoml_routes() -> set[str]:
    """Every path that BentoML's own router would answer."""
    import service

    app = service.Surety.to_asgi(is_main=True)
    return {route.path for route in app.routes if hasattr(route, "path")}


@pytest.mark.parametrize("deployable", ["service:Surety", "service:SuretyIsolated"])
def test_without_a_key_nothing_but_the_probes_answers(example: Workplace, keys_file: Path, deployable: str) -> None:
    keys = {role: add_key(keys_file, role, [role]) for role in ROLES}
    paths = bentoml_routes() | set(EXTRA)
    assert {"/predict", "/predict_batch", "/labels", "/livez", "/readyz"} <= paths
    with example.serving(deployable, ready=False, SURETY_API_KEYS_FILE=str(keys_file)) as address:
        bentoml.SyncHTTPClient(address, token=keys["predict"], server_ready_timeout=90).close()
        with httpx.Client(base_url=address, timeout=30) as client:
            for path in sorted(paths - OPEN_TO_ALL):
                for method in METHODS:
                    reply = client.request(method, path)
                    assert reply.status_code == 401, (method, path)
                    assert method == "HEAD" or "unauthorized" in reply.text or path.startswith("/v2")
                    assert "server" not in reply.headers
            for path in OPEN_TO_ALL:
                assert client.get(path).status_code == 200
            assert client.get("/status", headers=bearer(keys["predict"])).status_code == 403
            assert client.get("/status", headers=bearer(keys["admin"])).json()["access"]["keys"] == len(ROLES)
            assert client.get("/metrics", headers=bearer(keys["metrics"])).status_code == 200
        with bentoml.SyncHTTPClient(address, token=keys["predict"]) as client:
            assert client.predict(features=RECORD)["lineage"]["slot"] == "champion"
    record(
        f"authentication ({deployable.partition(':')[2]})",
        "without a key every route of BentoML's own router and every other path is 401, except the health probes",
        {"paths": len(paths - OPEN_TO_ALL), "methods": len(METHODS), "let in": 0},
    )


def test_all_workers_obey_a_revocation_within_a_second_or_two(example: Workplace, keys_file: Path) -> None:
    old, new = (add_key(keys_file, name, ["predict", "metrics"]) for name in ("old", "new"))
    more = {"SURETY_API_KEYS_FILE": str(keys_file), "SURETY_WORKERS": "2"}
    with example.serving(ready=False, **more) as address:
        bentoml.SyncHTTPClient(address, token=new, server_ready_timeout=90).close()
        assert all(answers(address, key) == {200} for key in (old, new))
        revoke_key(keys_file, "old")
        deadline = time.monotonic() + 20
        while answers(address, old) != {401} and time.monotonic() < deadline:
            pass
        assert answers(address, old) == {401}
        assert answers(address, new) == {200}
        for i in range(30):
            httpx.get(f"{address}/patient/MRN-{i}", headers=bearer(new))
        scraped = httpx.get(f"{address}/metrics", headers=bearer(new)).text
    assert "MRN" not in scraped
    assert 'endpoint="other"' in scraped
    logs = "".join(p.read_text() for p in example.folder.glob("serve-*.log"))
    assert old not in logs
    assert new not in logs


def test_service_does_not_start_without_its_keys(example: Workplace, keys_file: Path) -> None:
    done = example.refused_start(SURETY_API_KEYS_FILE=str(keys_file))
    assert "there is no such file; `surety keys add` makes it" in done


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def answers(address: str, key: str) -> set[int]:
    """Statuses over twenty connections, so that every worker is asked."""
    return {
        httpx.post(f"{address}/predict", json={"features": RECORD}, headers=bearer(key)).status_code for _ in range(20)
    }
