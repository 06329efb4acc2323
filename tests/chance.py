"""The same keys, salts and ids in every run: no test may pass or fail by a key that nobody saw.

What a test or a fixture draws hangs on its own name alone, so it is the same alone and among others. Other names, keys
and salts come from ``--chance N``. A process that a test starts or forks draws its own.

Statistical tests name their seeds. ``--chance N`` gives them other numbers for the same seeds (:func:`other_seeds`), so
that a limit that holds for the seeds of the file alone is found out.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import numpy as np

USUAL = "0"
"""The ``--chance`` of every run."""
SEED = random.Random()
"""What ``os.urandom`` gives here."""
_OF_THE_SYSTEM = os.urandom


def fix() -> None:
    """From now on ``os.urandom``, and with it ``secrets`` and ``uuid4``, draw from ``SEED``."""
    os.urandom = SEED.randbytes
    random._urandom = SEED.randbytes  # type: ignore[attr-defined]  # what `secrets` draws from
    os.register_at_fork(after_in_child=give_back)


def give_back() -> None:
    """Chance as it was. A child that drew what its parent draws would make the same ids."""
    os.urandom = random._urandom = _OF_THE_SYSTEM  # type: ignore[attr-defined]


def begin(chance: str, name: str) -> None:
    """Start anew from that name.

    Parameters
    ----------
    chance : of ``--chance``
    name : of a test, or of a fixture and whom it is for
    """
    SEED.seed(f"{chance} {name}")
    random.seed(f"{chance} {name}")  # the rollout draws from the module's own


@contextmanager
def other_seeds(chance: str) -> Iterator[None]:
    """Meanwhile ``numpy.random.default_rng`` makes other numbers of a seed; with ``"0"`` those that it always makes."""
    usual = np.random.default_rng

    def drawn(seed: Any = None) -> np.random.Generator:
        if isinstance(seed, int | np.integer):
            return usual([int(seed), crc32(chance.encode())])
        return usual(seed)

    if chance != USUAL:
        np.random.default_rng = drawn
    try:
        yield
    finally:
        np.random.default_rng = usual
