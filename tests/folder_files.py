"""Where a home that is a folder keeps its small state: for tests that damage it, or look at its files."""

from __future__ import annotations

from pathlib import Path

from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.stores import Heartbeats

__all__ = ["heartbeats", "rollout_file"]


def rollout_file(settings: Settings, model_name: str = "") -> Path:
    """The file of the rollout state."""
    return settings.rollouts / f"{model_name or settings.model_name}.json"


def heartbeats(settings: Settings) -> Heartbeats:
    """The reports of the processes that serve the configured model."""
    return open_home(settings).heartbeats(settings.model_name)
