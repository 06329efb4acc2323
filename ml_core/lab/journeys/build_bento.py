"""A bento around a project's promoted model, with the Python file of its features where it has one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import yaml

import ml_core
from ml_core.base.errors import ArtefactError
from ml_core.base.settings import Settings
from ml_core.lab.journeys.run_project import Project
from ml_core.serve.features.versions import MODULES_FOLDER, FeatureVersion
from ml_core.serve.model.loader import ModelLoader

__all__ = ["BuiltBento", "build_bento", "module_setting"]

BuiltBento = tuple[str, str, Path | None]
"""Tag of the bento, tag of its model, and the file of features that it holds."""

_SERVICE, _DESCRIPTION, _LOCK = "service.py", "bentofile.yaml", "requirements/serve.lock"
_TOLD_LINES = 3


def build_bento(project: Project, service: Literal["Surety", "SuretyIsolated"] = "Surety") -> BuiltBento:
    """Build a bento as ``bentofile.yaml`` describes it, from the installed package or from a checkout.

    Raises
    ------
    NotLoaded, NotGated
        No model of the project is promoted and imported, or it has no passed gate.
    ArtefactError
        Its feature module is not the one that it was trained with, or BentoML refuses to build.
    """
    loader = ModelLoader(project.settings)
    tag = loader.served_tag()
    features = loader.load(tag).predictor.bundle.features
    with tempfile.TemporaryDirectory(prefix="surety-bento-") as place:
        folder = Path(place)
        _lay_out(folder, service)
        if features.source is not None:
            _add_module(folder, features)
        bento = _built(folder, project.settings)
    return bento, tag, features.source


def module_setting(module: Path | None) -> dict[str, str]:
    """``SURETY_FEATURE_MODULES`` for a process that serves a model whose features are in that file."""
    if module is None:
        return {}
    known = os.environ.get("SURETY_FEATURE_MODULES", "")
    return {"SURETY_FEATURE_MODULES": os.pathsep.join(filter(None, (str(module.absolute()), known)))}


def _lay_out(folder: Path, service: str) -> None:
    """Copy what the description includes into an empty folder, and the description itself."""
    package = Path(ml_core.__file__).resolve().parent
    root, is_wheel = package.parent, find_spec("ml_core.service") is not None
    beside = package / "bento" if is_wheel else root
    described = yaml.safe_load((beside / _DESCRIPTION).read_bytes())
    described["service"] = f"service:{service}"
    (folder / _DESCRIPTION).write_text(yaml.safe_dump(described))
    moved = {_SERVICE: package / _SERVICE, _LOCK: beside / Path(_LOCK).name} if is_wheel else {}
    for pattern in described["include"]:
        found = [moved[pattern]] if pattern in moved else sorted(root.glob(pattern))
        for path in found:
            to = folder / (pattern if pattern in moved else path.relative_to(root))
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)


def _add_module(folder: Path, features: FeatureVersion) -> None:
    """The file of the features, under the name by which a worker looks for it."""
    to = folder / MODULES_FOLDER / f"{features.module_name}.py"
    to.parent.mkdir(exist_ok=True)
    shutil.copyfile(features.source or to, to)


def _built(folder: Path, settings: Settings) -> str:
    """The tag of a new bento of that folder."""
    environment = {
        **os.environ,
        "SURETY_HOME": str(settings.home.absolute()),
        "SURETY_MODEL_NAME": settings.model_name,
        "PYTHONPATH": "",  # the package is the one that lies in the folder
        "SURETY_FEATURE_MODULES": "",
        "BENTOML_DO_NOT_TRACK": "true",
    }
    build = [sys.executable, "-m", "bentoml", "build", "--output", "tag", "."]
    done = subprocess.run(build, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = " ".join(line.strip() for line in done.stderr.strip().splitlines()[-_TOLD_LINES:])
        raise ArtefactError(settings.model_name, f"bentoml build failed: {last[:500]}")
    return done.stdout.strip().rpartition("__tag__:")[2]
