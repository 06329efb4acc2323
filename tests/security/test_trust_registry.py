"""Whoever may write the registry makes no other model answer, and brings nothing in that no manifest lists."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ml_core.base.errors import SuretyError
from ml_core.lab.registry.importer import import_version, stored_path
from ml_core.lab.registry.model_registry import ModelRegistry, bundle_in
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.promotion_record import PromotionRecord, bento_tag
from ml_core.serve.model.vouching import keep_gate, keep_promotion
from tests.homes import MODEL, Home, bento_store, registered_home, road_model, weak_config, weak_model
from tests.security.trust_ways import REGISTRY_WAYS
from tests.toy_models import passed_gate

CHAMPION = road_model().model_hash
Deliver = Callable[[Path], object]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """Version 1 is judged and promoted, version 2 was never judged; nothing is imported yet."""
    made = registered_home(tmp_path / "home")
    made.register(weak_config(), weak_model())
    report = passed_gate(CHAMPION).model_copy(update={"model_name": MODEL})
    keep_gate(made.settings, report, "1")
    record = PromotionRecord(
        model_name=MODEL, model_version="1", model_hash=CHAMPION, bento_tag=bento_tag(MODEL, "1", CHAMPION),
        promoted_at="2026-01-01T00:00:00.000000Z", gate=report,
    )  # fmt: skip
    keep_promotion(made.settings, record)
    with bento_store(tmp_path / "bento"):
        yield made


def replaced(folder: Path) -> None:
    bundle = bundle_in(folder, "it")
    shutil.rmtree(bundle)
    shutil.copytree(weak_model().folder, bundle)


def with_code(folder: Path) -> None:
    for name in ("code/evil.py", "python_model.pkl", "requirements.txt", "artifacts/more/model.pkl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("import os")


def with_papers(folder: Path) -> None:
    report = passed_gate(weak_model().model_hash).model_copy(update={"model_name": MODEL})
    for place in (folder, folder / "artifacts", folder.parent):
        (place / "gate.json").write_text(report.model_dump_json())
    replaced(folder)


def with_a_file_more(folder: Path) -> None:
    (bundle_in(folder, "it") / "model.pkl").write_text("x")


def nothing(folder: Path) -> None:
    """It delivers what was registered."""


def moved_alias(home: Home) -> None:
    home.registry.set_alias(home.registry.by_version(MODEL, "2"), "champion")


def tags_of_a_passed_gate(home: Home) -> None:
    home.registry.set_tags(
        home.registry.by_version(MODEL, "2"), {"gate": "passed", "stage": "Production", "gate_judged_at": "2099"}
    )


def other_hash(home: Home) -> None:
    home.registry.set_tags(home.registry.by_version(MODEL, "1"), {"model_hash": weak_model().model_hash})


def no_hash(home: Home) -> None:
    home.registry.set_tags(home.registry.by_version(MODEL, "1"), {"model_hash": None})


def untouched(home: Home) -> None:
    """Its tables stay as they are."""


WAYS: dict[str, tuple[Callable[[Home], object], Deliver]] = {
    "the registry's champion alias on another version": (moved_alias, nothing),
    "tags of a passed gate on another version": (tags_of_a_passed_gate, nothing),
    "another model's files delivered as the champion's version": (untouched, replaced),
    "the same, with the hash in the registry changed as well": (other_hash, replaced),
    "the same, with the hash taken out of the registry": (no_hash, replaced),
    "the same, with a gate report in MLflow's folder": (other_hash, with_papers),
    "a file more in the champion's folder": (untouched, with_a_file_more),
    "code, a pickle and requirements in MLflow's folder": (untouched, with_code),
}


def test_every_way_is_told() -> None:
    assert [way.name for way in REGISTRY_WAYS] == list(WAYS)


@pytest.mark.parametrize("name", WAYS)
def test_the_registry_makes_no_other_model_answer(home: Home, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, deliver = WAYS[name]
    honest = ModelRegistry.downloaded

    @contextmanager
    def downloaded(self: ModelRegistry, uri: str) -> Iterator[Path]:
        with honest(self, uri) as folder:
            deliver(folder)
            yield folder

    change(home)
    monkeypatch.setattr(ModelRegistry, "downloaded", downloaded)
    imported = []
    for version in ("1", "2"):
        try:
            imported.append(import_version(home.registry, home.registry.by_version(MODEL, version), home.settings))
        except SuretyError:
            continue
    loader, answering = ModelLoader(home.settings), set()
    for tag in {*loader.tags(), loader.served_tag()}:
        try:
            answering.add(loader.load(tag).model_hash)
        except SuretyError:
            continue
    assert answering <= {CHAMPION}
    assert all(found.gate != "passed" or found.model_hash == CHAMPION for found in imported)
    for found in imported:
        folder = stored_path(found.tag)
        assert folder is not None
        kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        beyond = {path for path in kept if not path.startswith("mlflow_model/artifacts/bundle/")}
        assert beyond <= {"model.yaml", "gate.json", "promotion.json"}
        assert not any(path.endswith((".py", ".pkl", ".txt")) for path in kept)
