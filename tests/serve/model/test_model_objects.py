"""A model that one machine imports is fetched by the others, and never another one in its place."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import bentoml
import pytest

from ml_core.base.errors import ArtefactError, NotGated, NotLoaded
from ml_core.base.settings import Settings
from ml_core.serve.home.object_stores import FolderObjects
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL, ModelLoader
from ml_core.serve.model.manifest import parse_manifest
from ml_core.serve.model.model_objects import fetch_model, upload_model
from ml_core.serve.model.promotion_record import bento_tag
from ml_core.serve.model.vouching import keep_gate
from tests.toy_models import NAME, copied_bundle, passed_gate, toy_model

HASH = toy_model().model_hash
TAG = bento_tag(NAME, "1", HASH)


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def here(objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelLoader:
    """The loader of a machine whose Bento store has the model; that of the other has nothing."""
    folder = tmp_path / "stored"
    copied_bundle(folder / BUNDLE_IN_BENTO_MODEL)
    has = {"folder": folder}

    def get(tag: str) -> SimpleNamespace:
        if not has:
            raise bentoml.exceptions.NotFound(tag)
        return SimpleNamespace(path=str(has["folder"]))

    monkeypatch.setattr(bentoml.models, "get", get)
    loader = ModelLoader(Settings(home=tmp_path / "here", model_name=NAME, objects=str(objects)))
    loader.share(TAG)
    has.clear()
    return loader


@pytest.fixture
def there(here: ModelLoader, objects: Path, tmp_path: Path) -> ModelLoader:
    """The loader of the other machine, on which the model's verdict is known."""
    settings = Settings(home=tmp_path / "there", model_name=NAME, objects=str(objects))
    keep_gate(settings, passed_gate(HASH), "1")
    return ModelLoader(settings)


def test_the_other_machine_fetches_and_loads_it(there: ModelLoader, objects: Path) -> None:
    assert there.tags() == [TAG]
    assert there.load(TAG, HASH).model_hash == HASH
    (objects / "models" / HASH / "model.onnx").unlink()
    assert there.load(TAG, HASH).model_hash == HASH, "it is kept on this machine"


def test_a_tag_is_enough_to_fetch_it(there: ModelLoader) -> None:
    assert there.check_gated(TAG) == HASH


def test_a_model_that_is_nowhere_is_not_loaded(there: ModelLoader) -> None:
    with pytest.raises(NotLoaded, match="surety import-model"):
        there.load(bento_tag(NAME, "2", "f" * 64))


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "calibration.npz", "golden.json"])
def test_a_changed_object_never_loads(there: ModelLoader, objects: Path, name: str) -> None:
    path = objects / "models" / HASH / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ArtefactError):
        there.load(TAG, HASH)
    with pytest.raises(NotLoaded):
        ModelLoader(there._settings.model_copy(update={"objects": ""})).artefact(TAG)


def test_a_missing_object_is_named(there: ModelLoader, objects: Path) -> None:
    (objects / "models" / HASH / "model.onnx").unlink()
    with pytest.raises(ArtefactError, match=r"model\.onnx.*not among the objects: import the model again"):
        there.load(TAG, HASH)


def test_another_whole_model_under_its_name_never_loads(there: ModelLoader, objects: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    copied_bundle(other / BUNDLE_IN_BENTO_MODEL)
    manifest = other / BUNDLE_IN_BENTO_MODEL / "manifest.json"
    forged = parse_manifest(manifest.read_bytes()).model_copy(update={"name": "another_model"})
    manifest.write_bytes(forged.to_bytes())
    found = upload_model(FolderObjects(objects), TAG, other)
    assert found != HASH
    with pytest.raises(ArtefactError, match="another model than the one of its tag"):
        there.check_gated(TAG)
    assert there.load(TAG, HASH).model_hash == HASH, "the hash that is asked for is still there"


def test_a_model_without_a_verdict_is_fetched_and_does_not_answer(
    here: ModelLoader, objects: Path, tmp_path: Path
) -> None:
    loader = ModelLoader(Settings(home=tmp_path / "third", model_name=NAME, objects=str(objects)))
    with pytest.raises(NotGated):
        loader.load(TAG, HASH)


@pytest.mark.parametrize("name", ["../../escape", "a/b"])
def test_a_manifest_cannot_write_outside_the_model(here: ModelLoader, objects: Path, tmp_path: Path, name: str) -> None:
    raw = (objects / "models" / HASH / "manifest.json").read_bytes()
    forged = raw.replace(b"model.onnx", name.encode())
    try:
        parse_manifest(forged)
    except ArtefactError:
        return
    digits = sha256(forged).hexdigest()
    FolderObjects(objects).put(f"models/{digits}/manifest.json", forged)
    settings = Settings(home=tmp_path / "third", model_name=NAME, objects=str(objects))
    with pytest.raises(ArtefactError, match="no file of a model folder"):
        fetch_model(FolderObjects(objects), bento_tag(NAME, "1", digits), digits, settings)


def test_sharing_again_mends_what_was_damaged(
    here: ModelLoader, there: ModelLoader, objects: Path, tmp_path: Path
) -> None:
    (objects / "models" / HASH / "model.onnx").write_bytes(b"")
    upload_model(FolderObjects(objects), TAG, tmp_path / "stored")
    assert there.load(TAG, HASH).model_hash == HASH
