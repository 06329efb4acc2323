"""Writes a packed model into MLflow: run, parameters, metrics, plots, data set, code, and a registered version."""

from __future__ import annotations

import ast
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import numpy as np

import ml_core
from ml_core.lab.config import ModelConfig
from ml_core.lab.registry.input_signature import input_example, mlflow_signature
from ml_core.lab.registry.mlflow_names import in_batches
from ml_core.lab.registry.model_card import card_record, keep_card
from ml_core.lab.registry.model_registry import CHALLENGER, ModelRegistry, RegisteredVersion
from ml_core.lab.registry.wandb_mirror import MirroredModel, mirror_model
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.packing import PackedModel
from ml_core.serve.features.versions import MODULES_FOLDER

__all__ = ["code_state", "register", "travelling_code"]

_PACKAGE = Path(ml_core.__file__).parent
_PYFUNC = Path(__file__).with_name("mlflow_pyfunc.py")
MIRROR_TAG = "wandb_run"
"""Tag of a version that is copied to W&B: ``project/run_id`` there."""
_NEEDED_BY_PYFUNC = ("mlflow", "numpy", "onnxruntime", "orjson", "pandas", "pydantic")


def register(
    registry: ModelRegistry, model: PackedModel, config: ModelConfig, rows: LabelledRows, tags: Mapping[str, str]
) -> tuple[RegisteredVersion, bool]:
    """The model as a registered version with the alias ``challenger``, and whether the version is new.

    The very same model is registered once: a second training of it finds the version it made before. Its card is
    written in either case, so that it has the configuration's newest words, and is there even if a run was killed.

    Parameters
    ----------
    tags : further tags of run and version

    Raises
    ------
    RegistryError
        MLflow or the configured mirror does not take it. After the latter the version is there, and the same call again
        writes the copy.
    """
    known = _known(registry, config.model, model.model_hash)
    version = known or _log(registry, model, config, rows, {**_tags(model, config, rows), **code_state(), **tags})
    registry.set_alias(version, CHALLENGER)
    if config.tracking.mirror is not None and MIRROR_TAG not in version.tags:
        registry.set_tags(
            version, {MIRROR_TAG: mirror_model(config.tracking, registry.home, _copy(model, config, version))}
        )
    record = card_record(model, config.card, rows, _code_in_words(version.tags))
    keep_card(registry, version, model.folder, record=record)
    return registry.by_version(version.name, version.version), known is None


def _copy(model: PackedModel, config: ModelConfig, version: RegisteredVersion) -> MirroredModel:
    """What a mirror gets of a registered version."""
    return MirroredModel(
        name=version.name,
        version=version.version,
        run_id=version.run_id,
        folder=model.folder,
        params=_params(model, config),
        metrics=model.evaluation.metrics,
        tags=version.tags,
        figures=lambda: _figures_of(model),
    )


def code_state() -> dict[str, str]:
    """Commit of this code and whether it was changed since; empty where git does not keep this code."""
    commands = {
        "kept": ["git", "ls-files", "--error-unmatch", str(_PACKAGE / "__init__.py")],  # not so in somebody's .venv
        "commit": ["git", "rev-parse", "HEAD"],
        "status": ["git", "status", "--porcelain"],
    }
    found = {}
    for name, command in commands.items():
        try:
            done = subprocess.run(command, cwd=_PACKAGE.parent, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return {}
        if done.returncode:
            return {}
        found[name] = done.stdout.strip()
    return {"code_commit": found["commit"], "code_dirty": "true" if found["status"] else "false"}


def _code_in_words(tags: Mapping[str, str]) -> str:
    commit = tags.get("code_commit", "")
    return f"{commit}, changed since" if commit and tags.get("code_dirty") == "true" else commit


def travelling_code(target: Path) -> Path:
    """Copy of the modules the pyfunc needs, as a package ``ml_core`` in that folder, and its path.

    Follows the imports of the pyfunc file, so that nothing of training, monitoring or serving travels.
    """
    root = target / _PACKAGE.name
    waiting = [
        *_imports(_PYFUNC),
        *(f"ml_core.serve.features.{p.stem}" for p in (_PACKAGE / "serve" / "features").glob("v[0-9]*.py")),
    ]
    done: set[Path] = set()
    while waiting:
        name = waiting.pop()
        for source in _files_of(name):
            if source in done:
                continue
            done.add(source)
            copy = root / source.relative_to(_PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            waiting += _imports(source)
    return root


def _known(registry: ModelRegistry, name: str, model_hash: str) -> RegisteredVersion | None:
    if name not in registry.names():
        return None
    return next((v for v in registry.versions(name) if v.model_hash == model_hash), None)


def _tags(model: PackedModel, config: ModelConfig, rows: LabelledRows) -> dict[str, str]:
    manifest = model.bundle.manifest
    return {
        "model_hash": model.model_hash,
        "feature_version": manifest.feature_version,
        "calibration_id": manifest.calibration_id,
        "confidence_level": str(manifest.confidence_level),
        "guarantee": manifest.guarantee,
        "data": rows.origin,
        "delta_table": rows.table,
        "delta_version": str(rows.table_version),
        "seed": str(config.seed),
    }


def _log(
    registry: ModelRegistry, model: PackedModel, config: ModelConfig, rows: LabelledRows, tags: Mapping[str, str]
) -> RegisteredVersion:
    experiment = registry.experiment(config.model)
    with (
        tempfile.TemporaryDirectory(prefix="surety-log-") as place,
        registry.session(f"run of {config.model}") as mlflow,
    ):
        with mlflow.start_run(experiment_id=experiment, tags=dict(tags)) as run:
            for part in in_batches(_params(model, config)):
                mlflow.log_params(part)
            for figure, name in _figures_of(model):
                mlflow.log_figure(figure, f"plots/{name}.png")
                figure.clear()
            data = _log_dataset(mlflow, rows)
            logged = _log_pyfunc(mlflow, model, Path(place))
            for some in in_batches(model.evaluation.metrics):
                mlflow.log_metrics(some, model_id=logged.model_id, dataset=data)
        version = mlflow.register_model(logged.model_uri, config.model, tags={**tags, "run_id": run.info.run_id})
    return registry.by_version(config.model, str(version.version))


def _params(model: PackedModel, config: ModelConfig) -> dict[str, Any]:
    training = model.bundle.manifest.training
    return {
        **training.params,
        "feature_version": config.feature_version,
        "guarantee": config.conformal.guarantee,
        "confidence_level": str(config.conformal.confidence_level),
        "split_salt": training.split_salt,
        **{f"split_{part}": share for part, share in training.split_shares.items()},
        **{f"rows_{part}": n for part, n in training.rows.items()},
        "early_stopping_rounds": config.training.early_stopping_rounds,
    }


def _log_dataset(mlflow: Any, rows: LabelledRows) -> Any:
    """Name, digest and schema of the rows; no row."""
    names = [c.name for c in rows.features.columns if c.role in ("feature", "label")]
    label = next(c.name for c in rows.features.columns if c.role == "label")
    data = mlflow.data.from_pandas(rows.frame[names], source=rows.origin, name=rows.origin, targets=label)
    mlflow.log_input(data, context="training")
    return data


def _log_pyfunc(mlflow: Any, model: PackedModel, place: Path) -> Any:
    folder = place / "bundle"  # its name is part of the path the loader reads
    shutil.copytree(model.folder, folder)
    return mlflow.pyfunc.log_model(
        name="model",
        python_model=str(_PYFUNC),
        artifacts={"bundle": str(folder)},
        code_paths=[
            str(path) for path in (travelling_code(place / "code"), _own_module(model, place / "code")) if path
        ],
        signature=mlflow_signature(model.bundle),
        input_example=input_example(model.bundle),
        pip_requirements=[f"{name}=={installed_version(name)}" for name in _NEEDED_BY_PYFUNC],
        metadata={"model_hash": model.model_hash},
    )


def _own_module(model: PackedModel, target: Path) -> Path | None:
    """The folder of the model's feature module, looked for under its name; None where it is a part of this package."""
    features = model.bundle.features
    if features.source is None:
        return None
    folder = target / MODULES_FOLDER
    folder.mkdir()
    shutil.copyfile(features.source, folder / f"{features.module_name}.py")
    return folder


def _files_of(name: str) -> list[Path]:
    """The module's file and the ``__init__`` of every package above it."""
    parts = name.split(".")[1:]
    files = [_PACKAGE.joinpath(*parts[:depth], "__init__.py") for depth in range(len(parts) + 1)]
    files.append(_PACKAGE.joinpath(*parts).with_suffix(".py") if parts else files[0])
    return [file for file in files if file.is_file()]


def _imports(source: Path) -> list[str]:
    """Modules of this project that a file imports."""
    names = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == _PACKAGE.name]


# --- plots of the evaluation ----------------------------------------------------------------------------------------


def _figures_of(model: PackedModel) -> Iterator[tuple[Any, str]]:
    """Each matplotlib figure with its name; the caller clears it."""
    yield _calibration_curve(model), "calibration_curve"
    yield _roc(model), "roc"
    yield _set_sizes(model), "set_sizes"
    yield _coverage(model), "coverage"


def _figure(title: str, x: str, y: str) -> tuple[Any, Any]:
    """A figure outside pyplot's global state, so that no display is looked for."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _calibration_curve(model: PackedModel) -> Any:
    figure, axes = _figure("Calibration, test rows", "predicted probability", "observed share")
    curves = model.evaluation.calibration_curve
    top = max((max(p.predicted, p.observed) for points in curves.values() for p in points), default=1.0)
    axes.plot([0, top], [0, top], color="0.7", linewidth=1)
    for label, points in curves.items():
        axes.plot([p.predicted for p in points], [p.observed for p in points], marker="o", label=f"class {label}")
    axes.legend()
    return figure


def _roc(model: PackedModel) -> Any:
    figure, axes = _figure("ROC, test rows", "false positive rate", "true positive rate")
    classes = model.bundle.manifest.classes
    for k in range(1, 2) if len(classes) == 2 else range(len(classes)):
        happened = model.test_y_index == k
        order = np.argsort(-model.test_proba[:, k], kind="stable")
        hits, misses = np.cumsum(happened[order]), np.cumsum(~happened[order])
        axes.plot(misses / max(misses[-1], 1), hits / max(hits[-1], 1), label=f"class {classes[k]}")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.legend()
    return figure


def _set_sizes(model: PackedModel) -> Any:
    figure, axes = _figure("Prediction sets, test rows", "labels in the set", "share of rows")
    manifest = model.bundle.manifest
    sizes = model.test_sets.sum(axis=1)
    for k, label in enumerate(manifest.classes):
        of_class = sizes[model.test_y_index == k]
        shares = np.bincount(of_class, minlength=len(manifest.classes) + 1) / max(of_class.size, 1)
        axes.bar(
            np.arange(shares.size) + 0.8 * k / len(manifest.classes),
            shares,
            0.8 / len(manifest.classes),
            label=f"class {label}",
        )
    axes.set_xticks(range(len(manifest.classes) + 1))
    axes.legend()
    return figure


def _coverage(model: PackedModel) -> Any:
    figure, axes = _figure("Coverage, test rows", "", "share of rows whose set holds their label")
    manifest, metrics = model.bundle.manifest, model.evaluation.metrics
    names = ["coverage", *(f"coverage_class_{label}" for label in manifest.classes)]
    axes.bar(["all", *(f"class {label}" for label in manifest.classes)], [metrics.get(name, 0.0) for name in names])
    axes.axhline(float(manifest.confidence_level), color="0.3", linewidth=1)
    axes.set_ylim(0, 1)
    return figure
