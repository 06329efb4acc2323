"""Classifiers that others logged in MLflow: read with care, converted, and packed as one of ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import ArtefactError, RegistryError
from ml_core.base.strict_yaml import NotYaml, parse_yaml
from ml_core.lab.config import ModelConfig
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.onnx_export import (
    SKLEARN_LIMIT,
    XGBOOST_LIMIT,
    check_agrees,
    sklearn_to_onnx,
    xgboost_to_onnx,
)
from ml_core.lab.training.packing import Note, PackedModel, ScorerCandidate, pack_model
from ml_core.lab.training.xgboost_learner import booster_proba
from ml_core.serve.features.versions import FeatureVersion
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL
from ml_core.serve.model.manifest import Source
from ml_core.serve.model.scorer import OnnxScorer

__all__ = ["pack_foreign"]

_FITTED_ON = ("train", "validation")
_XGBOOST_FORMATS = frozenset({"ubj", "json"})
_OBJECTIVES = frozenset({"binary:logistic", "multi:softprob"})

_Proba = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class _Foreign:
    """A foreign classifier.

    Attributes
    ----------
    onnx : converted
    proba : what the original itself says
    limit : largest difference between the two that conversion may make
    library : name and edition of what trained it
    source : block of the manifest
    """

    onnx: bytes
    proba: _Proba
    limit: float
    library: Mapping[str, str]
    source: Source


def pack_foreign(
    folder: Path,
    uri: str,
    config: ModelConfig,
    rows: LabelledRows,
    target: Path,
    note: Note,
    *,
    trust_pickle: bool,
) -> PackedModel:
    """Make an artefact of a scikit-learn or XGBoost classifier that takes the feature version's d columns.

    The rows are shared out by patient as in training: train and validation fit the scorecard, calibration calibrates,
    test is held out for the gate. The model must have seen none of them.

    Parameters
    ----------
    folder : the downloaded MLflow model
    uri : where it came from; recorded
    target : new or empty folder of the artefact
    trust_pickle : scikit-learn models are pickles (skops files are trusted by what they say themselves), and loading a
        pickle can run any code. XGBoost's own formats need no trust.

    Raises
    ------
    ArtefactError
        It cannot be loaded without ``trust_pickle``, cannot be converted, or takes other features or labels.
    ScorerDisagrees
        Conversion changed its probabilities by more than float32 explains: 1e-6 (XGBoost), 1e-5 (scikit-learn).
    """
    foreign = _read(folder, uri, rows, trust_pickle=trust_pickle)
    note(f"converted {foreign.source.model_class} to ONNX")
    scorer = OnnxScorer(foreign.onnx, len(rows.features.feature_names), len(rows.classes))
    try:
        expected = foreign.proba(rows.matrix)
    except ValueError as error:
        problem = f"cannot score the matrix of {rows.features.name} (missing values are NaN there): {_line(error)}"
        raise ArtefactError(foreign.source.model_class, problem) from error
    difference = check_agrees(scorer, rows.matrix, expected, foreign.limit)
    note(f"ONNX equals the original within {difference:.1e} on {len(rows)} rows")
    candidate = ScorerCandidate(
        onnx=foreign.onnx, fitted_on=_FITTED_ON, libraries=foreign.library, source=foreign.source
    )
    return pack_model(config, rows, candidate, target, note)


def _read(folder: Path, uri: str, rows: LabelledRows, *, trust_pickle: bool) -> _Foreign:
    flavors = _flavors(folder, uri)
    if (folder / BUNDLE_IN_BENTO_MODEL.removeprefix("mlflow_model/")).is_dir():
        raise RegistryError(uri, "is a surety model already: import it without --calibration")
    if "xgboost" in flavors:
        return _read_xgboost(folder, uri, flavors["xgboost"], rows)
    if "sklearn" in flavors:
        return _read_sklearn(folder, uri, flavors["sklearn"], rows, trust_pickle=trust_pickle)
    known = ", ".join(sorted(flavors)) or "none"
    raise RegistryError(uri, f"has neither the sklearn nor the xgboost flavor (it has: {known})")


def _flavors(folder: Path, uri: str) -> dict[str, Any]:
    try:
        flavors = parse_yaml((folder / "MLmodel").read_bytes())["flavors"]
    except (OSError, NotYaml, KeyError, TypeError) as error:
        problem = f": its MLmodel {error}" if isinstance(error, NotYaml) else ""
        raise RegistryError(uri, f"is no MLflow model{problem}") from error
    if not isinstance(flavors, dict) or not all(
        isinstance(name, str) and isinstance(flavor, dict) for name, flavor in flavors.items()
    ):
        raise RegistryError(uri, "is no MLflow model: its MLmodel has no table of flavors")
    return flavors


def _read_xgboost(folder: Path, uri: str, flavor: Mapping[str, Any], rows: LabelledRows) -> _Foreign:
    """Read by XGBoost itself from its own format; MLflow's loader would import any class the file names."""
    import xgboost

    file = _inside(folder, flavor.get("data"))
    if flavor.get("model_format", file.suffix[1:]) not in _XGBOOST_FORMATS:
        raise ArtefactError(file.name, "is in an XGBoost format of old: log it again as ubj or json")
    raw = file.read_bytes()
    try:
        booster = xgboost.Booster(model_file=bytearray(raw))
        learner = json.loads(booster.save_config())["learner"]
    except (xgboost.core.XGBoostError, ValueError, KeyError) as error:
        raise ArtefactError(file.name, "XGBoost cannot read it") from error
    objective = str(learner["objective"]["name"])
    if objective not in _OBJECTIVES:
        raise ArtefactError(file.name, f"has the objective {objective}; {' or '.join(sorted(_OBJECTIVES))} is needed")
    model_class = str(flavor.get("model_class", "xgboost.core.Booster"))
    best = booster.attr("best_iteration")
    if best is not None and ".sklearn." in model_class:
        booster = booster[: int(best) + 1]  # as its own predict_proba does after early stopping
    n_classes = max(int(learner["learner_model_param"]["num_class"]), 2)
    _check_shape(file.name, rows, booster.num_features(), booster.feature_names, range(n_classes), n_classes)
    return _Foreign(
        onnx=xgboost_to_onnx(booster, len(rows.features.feature_names)),
        proba=lambda features: booster_proba(booster, features),
        limit=XGBOOST_LIMIT,
        library={"xgboost": str(xgboost.__version__)},
        source=_source(uri, "xgboost", model_class, raw),
    )


def _read_sklearn(
    folder: Path, uri: str, flavor: Mapping[str, Any], rows: LabelledRows, *, trust_pickle: bool
) -> _Foreign:
    file = _inside(folder, flavor.get("pickled_model"))
    if not trust_pickle:
        problem = f"is a {flavor.get('serialization_format', 'pickle')} file, and loading it can run any code"
        raise ArtefactError(file.name, f"{problem}: repeat with --trust-pickle if you trust who made it")
    raw = file.read_bytes()
    model = _unpickled(folder, file.name)
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    if not hasattr(model, "predict_proba") or not hasattr(model, "classes_"):
        raise ArtefactError(file.name, f"{name} is no classifier with predict_proba")
    names = getattr(model, "feature_names_in_", None)
    labels = model.classes_.tolist()
    d = int(getattr(model, "n_features_in_", len(rows.features.feature_names)))
    _check_shape(file.name, rows, d, None if names is None else list(names), labels, len(labels))
    return _Foreign(
        onnx=sklearn_to_onnx(model, len(rows.features.feature_names)),
        proba=_sklearn_proba(model, rows.features, with_names=names is not None),
        limit=SKLEARN_LIMIT,
        library={"scikit-learn of the model": str(flavor.get("sklearn_version", ""))},
        source=_source(uri, "sklearn", name, raw),
    )


def _unpickled(folder: Path, file: str) -> Any:
    import mlflow.sklearn

    try:
        return mlflow.sklearn.load_model(str(folder))
    except Exception as error:  # unpickling raises whatever the pickle makes it
        raise ArtefactError(file, f"cannot be loaded: {type(error).__name__}: {_line(error)}") from error


def _sklearn_proba(model: Any, features: FeatureVersion, *, with_names: bool) -> _Proba:
    import pandas as pd

    def proba(matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        given = pd.DataFrame(matrix, columns=list(features.feature_names)) if with_names else matrix
        return np.asarray(model.predict_proba(given), dtype=np.float64)

    return proba


def _check_shape(
    file: str, rows: LabelledRows, n_features: int, names: Sequence[str] | None, labels: Any, n_classes: int
) -> None:
    wanted = rows.features.feature_names
    if n_features != len(wanted):
        raise ArtefactError(file, f"takes {n_features} features, {rows.features.name} has {len(wanted)}")
    if names is not None and tuple(names) not in (wanted, tuple(f"f{i}" for i in range(len(wanted)))):
        raise ArtefactError(file, f"takes other features, or in another order, than {rows.features.name} has")
    labels = list(labels)
    if n_classes != len(rows.classes) or (labels != list(rows.classes) and labels != list(range(n_classes))):
        raise ArtefactError(file, f"knows {n_classes} labels, which are not the {len(rows.classes)} of {rows.origin}")


def _inside(folder: Path, name: object) -> Path:
    """A file directly in the folder; a name that points elsewhere is refused."""
    file = folder / str(name)
    if name is None or Path(str(name)).name != str(name) or file.is_symlink() or not file.is_file():
        raise ArtefactError("MLmodel", "names no model file beside it")
    return file


def _source(uri: str, flavor: str, model_class: str, raw: bytes) -> Source:
    return Source(uri=uri, flavor=flavor, model_class=model_class, model_sha256=hashlib.sha256(raw).hexdigest())


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]
