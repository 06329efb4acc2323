"""Finds the very model that gave an old answer, by its hash: among the models that can be served, else in MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ml_core.base.errors import FeatureVersionMismatch, RegistryUnreachable, SuretyError, UnknownFeatureVersion
from ml_core.base.settings import Settings
from ml_core.features.columns import table_hash
from ml_core.lab.registry.model_registry import ModelRegistry, RegisteredVersion
from ml_core.serve.answering.fallback import FallbackStrategy
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.model.bundle import read_bundle, verify_folder
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.model.predictor import Predictor

__all__ = ["NoModel", "PastModel", "PastModels", "loader_of", "open_registry"]


@dataclass(frozen=True, slots=True)
class PastModel:
    """A model as it was when it answered, down to the bytes.

    Attributes
    ----------
    predictor : of the bundle with the hash that the answer names
    baseline : its fallback chain
    place : where it was found, for people
    """

    predictor: Predictor
    baseline: FallbackStrategy
    place: str

    @classmethod
    def of(cls, predictor: Predictor, place: str) -> PastModel:
        """The model behind that predictor."""
        return cls(predictor, FallbackStrategy.from_baseline(predictor.bundle), place)

    @property
    def manifest(self) -> Manifest:
        """What it says about itself."""
        return self.predictor.bundle.manifest

    def calibration_id(self, slot: str) -> str:
        """Id of the calibration that an answer from there must name."""
        return self.baseline.calibration.calibration_id if slot == "scorecard" else self.manifest.calibration_id


@dataclass(frozen=True, slots=True)
class NoModel:
    """Why there is no model to ask: it is nowhere, or the feature module here is not the one it was trained with."""

    state: Literal["model_missing", "feature_module_changed"]
    note: str


class PastModels:
    """Models by their hash, each looked for once. No gate is asked: what once answered may have lost it since.

    Parameters
    ----------
    settings : where the models are
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._found: dict[str, PastModel | NoModel] = {}
        self._registry: ModelRegistry | SuretyError | None = None

    def find(self, lineage: Mapping[str, Any]) -> PastModel | NoModel:
        """The model that an answer's lineage names.

        Parameters
        ----------
        lineage : as the log has it: ``model_hash`` decides; ``model_name``, ``model_version`` and ``bento_tag`` say
            where to look first
        """
        model_hash = str(lineage["model_hash"])
        if model_hash not in self._found:
            self._found[model_hash] = self._looked_for(lineage, model_hash)
        return self._found[model_hash]

    def _looked_for(self, lineage: Mapping[str, Any], model_hash: str) -> PastModel | NoModel:
        problems: list[str] = []
        for search in (self._in_stores, self._in_mlflow):
            found = search(lineage, model_hash, problems)
            if found is not None:
                return found
        tried = f" ({'; '.join(problems)})" if problems else ""
        return NoModel(
            "model_missing",
            f"{lineage['model_name']} version {lineage['model_version']} of hash {model_hash[:12]}… is neither in the "
            f"Bento store nor in {self._settings.models} nor in MLflow{tried}: "
            f"bring it in with `surety import-model --model {lineage['model_name']} "
            f"--version {lineage['model_version']}`",
        )

    def _in_stores(
        self, lineage: Mapping[str, Any], model_hash: str, problems: list[str]
    ) -> PastModel | NoModel | None:
        """By its tag in the Bento store and in ``SURETY_HOME/models``, else under any tag that ends in its hash."""
        loader = loader_of(self._settings, lineage)
        others = (tag for tag in loader.tags() if tag.endswith(f"-{model_hash[:8]}"))
        for tag in dict.fromkeys([str(lineage["bento_tag"]), *others]):
            try:
                manifest, found = loader.facts(tag)
                if found != model_hash:
                    problems.append(f"{tag} has hash {found[:12]}…")
                    continue
                try:
                    return PastModel.of(loader.verified(tag, gated=False).predictor, tag)
                except (FeatureVersionMismatch, UnknownFeatureVersion):
                    return _changed(manifest)
            except SuretyError as error:
                problems.append(f"{tag}: {error}")
        return None

    def _in_mlflow(
        self, lineage: Mapping[str, Any], model_hash: str, problems: list[str]
    ) -> PastModel | NoModel | None:
        """Among the registered versions, copied out and held against the hash."""
        try:
            for version in self._versions(lineage, model_hash):
                with self._opened_registry().bundle_folder(version) as folder:
                    manifest, _, _ = verify_folder(folder, model_hash)
                    try:
                        return PastModel.of(Predictor(read_bundle(folder, model_hash)), f"MLflow: {version}")
                    except (FeatureVersionMismatch, UnknownFeatureVersion):
                        return _changed(manifest)
        except SuretyError as error:
            problems.append(str(error))
        except ModuleNotFoundError:
            problems.append("MLflow is not installed here")
        return None

    def _versions(self, lineage: Mapping[str, Any], model_hash: str) -> Iterator[RegisteredVersion]:
        """Versions that were registered with that hash; one whose tag was lost is known by its number."""
        for version in self._opened_registry().versions(str(lineage["model_name"])):
            is_untagged = not version.model_hash and version.version == lineage["model_version"]
            if version.model_hash == model_hash or is_untagged:
                yield version

    def _opened_registry(self) -> ModelRegistry:
        """The registry; where it is away, that is found out once."""
        if self._registry is None:
            try:
                self._registry = open_registry(self._settings)
            except SuretyError as error:
                self._registry = error
        if isinstance(self._registry, SuretyError):
            raise self._registry
        return self._registry


def loader_of(settings: Settings, lineage: Mapping[str, Any]) -> ModelLoader:
    """A loader for the model that a lineage names, which need not be the configured one (a bento brings its own)."""
    return ModelLoader(settings.model_copy(update={"model_name": str(lineage["model_name"])}))


def open_registry(settings: Settings) -> ModelRegistry:
    """The registry, if there is one; looking for a model must not make an empty one.

    Raises
    ------
    RegistryUnreachable
        It does not answer, or its file is not there.
    """
    registry = ModelRegistry(settings)
    file = registry.uri.removeprefix("sqlite:///").partition("?")[0]
    if registry.uri.startswith("sqlite:///") and not Path(file).is_file():
        raise RegistryUnreachable(f"MLflow at {registry.shown}", "there is no such file")
    return registry


def _changed(manifest: Manifest) -> NoModel:
    """Why the model cannot answer: the features here are not those it was trained with."""
    name = manifest.feature_version
    file, trained = f"ml_core/serve/features/{name}.py", manifest.feature_module_sha256
    try:
        here = get_feature_version(name)
    except UnknownFeatureVersion:
        return NoModel("feature_module_changed", f"{file} is not here; the model was trained with sha256 {trained}")
    if here.module_hash == trained:
        file, trained = f"the column table of {name}", manifest.column_table_sha256
        found = table_hash(here.columns)
    else:
        found = here.module_hash
    return NoModel(
        "feature_module_changed",
        f"{file} was edited: here it has sha256 {found}, the model was trained with {trained}. Put that edition back; "
        "a changed transform must be a new version",
    )
