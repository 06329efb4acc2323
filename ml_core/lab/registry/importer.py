"""From MLflow into the Bento store: the very artefact, under a tag that follows from name, version and hash."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_core.base.errors import ArtefactError, RegistryError
from ml_core.base.files import locked
from ml_core.base.settings import Settings
from ml_core.lab.data.kept_tables import column_tables, keep_table
from ml_core.lab.registry.model_registry import ModelRegistry, RegisteredVersion, bundle_in, quiet_environment
from ml_core.serve.features.table_versions import COLUMNS_FILE
from ml_core.serve.home.homes import open_home
from ml_core.serve.model.bundle import copy_verified, features_of_artefact, verify_folder
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL, ModelLoader
from ml_core.serve.model.model_home import place
from ml_core.serve.model.promotion_record import bento_tag
from ml_core.serve.model.vouching import copy_papers

__all__ = ["ImportedModel", "import_version", "place_in_home", "stored_path"]


@dataclass(frozen=True, slots=True)
class ImportedModel:
    """A model in the Bento store.

    Attributes
    ----------
    tag : ``name:v3-<hash8>``
    model_hash : of the artefact
    is_new : False where it was there already
    gate : ``passed``, ``refused`` or ``none``
    path : its folder
    """

    tag: str
    model_hash: str
    is_new: bool
    gate: str
    path: str


def import_version(
    registry: ModelRegistry, version: RegisteredVersion, settings: Settings, *, dry_run: bool = False
) -> ImportedModel:
    """Bring a registered version into the Bento store; done twice, it is there once.

    Only the manifest and the files it lists are taken, from the bytes that were verified: no code and no pickle of
    MLflow's folder. What is stored is verified again, so an import that was killed half way is noticed and redone by
    the next one.

    Raises
    ------
    ArtefactError
        The version's folder cannot be trusted, or is not the one that was registered.
    RegistryError
        The registry cannot deliver it, or it is no model of ours.
    """
    with registry.downloaded(f"models:/{version.name}/{version.version}") as mlflow_model:
        expected = version.model_hash or None
        bundle = bundle_in(mlflow_model, str(version))
        manifest, model_hash, content = verify_folder(bundle, expected)
        if manifest.name != version.name:
            raise ArtefactError("manifest.json", f"is of the model {manifest.name}, not of {version.name}")
        tag = bento_tag(version.name, version.version, model_hash)
        if dry_run:
            return ImportedModel(tag, model_hash, not _is_whole(tag, model_hash), "none", "")
        if COLUMNS_FILE in content:
            keep_table(column_tables(settings), features_of_artefact(manifest, content))
        with locked(settings.home / "import.lock"):
            is_new = not _is_whole(tag, model_hash)
            if is_new:
                _store(tag, bundle, version, model_hash)
            folder = stored_path(tag)
            if folder is None or not _is_whole(tag, model_hash):
                raise RegistryError(tag, "is not whole in the Bento store after its import")
            verdict = copy_papers(folder, manifest.name, model_hash, settings)
            ModelLoader(settings).share(tag)
            gate = "none" if verdict is None else "passed" if verdict.passed else "refused"
    if is_new:
        facts = {"model": version.name, "version": version.version, "model_hash": model_hash, "tag": tag, "gate": gate}
        open_home(settings).journal.append("model.imported", facts)
    return ImportedModel(tag, model_hash, is_new, gate, str(folder))


def stored_path(tag: str) -> Path | None:
    """Folder of that tag in the Bento store, or None where the store does not hold it."""
    bentoml = _bentoml()
    try:
        return Path(bentoml.models.get(tag).path)
    except (bentoml.exceptions.BentoMLException, ValueError):
        return None


def place_in_home(tag: str, settings: Settings) -> Path:
    """Copy a stored model to ``SURETY_HOME/models``, for a service whose own Bento store cannot be written.

    It appears there whole or not at all, under a name that never changes its content.

    Raises
    ------
    RegistryError
        The Bento store does not hold it.
    """
    source = stored_path(tag)
    if source is None:
        raise RegistryError(tag, "is not in the Bento store")
    return place(source, tag, settings)


def _bentoml() -> Any:
    quiet_environment()
    import bentoml

    return bentoml


def _is_whole(tag: str, model_hash: str) -> bool:
    """The tag is in the store, with the artefact of that hash and nothing else of MLflow's folder."""
    folder = stored_path(tag)
    if folder is None:
        return False
    bundle = folder / BUNDLE_IN_BENTO_MODEL
    try:
        verify_folder(bundle, model_hash)
    except ArtefactError:
        return False
    return not any(beside != inside for inside in (bundle, bundle.parent) for beside in inside.parent.iterdir())


def _store(tag: str, bundle: Path, version: RegisteredVersion, model_hash: str) -> None:
    """Store the artefact under the tag, after taking away what a killed import may have left there."""
    bentoml = _bentoml()
    labels = {
        "mlflow_name": version.name,
        "mlflow_version": version.version,
        "mlflow_run_id": version.run_id,
        "model_hash": model_hash,
    }
    with suppress(bentoml.exceptions.BentoMLException, ValueError):
        bentoml.models.delete(tag)
    try:
        with bentoml.models.create(tag, labels=labels, metadata=dict(labels)) as model:
            copy_verified(bundle, Path(model.path_of(BUNDLE_IN_BENTO_MODEL)), model_hash)
    except (bentoml.exceptions.BentoMLException, ValueError) as error:
        # BentoML also complains here about half an import of another version, when this one is stored already.
        if not _is_whole(tag, model_hash):
            raise RegistryError(tag, f"BentoML cannot store it: {str(error).splitlines()[0]}") from error
