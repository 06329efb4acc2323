"""Opens the classifier in an MLflow folder, by a format that runs no code where there is one, or a a trusted pickle."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.errors import ArtefactError, RegistryError
from ml_core.base.strict_yaml import NotYaml, parse_yaml
from ml_core.lab.training.classifier_graph import inside
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL
from ml_core.serve.model.manifest import Source

__all__ = ["Foreign", "open_foreign"]

FLAVORS = ("xgboost", "lightgbm", "catboost", "sklearn")
_XGBOOST_FORMATS = frozenset({"ubj", "json"})


@dataclass(frozen=True)
class Foreign:
    """A classifier that somebody else logged.

    Attributes
    ----------
    name : of its class, for messages
    model : fitted; what is converted
    proba : what the original itself says of a DataFrame or matrix, (n, K), in the order of ``labels``
    labels : of its classes
    names, n_features : of the columns it takes; None where it was trained on a matrix
    categories : columns that it takes with pandas' category dtype
    library : name and edition of what trained it
    source : block of the manifest
    """

    name: str
    model: Any
    proba: Callable[[Any], npt.NDArray[Any]]
    labels: tuple[Any, ...]
    names: tuple[str, ...] | None
    n_features: int
    categories: tuple[str, ...]
    library: Mapping[str, str]
    source: Source


def open_foreign(folder: Path, uri: str, n_classes: int, *, trust_pickle: bool) -> Foreign:
    """The classifier in a downloaded MLflow model.

    Parameters
    ----------
    uri : where it came from; recorded
    n_classes : of the label column; CatBoost's and LightGBM's boosters know theirs by number only
    trust_pickle : pickles (and skops files, which are trusted by what they say themselves) can run any code

    Raises
    ------
    ArtefactError
        It cannot be loaded without trust, or is no classifier with class probabilities.
    RegistryError
        The folder holds no model of a known flavor.
    """
    flavors = _flavors(folder, uri)
    if (folder / BUNDLE_IN_BENTO_MODEL.removeprefix("mlflow_model/")).is_dir():
        raise RegistryError(uri, "is a surety model already: import it without --calibration")
    flavor = next((name for name in FLAVORS if name in flavors), None)
    if flavor == "xgboost":
        return _xgboost(folder, uri, flavors[flavor])
    if flavor == "catboost":
        return _catboost(folder, uri, flavors[flavor])
    if flavor == "lightgbm" and str(flavors[flavor].get("data", "")).endswith(".lgb"):
        return _lightgbm(folder, uri, flavors[flavor], n_classes)
    if flavor is not None:
        field = "pickled_model" if flavor == "sklearn" else "data"
        file = _inside(folder, flavors[flavor].get(field))
        _check_trust(file, str(flavors[flavor].get("serialization_format", "pickle")), trust_pickle=trust_pickle)
        return _of_sklearn(_unpickled(folder, file.name, flavor), file, uri, flavor, flavors[flavor])
    if "python_function" in flavors and flavors["python_function"].get("python_model") is not None:
        file = _inside(folder, flavors["python_function"]["python_model"])
        _check_trust(file, "pickle", trust_pickle=trust_pickle)
        return _of_pyfunc(folder, file, uri)
    known = ", ".join(sorted(flavors)) or "none"
    raise RegistryError(uri, f"has none of the flavors {', '.join(FLAVORS)}, pyfunc (it has: {known})")


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


def _inside(folder: Path, name: object) -> Path:
    """A file directly in the folder; a name that points elsewhere is refused."""
    file = folder / str(name)
    if name is None or Path(str(name)).name != str(name) or file.is_symlink() or not file.is_file():
        raise ArtefactError("MLmodel", "names no model file beside it")
    return file


def _check_trust(file: Path, form: str, *, trust_pickle: bool) -> None:
    if not trust_pickle:
        problem = f"is a {form} file, and loading it can run any code"
        raise ArtefactError(file.name, f"{problem}: repeat with --trust-pickle if you trust who made it")


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        problem = f"is not installed, and the model needs it: pip install 'surety-bundle[learners]' ({error})"
        raise ArtefactError(name, problem) from error


# --- formats that run no code ---------------------------------------------------------------------------------------


def _xgboost(folder: Path, uri: str, flavor: Mapping[str, Any]) -> Foreign:
    """Read by XGBoost itself from its own format; MLflow's loader would import any class the file names."""
    import json

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
    model_class = str(flavor.get("model_class", "xgboost.core.Booster"))
    best = booster.attr("best_iteration")
    if best is not None and ".sklearn." in model_class:
        booster = booster[: int(best) + 1]  # as its own predict_proba does after early stopping
    n_classes = max(int(learner["learner_model_param"]["num_class"]), 2)
    names, kinds = booster.feature_names, booster.feature_types or []

    objective = str(learner["objective"]["name"])

    def proba(given: Any) -> npt.NDArray[Any]:
        known = None if hasattr(given, "columns") else names
        data = xgboost.DMatrix(given, feature_names=known, enable_categorical=True)
        found = np.asarray(booster.predict(data, output_margin=objective == "multi:softmax"), dtype=np.float64)
        if objective == "multi:softmax":  # whose plain answer is a label
            found = np.exp(found - found.max(axis=1, keepdims=True))
            found /= found.sum(axis=1, keepdims=True)
        return np.column_stack([1.0 - found, found]) if found.ndim == 1 else found

    return Foreign(
        name="XGBoost model",
        model=booster,
        proba=proba,
        labels=tuple(range(n_classes)),
        names=_real_names(names, "f"),
        n_features=int(booster.num_features()),
        categories=tuple(name for name, kind in zip(names or (), kinds, strict=False) if kind == "c"),
        library={"xgboost": str(xgboost.__version__)},
        source=_source(uri, "xgboost", model_class, raw),
    )


def _lightgbm(folder: Path, uri: str, flavor: Mapping[str, Any], n_classes: int) -> Foreign:
    lightgbm = _library("lightgbm")
    file = _inside(folder, flavor.get("data"))
    raw = file.read_bytes()
    try:
        booster = lightgbm.Booster(model_str=raw.decode())
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise ArtefactError(file.name, "LightGBM cannot read it") from error

    def proba(given: Any) -> npt.NDArray[Any]:
        found = np.asarray(booster.predict(given))
        return np.column_stack([1.0 - found, found]) if found.ndim == 1 else found

    return Foreign(
        name="LightGBM model",
        model=booster,
        proba=proba,
        labels=tuple(range(n_classes if booster.num_model_per_iteration() == 1 else booster.num_model_per_iteration())),
        names=_real_names(booster.feature_name(), "Column_"),
        n_features=int(booster.num_feature()),
        categories=_lightgbm_categories(booster),
        library={"lightgbm": str(lightgbm.__version__)},
        source=_source(uri, "lightgbm", str(flavor.get("model_class", "lightgbm.basic.Booster")), raw),
    )


def _catboost(folder: Path, uri: str, flavor: Mapping[str, Any]) -> Foreign:
    catboost = _library("catboost")
    file = _inside(folder, flavor.get("data"))
    if flavor.get("model_type") != "CatBoostClassifier":
        raise ArtefactError(file.name, f"is a {flavor.get('model_type')}, and no CatBoostClassifier")
    model = catboost.CatBoostClassifier()
    try:
        model.load_model(str(file), format=str(flavor.get("save_format", "cbm")))
    except Exception as error:
        raise ArtefactError(file.name, f"CatBoost cannot read it: {_line(error)}") from error
    return Foreign(
        name="CatBoost model",
        model=model,
        proba=model.predict_proba,
        labels=tuple(np.asarray(model.classes_).tolist()),
        names=_real_names(model.feature_names_, ""),
        n_features=len(model.feature_names_),
        categories=(),
        library={"catboost": str(catboost.__version__)},
        source=_source(uri, "catboost", "catboost.core.CatBoostClassifier", file.read_bytes()),
    )


# --- pickles --------------------------------------------------------------------------------------------------------


def _unpickled(folder: Path, file: str, flavor: str) -> Any:
    try:
        return importlib.import_module(f"mlflow.{flavor}").load_model(str(folder))
    except Exception as error:  # unpickling raises whatever the pickle makes it
        raise ArtefactError(file, f"cannot be loaded: {type(error).__name__}: {_line(error)}") from error


def _of_pyfunc(folder: Path, file: Path, uri: str) -> Foreign:
    """The one classifier inside a ``PythonModel``; what its own ``predict`` does around it is not adopted."""
    import mlflow

    try:
        outer = mlflow.pyfunc.load_model(str(folder)).unwrap_python_model()
    except Exception as error:  # as above
        raise ArtefactError(file.name, f"cannot be loaded: {type(error).__name__}: {_line(error)}") from error
    found = [(name, value) for name, value in vars(outer).items() if hasattr(value, "predict_proba")]
    if len(found) != 1:
        problem = f"holds {len(found)} classifiers with predict_proba, and one is needed"
        raise ArtefactError(type(outer).__name__, f"{problem}: log the classifier itself with its own flavor")
    return _of_sklearn(found[0][1], file, uri, "pyfunc", {})


def _of_sklearn(model: Any, file: Path, uri: str, flavor: str, facts: Mapping[str, Any]) -> Foreign:
    """A classifier with scikit-learn's interface."""
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    if not hasattr(model, "predict_proba") or not hasattr(model, "classes_"):
        how = "train it with voting='soft'" if hasattr(model, "voting") else "wrap it in CalibratedClassifierCV"
        raise ArtefactError(file.name, f"{name} is no classifier with predict_proba: {how}")
    core = inside(model)
    booster = getattr(core, "booster_", None) if type(core).__module__.startswith("lightgbm") else None
    names: Sequence[str] | None = getattr(model, "feature_names_in_", None)
    if booster is not None:
        names = _real_names(booster.feature_name(), "Column_")
    return Foreign(
        name=name,
        model=model,
        proba=model.predict_proba,
        labels=tuple(np.asarray(model.classes_).tolist()),
        names=None if names is None else tuple(map(str, names)),
        n_features=int(getattr(model, "n_features_in_", 0)),
        categories=_categories_of(core, names),
        library={"scikit-learn of the model": str(facts["sklearn_version"])} if "sklearn_version" in facts else {},
        source=_source(uri, flavor, name, file.read_bytes()),
    )


def _categories_of(model: Any, names: Sequence[str] | None) -> tuple[str, ...]:
    """Columns that a booster with scikit-learn's interface takes with pandas' category dtype."""
    if type(model).__module__.startswith("lightgbm"):
        return _lightgbm_categories(model.booster_)
    if type(model).__module__.startswith("xgboost"):
        kinds = model.get_booster().feature_types or []
        return tuple(name for name, kind in zip(names or (), kinds, strict=False) if kind == "c")
    return ()


def _lightgbm_categories(booster: Any) -> tuple[str, ...]:
    if not booster.pandas_categorical:
        return ()
    names = booster.feature_name()
    start = "[categorical_feature: "
    line = next((x for x in booster.model_to_string().splitlines() if x.startswith(start)), start)
    return tuple(names[int(at)] for at in line[len(start) :].rstrip("]").split(",") if at)


def _real_names(names: Sequence[str] | None, start: str) -> tuple[str, ...] | None:
    """The names, or None where they only count the columns of a matrix."""
    if names is None or list(names) == [f"{start}{i}" for i in range(len(names))]:
        return None
    return tuple(names)


def _source(uri: str, flavor: str, model_class: str, raw: bytes) -> Source:
    return Source(uri=uri, flavor=flavor, model_class=model_class, model_sha256=hashlib.sha256(raw).hexdigest())


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]
