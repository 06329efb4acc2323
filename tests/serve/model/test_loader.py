"""Which model is served, and what keeps one from answering."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import bentoml
import pytest

from ml_core.base.errors import ArtefactError, ChecksumMismatch, ConfigError, NotGated, NotLoaded
from ml_core.base.settings import Settings, load_settings
from ml_core.serve.model.loader import (
    BUNDLE_IN_BENTO_MODEL,
    ModelLoader,
    ServedModel,
)
from ml_core.serve.model.promotion_record import PromotionRecord, bento_tag, promotion_name
from ml_core.serve.model.vouching import copy_papers, keep_gate, keep_promotion, signed_name, trust_key
from ml_core.serve.trust.keys import home_keys
from tests.toy_models import NAME, copied_bundle, passed_gate, toy_model

HASH = toy_model().model_hash
TAG = bento_tag(NAME, "1", HASH)


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy model's folder, found by the Bento store under its tag."""
    folder = tmp_path / "stored"
    copied_bundle(folder / BUNDLE_IN_BENTO_MODEL)

    def get(tag: str) -> SimpleNamespace:
        if not tag.startswith(f"{NAME}:"):
            raise bentoml.exceptions.NotFound(tag)
        return SimpleNamespace(path=str(folder), info=SimpleNamespace(labels={"mlflow_version": "1"}))

    monkeypatch.setattr(bentoml.models, "get", get)
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", model_name=NAME)


def promotion(model_hash: str = HASH, tag: str = TAG) -> PromotionRecord:
    return PromotionRecord(
        model_name=NAME, model_version="1", model_hash=model_hash, bento_tag=tag,
        promoted_at="2026-01-01T00:00:00Z", gate=passed_gate(model_hash),
    )  # fmt: skip


def promoted(settings: Settings, record: PromotionRecord) -> None:
    keep_gate(settings, record.gate, record.model_version)
    keep_promotion(settings, record)


@contextmanager
def bento(folder: Path, *tags: str) -> Iterator[Path]:
    models = "".join(f"  - tag: {tag}\n" for tag in tags)
    (folder / "bento.yaml").write_text(f"services:\n- name: Surety\n  models:\n{models or '  []'}")
    yield folder


def test_promoted_model_is_served(stored: Path, settings: Settings) -> None:
    promoted(settings, promotion())
    loader = ModelLoader(settings)
    model = loader.load(loader.served_tag())
    assert (model.tag, model.version, model.model_hash) == (TAG, "1", HASH)
    assert model.promotion == promotion()


def test_model_asked_for_by_tag_beats_the_promoted_one(settings: Settings) -> None:
    promoted(settings, promotion())
    asked = Settings(home=settings.home, model_name=NAME, model="other:v9-00000000")
    assert ModelLoader(asked).served_tag() == "other:v9-00000000"


def test_bento_serves_the_model_it_was_built_with(settings: Settings, tmp_path: Path) -> None:
    with bento(tmp_path, TAG) as folder:
        assert ModelLoader(settings, folder).served_tag() == TAG


@pytest.mark.parametrize("tags", [(), (TAG, "other:v1-00000000")])
def test_bento_must_name_one_model(settings: Settings, tmp_path: Path, tags: tuple[str, ...]) -> None:
    with bento(tmp_path, *tags) as folder, pytest.raises(ArtefactError, match=r"bento\.yaml"):
        ModelLoader(settings, folder).served_tag()


def test_nothing_promoted_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(NotLoaded, match="surety promote"):
        ModelLoader(settings).served_tag()


def test_papers_beside_the_artefact_are_enough(stored: Path, settings: Settings) -> None:
    elsewhere = Settings(home=settings.home / "elsewhere", model_name=NAME)
    keep_gate(elsewhere, passed_gate(HASH), "1")
    promoted(elsewhere, promotion())
    copy_papers(stored, NAME, HASH, elsewhere)
    with pytest.raises(NotGated, match="signed by a key that is trusted here"):
        ModelLoader(settings).load(TAG)
    trust_key(settings, home_keys(elsewhere).keys[0].key, "elsewhere")
    model = ModelLoader(settings).load(TAG)
    assert model.gate.passed
    assert model.promotion == promotion()


def test_model_that_is_not_in_the_store_is_not_loaded(stored: Path, settings: Settings) -> None:
    with pytest.raises(NotLoaded, match="surety import-model"):
        ModelLoader(settings).load("stranger:v1-00000000")


def test_model_without_a_gate_may_not_answer(stored: Path, settings: Settings) -> None:
    with pytest.raises(NotGated, match="surety validate"):
        ModelLoader(settings).load(TAG)


@pytest.mark.parametrize("place", ["home", "beside"])
def test_refused_model_may_not_answer(stored: Path, settings: Settings, place: str) -> None:
    report = passed_gate(HASH, passed=False)
    judged = settings if place == "home" else Settings(home=settings.home / "elsewhere", model_name=NAME)
    keep_gate(judged, report, "1")
    if place == "beside":
        trust_key(settings, home_keys(judged).keys[0].key, "elsewhere")
        copy_papers(stored, NAME, HASH, judged)
    with pytest.raises(NotGated, match="said no"):
        ModelLoader(settings).load(TAG)


def test_gate_of_another_model_does_not_count(stored: Path, settings: Settings) -> None:
    keep_gate(settings, passed_gate("0" * 64), "1")
    copy_papers(stored, NAME, "0" * 64, settings)
    with pytest.raises(NotGated):
        ModelLoader(settings).load(TAG)


def test_artefact_that_is_not_the_promoted_one_is_refused(stored: Path, settings: Settings) -> None:
    promoted(settings, promotion(model_hash=HASH[:8] + "0" * 56))
    with pytest.raises(ChecksumMismatch):
        ModelLoader(settings).load(TAG)


def test_artefact_that_is_not_the_one_of_its_tag_is_refused(stored: Path, settings: Settings) -> None:
    keep_gate(settings, passed_gate(HASH), "1")
    with pytest.raises(NotGated, match="tag"):
        ModelLoader(settings).load(f"{NAME}:v1-00000000")


def test_damaged_promotion_record_is_no_promotion(settings: Settings) -> None:
    path = settings.home / signed_name(promotion_name(NAME))
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(ArtefactError, match=path.name):
        ModelLoader(settings).served_tag()


def test_bento_is_not_built_around_a_model_that_may_not_answer(stored: Path, settings: Settings) -> None:
    with pytest.raises(NotLoaded):
        ServedModel.of(ModelLoader(settings)).to_info()
    ungated = Settings(home=settings.home, model_name=NAME, model=TAG)
    with pytest.raises(NotGated):
        ServedModel.of(ModelLoader(ungated)).to_info()


def test_service_starts_without_its_model(settings: Settings) -> None:
    assert ServedModel.of(ModelLoader(settings)).resolve() is None


@pytest.mark.parametrize(
    ("variable", "value"), [("SURETY_MAX_BATCH_ROWS", "many"), ("SURETY_WORKERS", "0"), ("MODEL_STAGE", "Staging")]
)
def test_bad_setting_stops_the_start_and_is_named(variable: str, value: str) -> None:
    code = "from ml_core.base.settings import load_settings; load_settings()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, variable: value}, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"ConfigError: {variable.replace('MODEL_STAGE', 'SURETY_MODEL_STAGE')}" in done.stderr


@pytest.mark.parametrize("stage", ["Production", "production", "champion"])
def test_the_champion_is_served_under_its_old_name_as_well(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_STAGE", stage)
    assert load_settings().model_stage == "champion"


def test_another_stage_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_STAGE", "Staging")
    with pytest.raises(ConfigError, match=r"SURETY_MODEL_STAGE: is Staging, but only the champion .*`surety rollout"):
        load_settings()
