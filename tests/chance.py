"""The same keys, salts and ids in every run: no test may pass or fail by a key that nobody saw.

What a test or a fixture draws hangs on its own name alone, so it is the same alone and among others. Other names, keys
and salts come from ``--chance N``. A process that a test starts or forks draws its own.
"""

from __future__ import annotations

import os
import random

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
