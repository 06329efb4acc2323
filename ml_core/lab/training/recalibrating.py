"""Calibrates the scorer of a model anew, on answered records whose outcome is known; nothing is trained."""

from __future__ import annotations

from pathlib import Path

from ml_core.base.errors import ConfigError, DataError
from ml_core.base.settings import Settings
from ml_core.lab.config import ModelConfig
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.people import group_of
from ml_core.lab.training.labelled_rows import LabelledRows, split_of
from ml_core.lab.training.packing import DECIDING_LIBRARIES, Note, PackedModel, ScorerCandidate, pack_model
from ml_core.serve.model.bundle import LINEAR_FILE, NATIVE_FILES, TREES_FILE, Bundle, read_bundle
from ml_core.serve.model.manifest import Manifest

__all__ = ["check_same_features", "recalibrate_model", "trained_people"]


def recalibrate_model(
    champion: Path, model_hash: str | None, config: ModelConfig, rows: LabelledRows, folder: Path, note: Note
) -> PackedModel:
    """An artefact with the scorer and scorecard of a model, calibrated and tested on these rows.

    ``model.onnx`` and the scorecard keep every byte. Calibration, metrics, reference and golden answers are new, so the
    artefact has a hash of its own.

    Parameters
    ----------
    champion : folder of the model
    model_hash : it must have, where it is known
    rows : of people the scorer was not trained on; parts ``calibration`` and ``test``
    folder : new or empty; becomes the artefact

    Raises
    ------
    ArtefactError
        The model's folder cannot be trusted.
    ConfigError
        The rows are of another feature version.
    DataError
        Its labels are not those of the rows.
    CalibrationTooSmall
        A class has too few rows for the level.
    """
    old = read_bundle(champion, model_hash)
    check_same_features(old, rows)
    if old.manifest.classes != rows.classes:
        lacking = [str(label) for label in old.manifest.classes if label not in rows.classes]
        raise DataError(rows.origin, f"no outcome {', '.join(lacking)} is known yet: wait, or ask for more rows")
    kept = [name for name in (*NATIVE_FILES, TREES_FILE, LINEAR_FILE) if name in old.manifest.files]
    candidate = ScorerCandidate(
        onnx=old.onnx,
        fitted_on=("calibration", "test"),
        files={name: (champion / name).read_bytes() for name in kept},
        libraries={name: known for name, known in old.manifest.libraries.items() if name not in DECIDING_LIBRARIES},
        source=old.manifest.source,
        scorer_of=old,
    )
    return pack_model(config, rows, candidate, folder, note)


def check_same_features(old: Bundle, rows: LabelledRows) -> None:
    """Check that the rows have the features that a model was trained with.

    Raises
    ------
    ConfigError
        They are of another feature version.
    """
    if old.features.id != rows.features.id:
        problem = (
            f"is {rows.features.name}, and the model was trained with {old.features.name}: train it again, or give "
        )
        raise ConfigError("feature version", problem + "the configuration (and columns.yaml) it was trained with")


def trained_people(manifest: Manifest, config: ModelConfig, settings: Settings) -> frozenset[str]:
    """Names, as texts, of the people whose rows trained a model's scorer or stopped its training.

    Where the very version it was trained on is gone, because somebody's rows were erased, the newest version stands for
    it: who is a training patient there by the split was one before, unless added later.

    Raises
    ------
    DataError
        The model was trained elsewhere, or its table cannot be read.
    """
    training = manifest.training
    if not training.table:
        problem = "was trained elsewhere: `surety import-model --calibration ROWS` calibrates it on newer rows"
        raise DataError(manifest.name, problem)
    if training.params.get("split_by") == "time":  # whom it knew comes again, and is calibrated on like anybody
        return frozenset()
    store = FeatureStore.of(settings, config.model)
    try:
        frame = store.read(training.table, training.table_version)
    except DataError:
        frame = store.read(training.table)
    people = frame[group_of(store.version(training.table)).name].to_numpy()
    parts = split_of(people, config.split)
    return frozenset(map(str, set(people[(parts == "train") | (parts == "validation")].tolist())))
