"""The same with real servers, commands and bentos: forged papers change nothing, and keys come with the bento."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ml_core.serve.model.promotion_record import PromotionRecord
from tests.e2e.workplace import ROOT, Workplace
from tests.homes import remade
from tests.security.served import RECORD
from tests.toy_models import passed_gate

pytestmark = pytest.mark.e2e


@pytest.fixture
def place(example: Workplace, tmp_path: Path) -> Workplace:
    """A copy of the example's stores."""
    made = Workplace(tmp_path, example.model)
    for name in ("home", "bentoml"):
        shutil.rmtree(tmp_path / name)
        shutil.copytree(example.folder / name, tmp_path / name, symlinks=True)
    for name in ("log", "labels", "monitor", "workers"):
        shutil.rmtree(tmp_path / "home" / name, ignore_errors=True)
    return made


def promoted(place: Workplace) -> dict[str, str]:
    found: dict[str, str] = json.loads((place.folder / "home" / "promotions" / f"{place.model}.json").read_text())
    return found


def forged(place: Workplace) -> str:
    """Put a model that was never judged into the Bento store, with papers that say it is the champion; its tag."""
    champion = promoted(place)
    name, _, version = champion["bento_tag"].partition(":")
    store = place.folder / "bentoml" / "models" / name
    made = store / version
    bundle = Path("mlflow_model", "artifacts", "bundle")
    draft = place.folder / "draft"
    model_hash = remade(made / bundle, draft, metrics={"roc_auc": 0.99, "mean_set_size": 1.0})
    tag = f"{name}:v9-{model_hash[:8]}"
    copy = store / tag.partition(":")[2]
    shutil.copytree(made, copy)
    shutil.rmtree(copy / bundle)
    shutil.copytree(draft, copy / bundle)
    described = copy / "model.yaml"
    described.write_text(described.read_text().replace(version, copy.name))
    report = passed_gate(model_hash).model_copy(update={"model_name": place.model})
    record = PromotionRecord(
        model_name=place.model, model_version="9", model_hash=model_hash, bento_tag=tag, promoted_at="2099", gate=report
    )
    (copy / "gate.json").write_text(report.model_dump_json())
    (copy / "promotion.json").write_text(record.model_dump_json())
    return tag


def test_a_forged_model_gets_no_traffic_and_into_no_bento(place: Workplace) -> None:
    champion, tag = promoted(place), forged(place)
    with place.serving() as address:
        for verb in (("canary", "0.5", tag), ("full", tag), ("full", "v9")):
            place.surety("rollout", *verb, status=3)
        assert place.surety("rollout", "shadow", tag)["challenger"] == tag
        reply = httpx.post(f"{address}/predict", json={"features": RECORD})
        assert reply.headers["x-model-hash"] == champion["model_hash"]
        state = json.loads((place.folder / "home" / "rollout" / f"{place.model}.json").read_text())
        assert state["hashes"][champion["bento_tag"]] == champion["model_hash"]
        assert set(state["hashes"]) == {champion["bento_tag"], tag}
    with place.serving(SURETY_MODEL=tag, ready=False) as address:
        with httpx.Client(transport=httpx.HTTPTransport(retries=60), timeout=60) as client:
            status = client.get(f"{address}/status").json()
        assert (status["ready"], "trusted" in status["problem"]) == (False, True)
    built = subprocess.run(
        [sys.executable, "-m", "bentoml", "build"],
        cwd=ROOT, env=place.environment(SURETY_MODEL=tag), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert built.returncode != 0
    assert "trusted" in built.stdout + built.stderr


def test_a_bento_brings_its_keys_to_an_empty_home(place: Workplace, tmp_path: Path) -> None:
    champion = promoted(place)
    place.bentoml("build", "-o", "tag", cwd=ROOT)
    with place.serving("surety:latest", cwd=place.run, SURETY_HOME=str(tmp_path / "empty")) as address:
        reply = httpx.post(f"{address}/predict", json={"features": RECORD})
        assert reply.headers["x-model-hash"] == champion["model_hash"]
    bentos = (place.folder / "bentoml" / "bentos" / "surety").glob("*/bento.yaml")  # of other tests as well
    described = max(bentos, key=lambda path: path.stat().st_mtime)
    text = described.read_text()
    key = next(k["key"] for k in place.surety("trust", "show"))
    assert champion["model_hash"] in text
    assert key in text
    described.write_text(text.replace(key, "ed25519:" + "A" * 43 + "="))
    with (
        place.serving("surety:latest", cwd=place.run, ready=False, SURETY_HOME=str(tmp_path / "other")) as address,
        httpx.Client(transport=httpx.HTTPTransport(retries=60), timeout=60) as client,
    ):
        assert "trusted" in client.get(f"{address}/status").json()["problem"]


def test_the_home_of_the_version_before_goes_on_serving(place: Workplace) -> None:
    """Its papers are plain, its rollout state has no full hash, and nothing signed lies beside its model."""
    home, champion = place.folder / "home", promoted(place)
    with place.serving():
        pass
    shutil.rmtree(home / "trust")
    for path in [*home.rglob("*.signed.json"), *(place.folder / "bentoml" / "models").rglob("gate.json")]:
        path.unlink()
    state = home / "rollout" / f"{place.model}.json"
    facts = json.loads(state.read_text())
    del facts["hashes"]
    state.write_text(json.dumps(facts))
    with place.serving() as address:
        reply = httpx.post(f"{address}/predict", json={"features": RECORD})
        assert reply.headers["x-model-hash"] == champion["model_hash"]
    assert json.loads(state.read_text())["hashes"] == {champion["bento_tag"]: champion["model_hash"]}
    assert list((home / "promotions").glob("*.signed.json"))
    events = [json.loads(line)["event"] for line in (home / "journal.jsonl").read_text().splitlines()]
    assert "trust.began" in events
