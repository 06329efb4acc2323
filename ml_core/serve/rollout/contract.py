"""What two models must have in common to stand beside each other before the same callers."""

from __future__ import annotations

from ml_core.base.errors import RolloutRefused
from ml_core.serve.model.manifest import Manifest

__all__ = ["check_same_contract"]


def check_same_contract(tag: str, model: Manifest, champion: Manifest) -> None:
    """Raise where the model of that tag could not take the champion's requests, or would answer in other labels.

    Raises
    ------
    RolloutRefused
        Other raw columns or other classes: it must be served by itself.
    """
    if model.column_table_sha256 != champion.column_table_sha256:
        raise RolloutRefused(tag, "needs other raw columns than the champion: serve it by itself")
    if model.classes != champion.classes:
        raise RolloutRefused(tag, "answers in other labels than the champion: serve it by itself")
