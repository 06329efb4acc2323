"""Which part of the data a patient belongs to: training, validation, calibration or test, for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from ml_core.lab.config import SplitConfig

__all__ = ["PARTS", "place_of", "split_of"]

PARTS = ("train", "validation", "calibration", "test")


def place_of(group: str | int, salt: str) -> float:
    """Where a group lies in [0, 1): the first 53 bits of sha256 over ``salt:group``.

    Depends on the group's name and the salt alone, so a patient stays where they are when rows, versions or models
    change. An integral number and its text are the same group.
    """
    digest = hashlib.sha256(f"{salt}:{group}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def split_of(groups: Sequence[str | int] | npt.NDArray[np.generic], split: SplitConfig) -> npt.NDArray[np.str_]:
    """The part of every row, by its group.

    Parameters
    ----------
    groups : shape (n,)
        Text or whole number naming the patient of each row.
    split : SplitConfig
        Salt and shares. A part's rows are those whose place lies in its stretch of [0, 1), in the order of ``PARTS``.

    Returns
    -------
    str array, shape (n,)
        Each one of ``PARTS``.
    """
    ids = np.asarray(groups)
    if ids.dtype.kind == "f":  # whole numbers in a column that once held a null; 7.0 is still patient 7
        ids = ids.astype(np.int64)
    names, inverse = np.unique(ids, return_inverse=True)
    places = np.array([place_of(name, split.salt) for name in names.tolist()])
    ends = np.array(list(accumulate((split.train, split.validation, split.calibration))))
    parts: npt.NDArray[np.str_] = np.array(PARTS)[np.searchsorted(ends, places, side="right")]
    return parts[inverse.reshape(-1)]
