"""Takes up a promotion record that is newer than the rollout, once, when a server starts."""

from __future__ import annotations

import logging

from ml_core.errors import SuretyError
from ml_core.models.loader import ModelLoader
from ml_core.rollout import changes
from ml_core.rollout.store import RolloutStore
from ml_core.settings import Settings

__all__ = ["take_up_promotion"]

logger = logging.getLogger(__name__)


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
