"""A model folder that was changed in any way is refused before a parser sees it, by a message that names the file."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import bentoml
import joblib
import numpy as np
import onnxruntime as ort
import pytest

import ml_core.serve.model.bundle as bundle_module
from ml_core.base.errors import ArtefactError, SuretyError
from ml_core.base.settings import Settings
from ml_core.lab.training.learner import train_model
from ml_core.serve.model.bundle import read_bundle
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL, ModelLoader
from ml_core.serve.model.promotion_record import bento_tag
from ml_core.serve.model.vouching import keep_gate
from tests.security.figures import record
from tests.security.mutations import FILES, Mutation, contents, mutations
from tests.toy_models import NAME, passed_gate, toy_config, toy_model, toy_rows

HASH = toy_model().model_hash
TAG = bento_tag(NAME, "1", HASH)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound model of the same rows and another seed."""
    folder = tmp_path_factory.mktemp("other") / "bundle"
    assert train_model(toy_config(seed=8), toy_rows(), folder, lambda _: None).model_hash != HASH
    return folder


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parsers that were called; they go on all the same."""
    called: list[str] = []

    def watch(module: object, name: str) -> None:
        original: Callable[..., object] = getattr(module, name)

        def call(*args: object, **named: object) -> object:
            called.append(name)
            return original(*args, **named)

        monkeypatch.setattr(module, name, call)

    watch(np, "load")
    watch(ort, "InferenceSession")
    watch(bundle_module, "_parse_json")
    watch(bundle_module, "_parse_calibration")
    return called


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home that holds the toy model with its gate, and is the only place there is to look into."""

    def missing(tag: str) -> None:
        raise bentoml.exceptions.NotFound(tag)

    monkeypatch.setattr(bentoml.models, "get", missing)
    made = Settings(home=tmp_path / "home", model_name=NAME)
    keep_gate(made, passed_gate(HASH), "1")
    return made


def placed(folder: Path, mutation: Mutation) -> bool:
    """Put a changed copy of the toy model there; False where the change changes nothing in this model."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    shutil.rmtree(folder.parent, ignore_errors=True)
    shutil.copytree(toy_model().folder, folder)
    mutation.make(folder)
    return folder.is_symlink() or contents(folder) != contents(toy_model().folder)


def refusal_of(loading: Callable[[], object]) -> SuretyError | None:
    try:
        loading()
    except SuretyError as error:
        return error
    return None


def test_files_that_are_changed_are_all_files_of_a_model() -> None:
    assert set(FILES) == {path.name for path in toy_model().folder.iterdir()}


def test_every_mutation_is_refused_before_a_parser_by_a_message_that_names_the_file(
    settings: Settings, other: Path, parsed: list[str], tmp_path: Path
) -> None:
    """Twice each: where the caller knows the hash, and by a service that finds the model by its tag alone."""
    folder = settings.models / TAG.replace(":", "/") / BUNDLE_IN_BENTO_MODEL
    assert placed(folder, Mutation("nothing", lambda _: None, frozenset())) is False
    loader = ModelLoader(settings)
    assert loader.load(TAG).model_hash == HASH
    parsed.clear()
    refused, problems = 0, []
    for mutation in mutations(other):
        if not placed(folder, mutation):
            continue
        refused += 1
        known = refusal_of(lambda: read_bundle(folder, HASH))
        if not isinstance(known, ArtefactError):
            problems.append(f"{mutation.name}: not refused by its hash ({known!r})")
        elif mutation.files and known.what not in mutation.files:
            problems.append(f"{mutation.name}: the refusal names {known.what}")
        found = refusal_of(lambda: loader.load(TAG))
        if found is None:
            problems.append(f"{mutation.name}: loaded by its tag")
        told = f"{known} {found}"
        if str(tmp_path) in told or "Traceback" in told:
            problems.append(f"{mutation.name}: the refusal tells where files lie")
        if parsed:
            problems.append(f"{mutation.name}: seen by {parsed}")
            parsed.clear()
    assert problems == []
    assert refused >= 200
    record(
        "changed model folders",
        "refused before a parser sees a file, by a message that names the file and no path",
        {"mutations": refused, "refused": refused, "seen by a parser": 0},
    )


def test_hard_link_to_the_very_bytes_is_the_very_bytes(tmp_path: Path) -> None:
    """Stores that save room by links hold whole models; what counts is the bytes that were read and hashed, once."""
    folder = tmp_path / "bundle"
    shutil.copytree(toy_model().folder, folder, copy_function=shutil.copy)
    (tmp_path / "elsewhere").hardlink_to(folder / "model.onnx")
    assert read_bundle(folder, HASH).model_hash == HASH


@pytest.mark.parametrize("name", ["model.pkl", "preprocessor.joblib", "python_model.pkl", "model.onnx"])
def test_pickle_in_a_model_folder_is_refused_and_not_run(name: str, tmp_path: Path, parsed: list[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    folder = tmp_path / "bundle"
    shutil.copytree(toy_model().folder, folder)
    packed = io.BytesIO()
    joblib.dump(Bomb(), packed)
    (folder / name).write_bytes(packed.getvalue())
    with pytest.raises(ArtefactError, match=name):
        read_bundle(folder)
    assert parsed == []
    assert not (tmp_path / "ran").exists()
