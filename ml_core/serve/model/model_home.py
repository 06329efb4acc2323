"""Models in ``SURETY_HOME/models``: for services whose Bento store cannot be written, or is another one tomorrow."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from ml_core.base.files import locked, read_plain_file
from ml_core.base.settings import Settings
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL
from ml_core.serve.model.vouching import GATE_IN_BENTO_MODEL, PROMOTION_IN_BENTO_MODEL
from ml_core.serve.trust.statements import MAX_BYTES

__all__ = ["home_folder", "place"]


def home_folder(tag: str, settings: Settings) -> Path:
    """Where the model of that tag lies in the home, if it does."""
    name, _, version = tag.partition(":")
    return settings.models / name / version


def place(source: Path, tag: str, settings: Settings) -> Path:
    """Copy a model there, with its gate report and promotion record: whole or not at all. One of that tag is replaced.

    Only the files that its manifest lists are copied, as they were verified.

    Parameters
    ----------
    source : folder of the model in a Bento store

    Raises
    ------
    ArtefactError
        The folder cannot be trusted.
    """
    from ml_core.serve.model.bundle import copy_verified  # with numpy, which whoever only asks for the folder can spare

    target = home_folder(tag, settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(settings.home / "import.lock"), TemporaryDirectory(dir=settings.models, prefix=".placing-") as draft:
        made = Path(draft) / "model"
        copy_verified(source / BUNDLE_IN_BENTO_MODEL, made / BUNDLE_IN_BENTO_MODEL)
        for paper in (GATE_IN_BENTO_MODEL, PROMOTION_IN_BENTO_MODEL):
            if (source / paper).is_file():
                (made / paper).write_bytes(read_plain_file(source / paper, MAX_BYTES))
        if target.exists():
            target.rename(Path(draft) / "old")
        made.rename(target)
    return target
