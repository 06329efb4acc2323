"""Names of hyper-parameters that a learner does not know, told with the nearest one that it does."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ml_core.base.errors import ConfigError
from ml_core.base.near_names import meant

__all__ = ["PARAMS", "check_names", "check_open", "recorded", "refused_by"]

PARAMS = "training.params"


def check_names(given: Iterable[str], known: Collection[str], learner: str) -> None:
    """Refuse a parameter whose name is none of those known.

    Raises
    ------
    ConfigError
        With the nearest known name.
    """
    for name in given:
        if name not in known:
            raise ConfigError(f"{PARAMS}.{name}", f"is no hyper-parameter of {learner}; {meant(name, known)}")


def check_open(given: Iterable[str], ours: Collection[str]) -> None:
    """Refuse a parameter that is not open to choice.

    Raises
    ------
    ConfigError
        It decides the guarantee or the reproducibility.
    """
    for name in given:
        if name in ours:
            raise ConfigError(f"{PARAMS}.{name}", "is set by surety and cannot be configured")


def refused_by(error: BaseException) -> ConfigError:
    """What a learner says of a value it does not take, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ConfigError(PARAMS, lines[-1][:300] if lines else type(error).__name__)


def recorded(params: Mapping[str, Any]) -> dict[str, float | int | str]:
    """Parameters as a manifest holds them: numbers and texts as they are, all others as their JSON."""
    return {
        name: value if isinstance(value, int | float | str) and not isinstance(value, bool) else json.dumps(value)
        for name, value in params.items()
    }
