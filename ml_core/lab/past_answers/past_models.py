"""The model behind an old answer: found by its hash, where models are served or in MLflow; and its state now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from ml_core.base.errors import FeatureVersionMismatch, RegistryUnreachable, SuretyError, UnknownFeatureVersion
from ml_core.base.settings import Settings
from ml_core.features.columns import table_hash
from ml_core.lab.registry.model_registry import ModelRegistry, RegisteredVersion
from ml_core.serve.answering.fallback import FallbackStrategy
from ml_core.serve.features.record import Record
from ml_core.serve.features.table_versions import COLUMNS_FILE
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.entries import as_json
from ml_core.serve.model.bundle import read_bundle, verify_folder
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.model.prediction_sets import RowPrediction
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.promotion_record import PromotionRecord, plain_promotion
from ml_core.serve.rollout.rollout_store import RolloutStore

__all__ = ["NoModel", "PastModel", "PastModels", "loader_of", "model_now", "open_registry"]


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

    def explained(self, slot: str, record: Record, answer: RowPrediction) -> dict[str, Any]:
        """Why an answer from there to that record is what it is, as the log holds it."""
        features = self.predictor.bundle.features.transform(self.predictor.reader.arrays((record,)))
        (explanation,) = self.predictor.explainer.explain(slot, features, np.array([answer.prediction]))
        found: dict[str, Any] = orjson.loads(as_json(explanation))
        return found

    def calibration_id(self, slot: str, record: Record | None = None) -> str:
        """Id of the calibration that an answer from there to that record must name; None for that of all rows."""
        bundle, of_scorecard = self.predictor.bundle, slot == "scorecard"
        weighted = bundle.weighted_scorecard if of_scorecard else bundle.weighted
        if weighted is not None:
            return weighted.calibration_id
        grouped = bundle.grouped_scorecard if of_scorecard else bundle.grouped
        if grouped is not None and record is not None:
            return grouped.of_record(record).calibration_id
        return self.baseline.calibration.calibration_id if of_scorecard else self.manifest.calibration_id


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
                except (FeatureVersionMismatch, UnknownFeatureVersion) as error:
                    return _changed(manifest, error)
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
                    except (FeatureVersionMismatch, UnknownFeatureVersion) as error:
                        return _changed(manifest, error)
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


def _changed(manifest: Manifest, error: SuretyError) -> NoModel:
    """Why the model cannot answer: the features here are not those it was trained with."""
    if COLUMNS_FILE in manifest.files:  # its column table is with it, so that the transform must be another one
        return NoModel("feature_module_changed", str(error))
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


def model_now(settings: Settings, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Everything known now about the model that a lineage names, ready for JSON; what cannot be asked says why.

    Parameters
    ----------
    settings : where its traces are
    lineage : as the log has it

    Returns
    -------
    dict
        ``rollout`` (the slot it has now), ``stored`` (whether its tag can be loaded), ``gate``, ``promotion``,
        ``mlflow``, and ``journal``: the entries that name its hash or tag, oldest first.
    """
    model_hash, tag = str(lineage["model_hash"]), str(lineage["bento_tag"])
    names = {model_hash, tag}
    return {
        "rollout": _asked(lambda: _in_rollout(settings, tag)),
        "stored": _asked(lambda: _stored(settings, lineage)),
        "gate": _asked(lambda: _gate(settings, lineage)),
        "promotion": _asked(lambda: _promotion(settings, lineage)),
        "mlflow": _asked(lambda: _in_mlflow(settings, lineage)),
        "journal": [entry for entry in open_home(settings).journal.entries() if _has(entry, names)],
    }


def _asked(question: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer, or the problem: a store that is away must not hide what the others know."""
    try:
        return question()
    except SuretyError as error:
        return {"problem": str(error)}
    except ModuleNotFoundError as error:
        return {"problem": f"{error.name} is not installed here"}


def _in_rollout(settings: Settings, tag: str) -> dict[str, Any]:
    """The slot that the model holds now; None where it holds none."""
    state = RolloutStore(settings).read()
    if state is None:
        return {"slot": None, "champion": None}
    slots = {"champion": state.champion, "challenger": state.challenger, "previous": state.previous}
    return {
        "slot": next((slot for slot, held_by in slots.items() if held_by == tag), None),
        "champion": state.champion,
        "mode": state.mode,
        "weight": state.weight,
        "generation": state.generation,
        "changed_at": state.changed_at,
    }


def _stored(settings: Settings, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the tag can still be loaded, and is still the same model."""
    tag = str(lineage["bento_tag"])
    try:
        _, found = loader_of(settings, lineage).facts(tag)
    except SuretyError as error:
        return {"tag": tag, "is_there": False, "problem": str(error)}
    is_same = found == lineage["model_hash"]
    return {"tag": tag, "is_there": is_same, "problem": None if is_same else f"holds another model, of hash {found}"}


def _gate(settings: Settings, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """What the gate said last of that hash, rule by rule, where a trusted key has signed it."""
    model_hash = str(lineage["model_hash"])
    report = loader_of(settings, lineage).verdict(str(lineage["bento_tag"]), model_hash)
    return (
        {"verdict": "none"}
        if report is None
        else {
            "verdict": "passed" if report.passed else "refused",
            "judged_at": report.judged_at,
            "judged_on": report.judged_on,
            "rules": [rule.model_dump() for rule in report.rules],
        }
    )


def _record(settings: Settings, lineage: Mapping[str, Any]) -> PromotionRecord | None:
    """The promotion record, where it is of that very model."""
    record = plain_promotion(settings, str(lineage["model_name"]))
    return record if record is not None and record.model_hash == lineage["model_hash"] else None


def _promotion(settings: Settings, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The record by which it is the champion to serve; earlier promotions are in the journal."""
    record = _record(settings, lineage)
    if record is None:
        return {"is_promoted": False}
    return {"is_promoted": True, **record.model_dump(exclude={"gate", "model_name", "model_hash"})}


def _in_mlflow(settings: Settings, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The registered versions with that hash."""
    found = open_registry(settings).versions(str(lineage["model_name"]))
    return {
        "versions": [
            {"version": version.version, "run_id": version.run_id, "aliases": list(version.aliases)}
            for version in found
            if version.model_hash == lineage["model_hash"]
        ]
    }


def _has(value: Any, names: set[str]) -> bool:
    """Whether a JSON value holds one of the names anywhere."""
    if isinstance(value, Mapping):
        return any(_has(part, names) for part in value.values())
    if isinstance(value, list):
        return any(_has(part, names) for part in value)
    return isinstance(value, str) and value in names
