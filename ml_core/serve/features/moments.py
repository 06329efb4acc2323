"""Moments as transforms take them: float64 microseconds since 1970 in UTC, NaN where missing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import BoolArray
from ml_core.base.clock import FIRST_YEAR, LAST_YEAR, microseconds
from ml_core.serve.features.column_rules import as_moment

__all__ = ["moment_number", "moment_numbers"]

_FIRST_US, _END_US = (microseconds(datetime(year, 1, 1, tzinfo=UTC)) for year in (FIRST_YEAR, LAST_YEAR + 1))


def moment_number(value: object) -> float:
    """A moment that was accepted, as a number; NaN for None."""
    moment = as_moment(value)
    return np.nan if moment is None else float(microseconds(moment))


def moment_numbers(
    values: npt.NDArray[Any], missing: BoolArray | None
) -> tuple[npt.NDArray[np.float64], BoolArray, BoolArray]:
    """The numbers of n moments, which are missing, and which of the others lie beyond the years that are accepted.

    Parameters
    ----------
    values : datetime64, shape (n,)
    missing : shape (n,); without it those that numpy calls no time
    """
    ticks = values.astype("datetime64[us]")
    gone = np.isnat(ticks) if missing is None else missing
    exact = ticks.view(np.int64)
    outside = ~gone & ((exact < _FIRST_US) | (exact >= _END_US))
    return np.where(gone, np.nan, exact.astype(np.float64)), gone, outside
