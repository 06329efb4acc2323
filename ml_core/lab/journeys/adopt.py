"""A foreign classifier of MLflow becomes one of ours: converted, calibrated, registered, gated, imported."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ml_core.base.errors import ConfigError
from ml_core.base.settings import Settings
from ml_core.lab.config import DataConfig, ModelConfig, load_config
from ml_core.lab.judging.deployment_gate import validate_deployment
from ml_core.lab.registry.importer import import_version
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.lab.registry.tracking import register
from ml_core.lab.training.foreign_models import pack_foreign
from ml_core.lab.training.labelled_rows import rows_from_file
from ml_core.lab.training.packing import Note
from ml_core.serve.home.homes import open_home
from ml_core.serve.model.promotion_record import GateReport

__all__ = ["Adopted", "adopt", "adoption_config"]


@dataclass(frozen=True, slots=True)
class Adopted:
    """What became of a foreign model.

    Attributes
    ----------
    version : registered; None after a dry run
    tag : in the Bento store; None where the gate said no, or after a dry run
    model_hash, metrics : of the artefact; metrics on held-out rows
    gate : its report; None after a dry run
    """

    version: str | None
    tag: str | None
    model_hash: str
    metrics: dict[str, float]
    gate: GateReport | None


def adoption_config(model: str, feature_version: str | None, calibration: Path, path: Path | None) -> ModelConfig:
    """The configuration in that file, which must be of this model and version; the defaults where no file is named.

    Parameters
    ----------
    feature_version : None for that of the file

    Raises
    ------
    ConfigError
        The file is of another model or feature version, or neither is named.
    """
    if path is None:
        if feature_version is None:
            raise ConfigError(model, "needs a feature version or a configuration")
        return ModelConfig(model=model, feature_version=feature_version, data=DataConfig(source=calibration))
    config = load_config(path)
    for name, found, asked in (
        ("model", config.model, model),
        ("feature_version", config.feature_version, feature_version),
    ):
        if asked is not None and found != asked:
            raise ConfigError(f"{path}: {name}", f"is {found}, the command asks for {asked}")
    return config


def adopt(
    uri: str,
    calibration: Path,
    config: ModelConfig,
    settings: Settings,
    note: Note,
    *,
    trust_pickle: bool = False,
    dry_run: bool = False,
) -> Adopted:
    """Convert, conformalise, register as challenger, gate on held-out rows and, if the gate passes, import.

    Parameters
    ----------
    uri : ``models:/name/3``, ``models:/name@alias``, ``models:/m-...`` or ``runs:/RUN/path``
    calibration : labelled rows that the model never saw
    dry_run : convert, calibrate and evaluate only

    Raises
    ------
    RegistryError
        There is no such model, or it is of no kind that can be converted.
    ArtefactError, ScorerDisagrees, CalibrationTooSmall, DataError
        It cannot become an artefact; nothing was registered.
    """
    registry = ModelRegistry(settings)
    uri = registry.fixed_uri(uri)
    rows = rows_from_file(calibration, config)
    with tempfile.TemporaryDirectory(prefix="surety-adopt-") as place, registry.downloaded(uri) as folder:
        model = pack_foreign(folder, uri, config, rows, Path(place) / "bundle", note, trust_pickle=trust_pickle)
        metrics = model.evaluation.metrics
        if dry_run:
            return Adopted(None, None, model.model_hash, metrics, None)
        version, is_new = register(registry, model, config, rows, {"source_uri": uri})
    if is_new:
        facts = {"model": version.name, "version": version.version, "model_hash": model.model_hash, "source": uri}
        open_home(settings).journal.append("model.registered", facts)
    gate = validate_deployment(registry, version, config, settings, data=calibration)
    tag = import_version(registry, version, settings).tag if gate.passed else None
    return Adopted(version.version, tag, model.model_hash, metrics, gate)
