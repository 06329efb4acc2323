"""What a server does once at its start: keeps the model it came with, takes up a promotion, says what has no effect."""

from __future__ import annotations

import logging
import os
import shutil

from ml_core.base.errors import SuretyError
from ml_core.base.settings import Settings
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.model_home import home_folder, place
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_store import RolloutStore

__all__ = ["keep_bundled", "say_what_is_not_traced", "take_up_promotion"]

logger = logging.getLogger(__name__)


def keep_bundled(settings: Settings, loader: ModelLoader) -> None:
    """Copy the model that a bento came with to the home, so that a later bento can go back to it, restarts included.

    Nothing here keeps a server from starting.
    """
    try:
        bundled = loader.bundled()
        if bundled is not None and not home_folder(bundled[0], settings).exists():
            place(bundled[1], bundled[0], settings)
    except (SuretyError, OSError, shutil.Error) as error:
        logger.warning("model.not_kept", extra={"reason": str(error)})


def take_up_promotion(settings: Settings, loader: ModelLoader) -> None:
    """Make the promoted model the champion where its record is newer than the one the rollout knows.

    Workers that come later follow the rollout alone, so that all of one server answer with the same model. Nothing
    here keeps a server from starting: what cannot be taken up is said and left.
    """
    store = RolloutStore(settings)
    try:
        state, promoted = store.read(), loader.promoted()
        if settings.model or state is None or promoted is None or promoted[1] in ("", state.promotion_seen):
            return
        loader.check_gated(promoted[0])
        store.change(changes.promoted(*promoted), by="service", why="a newer promotion was found at start")
    except (SuretyError, OSError) as error:
        logger.warning("promotion.not_taken_up", extra={"reason": str(error)})


def say_what_is_not_traced() -> None:
    """Warn where variables ask for traces: the service sends none, and silence would look like a broken collector."""
    asked = sorted(name for name in os.environ if name.startswith("OTEL_") and name.endswith("_ENDPOINT"))
    if asked:
        logger.warning("traces.not_sent: %s has no effect, because this service sends no traces", ", ".join(asked))
