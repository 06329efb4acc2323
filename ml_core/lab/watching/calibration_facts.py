"""What the sets of a calibration promise, kept in the ledger when its first answer matures."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ml_core.lab.measuring.coverage_law import DesignEffects
from ml_core.lab.measuring.live_coverage import Promise
from ml_core.lab.watching.ledger import Ledger

__all__ = ["keep_promise", "promise_of"]


def keep_promise(ledger: Ledger, facts: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Keep what the answers of a lineage promise.

    Parameters
    ----------
    facts : of the lineage
    metrics : of the model's manifest; without the design effects of its calibration every row counts as its own patient
    """
    effects = [metrics.get(f"calibration_effect_class_{label}") for label in facts["classes"]]
    ledger.remember(
        _name(facts["model_hash"], facts["calibration_id"]),
        {
            "classes": facts["classes"],
            "sizes": facts["calibration_sizes"],
            "level": facts["level"],
            "guarantee": facts["guarantee"],
            "marginal_effect": metrics.get("calibration_effect"),
            "effects": None if None in effects else effects,
        },
    )


def promise_of(ledger: Ledger, model_hash: str, calibration_id: str) -> Promise | None:
    """What a model promises by a calibration; None where no answer of it has matured."""
    kept = ledger.fact(_name(model_hash, calibration_id))
    if kept is None:
        return None
    effects = None
    if kept["effects"] is not None and kept["marginal_effect"] is not None:
        effects = DesignEffects(kept["marginal_effect"], tuple(kept["effects"]))
    return Promise(
        classes=tuple(kept["classes"]),
        sizes=tuple(kept["sizes"]),
        level=Decimal(kept["level"]),
        guarantee=kept["guarantee"],
        effects=effects,
    )


def _name(model_hash: str, calibration_id: str) -> str:
    return f"promise:{model_hash}:{calibration_id}"
