"""Windows of rows for tests: each as plain as can be, and each odd in exactly one way."""

from __future__ import annotations

import io
import pickle

import numpy as np

from ml_core.features.columns import Column
from ml_core.lab.drift.current_stream import SeenRows, near_medians
from ml_core.lab.training.training_reference import reference_bytes

COLUMNS = (
    Column("age", "int", "Age.", low=0, high=120),
    Column("glucose", "float", "Glucose.", low=0, high=1_000, nullable=True),
    Column("dose", "category", "Dose.", levels=("No", "Steady", "Up", "Down"), nullable=True),
    Column("code", "text", "Code.", pattern=".*", nullable=True, examples=("428",)),
)
DOSES = (0.4, 0.3, 0.2, 0.1)
CODES = ("428", "250", "414", "486")


def arrays(n: int, seed: int = 0) -> dict:
    """n rows of ``COLUMNS`` as every transform takes them."""
    rng = np.random.default_rng(seed)
    glucose = rng.normal(120, 30, n)
    glucose[rng.random(n) < 0.1] = np.nan
    return {
        "age": np.round(rng.normal(60, 12, n)),
        "glucose": glucose,
        "dose": rng.choice(len(DOSES), p=DOSES, size=n),
        "code": rng.choice(np.array(CODES, dtype=object), p=DOSES, size=n),
    }


def published(n: int, seed: int = 0, scores: int = 2_000) -> bytes:
    """``reference.npz`` of n rows, one patient each."""
    rng = np.random.default_rng(seed + 1)
    probability = rng.beta(2, 8, scores)
    proba = np.column_stack([1 - probability, probability])
    return reference_bytes(COLUMNS, arrays(n, seed), np.arange(n), proba, np.arange(scores), (0, 1))


def content(raw: bytes) -> dict:
    """The arrays of an ``.npz``."""
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def summarised_stream(window, pieces, *, extended):
    """The summary of all rows, each piece of which another process has looked at."""
    seen = SeenRows(window, extended=extended)
    for rows in pieces():
        one = SeenRows(window, extended=extended)
        one.add(rows)
        seen.include(pickle.loads(pickle.dumps(one)))
    wanted = seen.medians_wanted()
    for number, rows in enumerate(pieces() if wanted else ()):
        seen.keep(near_medians(window, wanted, [rows], number))
    return seen.summary()
