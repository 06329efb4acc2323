"""From the feature store to a registered challenger in one call."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ml_core.base.settings import Settings
from ml_core.lab.config import ModelConfig
from ml_core.lab.registry.model_registry import ModelRegistry, RegisteredVersion
from ml_core.lab.registry.tracking import register
from ml_core.lab.registry.wandb_mirror import check_mirror
from ml_core.lab.training.labelled_rows import rows_from_store
from ml_core.lab.training.learner import train_model
from ml_core.lab.training.packing import Note
from ml_core.serve.home.homes import open_home

__all__ = ["Challenger", "train_challenger"]


@dataclass(frozen=True, slots=True)
class Challenger:
    """A trained model.

    Attributes
    ----------
    version : in the registry; None after a dry run
    is_new : False where the very same model was registered before
    model_hash, metrics : of the artefact; metrics on test patients
    learner : what trained it, as configured
    trained_on : table and Delta version
    rows : per part of the split
    """

    version: RegisteredVersion | None
    is_new: bool
    model_hash: str
    metrics: dict[str, float]
    learner: str
    trained_on: str
    rows: dict[str, int]


def train_challenger(
    config: ModelConfig,
    settings: Settings,
    note: Note,
    *,
    table_version: int | None = None,
    dry_run: bool = False,
) -> Challenger:
    """Train, calibrate, evaluate and register under the alias ``challenger``.

    Parameters
    ----------
    table_version : Delta version to train on; the latest if None
    dry_run : register nothing

    Raises
    ------
    DataError
        The feature store has no such table.
    ArtefactError, CalibrationTooSmall, CalibrationDisagrees
        The model cannot become an artefact; nothing was registered.
    RegistryError
        MLflow or the mirror cannot take it.
    ConfigError
        What the learner or the mirror needs is not installed, or a hyper-parameter is none of the learner's.
    """
    rows = rows_from_store(config, settings, table_version)
    check_mirror(config.tracking)
    registry = (
        None if dry_run else ModelRegistry(settings)
    )  # an unreachable registry is an error before an hour of training
    with tempfile.TemporaryDirectory(prefix="surety-train-") as place:
        model = train_model(config, rows, Path(place) / "bundle", note)
        version, is_new = None, False
        if registry is not None:
            note(f"registering in MLflow at {registry.shown}")
            version, is_new = register(registry, model, config, rows, {})
    if version is not None and is_new:
        facts = {"model": version.name, "version": version.version, "model_hash": model.model_hash, "data": rows.origin}
        open_home(settings).journal.append("model.registered", facts)
    learner = config.training.learner
    return Challenger(version, is_new, model.model_hash, model.evaluation.metrics, learner, rows.origin, rows.counts)
