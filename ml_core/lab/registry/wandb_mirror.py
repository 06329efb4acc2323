"""A copy of every registered model in Weights & Biases: run, parameters, metrics, plots and artefact.

Nothing is read back from there: MLflow stays the registry. Offline, which is the default, all of it is written below
``SURETY_HOME/wandb``, and ``wandb sync`` sends it when its user wants to.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ml_core.base.errors import ConfigError, RegistryError
from ml_core.lab.config import TrackingConfig

__all__ = ["MirroredModel", "check_mirror", "mirror_model"]

EXTRA = "surety-bundle[wandb]"
_LIBRARY_DEFAULTS = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
_PLACES = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
"""What W&B keeps beside a run, such as staged files of artefacts; in its user's own folders unless told otherwise."""


@dataclass(frozen=True)
class MirroredModel:
    """What is written of one registered version.

    Attributes
    ----------
    name, version, run_id : as MLflow names them; the run in W&B has the same id
    folder : the artefact
    params, metrics, tags : as in MLflow, names as they are
    figures : each matplotlib figure with its name; made when they are asked for
    """

    name: str
    version: str
    run_id: str
    folder: Path
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    figures: Callable[[], Iterator[tuple[Any, str]]]


def check_mirror(config: TrackingConfig) -> None:
    """Refuse a mirror whose library is not installed, before an hour of training.

    Raises
    ------
    ConfigError
        It is not.
    """
    if config.mirror is not None:
        _library()


def mirror_model(config: TrackingConfig, home: Path, model: MirroredModel) -> str:
    """Write a registered version to W&B; ``project/run_id`` of it there.

    Parameters
    ----------
    home : ``SURETY_HOME``; runs are written below ``wandb`` in it

    Raises
    ------
    ConfigError
        The library is not installed.
    RegistryError
        W&B does not take it.
    """
    place = home.absolute() / "wandb"
    place.mkdir(parents=True, exist_ok=True)
    for name in _PLACES:
        os.environ.setdefault(name, str(place / "files"))
    wandb = _library()
    project = config.project or model.name
    try:
        with (
            tempfile.TemporaryDirectory(prefix="surety-wandb-") as drawn,
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
            _run(wandb, config, project, place, model) as run,
        ):
            _write(wandb, run, model, Path(drawn))
    except Exception as error:  # W&B raises errors of its own and of whatever it is made of
        problem = f"does not take {model.name} version {model.version} ({type(error).__name__}: {_line(error)}): "
        problem += "the version is registered in MLflow; the same command again tries to copy it again"
        raise RegistryError("W&B", problem) from error
    return f"{project}/{model.run_id}"


def _run(wandb: Any, config: TrackingConfig, project: str, place: Path, model: MirroredModel) -> Any:
    quiet = wandb.Settings(
        silent=True, console="off", disable_git=True, disable_code=True, host="surety", x_disable_stats=True,
        x_disable_meta=True, x_disable_machine_info=True,
    )  # fmt: skip
    return wandb.init(
        project=project,
        entity=config.entity or None,
        id=model.run_id,
        name=f"{model.name} v{model.version}",
        dir=str(place),
        mode=config.mode,
        config={**model.params, **model.tags},
        job_type="train",
        settings=quiet,
    )


def _write(wandb: Any, run: Any, model: MirroredModel, drawn: Path) -> None:
    plots = {}
    for figure, name in model.figures():
        figure.savefig(drawn / f"{name}.png")
        figure.clear()
        plots[f"plots/{name}"] = wandb.Image(str(drawn / f"{name}.png"))
    run.log(plots)
    run.summary.update(dict(model.metrics))
    folder = drawn / "bundle"
    shutil.copytree(model.folder, folder)
    artifact = wandb.Artifact(model.name, type="model", metadata={"version": model.version, **model.tags})
    artifact.add_dir(str(folder))
    run.log_artifact(artifact, aliases=[f"v{model.version}"])


def _library() -> Any:
    for name, value in _LIBRARY_DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError("tracking.mirror", f"wandb is not installed: pip install '{EXTRA}'") from error


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:200]
