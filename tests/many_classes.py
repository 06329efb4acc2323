"""A synthetic table of several classes whose labels are awkward texts, and its feature version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ml_core.features.columns import Column

AWKWARD = ("<30", "3+", "0%", 'yes, "once" / \N{LATIN SMALL LETTER A WITH DIAERESIS}|b <b>')
"""Labels that some format has a meaning of its own for."""

_FEATURES = ("width", "height", "depth")


def columns(labels: Sequence[str] = AWKWARD) -> tuple[Column, ...]:
    """Three numbers, of which two may be missing, a group and a label."""
    return (
        Column("part_id", "text", "Identifies the part.", role="group", pattern=r"p[0-9]+"),
        *(Column(n, "float", f"Its {n}.", low=-50, high=50, nullable=n != "width") for n in _FEATURES),
        Column("kind", "category", "What it is.", role="label", levels=tuple(labels)),
    )


def table(n: int, seed: int, labels: Sequence[str] = AWKWARD) -> pd.DataFrame:
    """Rows whose classes are normal laws around points of a circle; some values are missing."""
    rng = np.random.default_rng(seed)
    k = rng.integers(0, len(labels), n)
    angle = 2 * np.pi * k / len(labels)
    frame = pd.DataFrame({
        "part_id": [f"p{seed}{i:06d}" for i in range(n)],
        "width": 2.0 * np.cos(angle) + rng.normal(size=n),
        "height": 2.0 * np.sin(angle) + rng.normal(size=n),
        "depth": rng.normal(size=n),
        "kind": [labels[i] for i in k],
    })  # fmt: skip
    frame.loc[rng.random(n) < 0.05, "depth"] = np.nan
    frame.loc[rng.random(n) < 0.02, "height"] = np.nan
    return frame


def configuration(**changes: Any) -> dict[str, Any]:
    """What is written into the YAML of its model; trains in a second."""
    return {
        "model": "toy_risk",
        "feature_version": "v901",
        "seed": 7,
        "data": {"source": "rows.csv"},
        "training": {"rounds": 40, "early_stopping_rounds": 10, "params": {"learning_rate": 0.2}},
        "gate": {"min_roc_auc": 0.8, "min_brier_skill": 0.2},
        "labels": {"horizon_days": 0},
        **changes,
    }
