"""Models in ``SURETY_HOME/models``: for services whose Bento store cannot be written, or is another one tomorrow."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from ml_core.base.files import locked
from ml_core.base.settings import Settings
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL, GATE_IN_BENTO_MODEL, PROMOTION_IN_BENTO_MODEL

__all__ = ["home_folder", "place"]


def home_folder(tag: str, settings: Settings) -> Path:
    """Where the model of that tag lies in the home, if it does."""
    name, _, version = tag.partition(":")
    return settings.models / name / version


def place(source: Path, tag: str, settings: Settings) -> Path:
    """Copy a model there, with its gate report and promotion record: whole or not at all. One of that tag is replaced.

    Parameters
    ----------
    source : folder of the model in a Bento store
    """
    target = home_folder(tag, settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(settings.home / "import.lock"), TemporaryDirectory(dir=settings.models, prefix=".placing-") as draft:
        made = Path(draft) / "model"
        shutil.copytree(source / BUNDLE_IN_BENTO_MODEL, made / BUNDLE_IN_BENTO_MODEL)
        for name in (GATE_IN_BENTO_MODEL, PROMOTION_IN_BENTO_MODEL):
            if (source / name).is_file():
                shutil.copy2(source / name, made / name)
        if target.exists():
            target.rename(Path(draft) / "old")
        made.rename(target)
    return target
