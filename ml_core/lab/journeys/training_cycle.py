"""One turn of continuous training: look for drift, train again where that is advised, judge what was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ml_core.base.errors import CannotJudge
from ml_core.base.settings import Settings
from ml_core.lab.config import ModelConfig
from ml_core.lab.drift.drift_check import DriftCheck, check_table
from ml_core.lab.journeys.retrain import Retrained, as_row, retrain
from ml_core.lab.watching.live_drift import live_window

__all__ = ["Cycle", "Outcome", "run_cycle"]

Outcome = Literal["not advised", "held back", "passed", "refused"]


@dataclass(frozen=True, slots=True)
class Cycle:
    """What a turn came to.

    Attributes
    ----------
    drift : the look at the newest answers; None where training was forced
    retrained : decision, model and gate
    """

    drift: DriftCheck | None
    retrained: Retrained

    @property
    def outcome(self) -> Outcome:
        """``not advised`` and ``held back`` (advised, but cool-down or labels speak against it) trained nothing."""
        decision, gate = self.retrained.decision, self.retrained.gate
        if not decision.go:
            return "held back" if decision.reasons else "not advised"
        return "passed" if gate is not None and gate.passed else "refused"

    def as_row(self) -> dict[str, Any]:
        """The turn as JSON values."""
        drift = self.drift
        looked = {} if drift is None else {
            "rows": drift.rows_current,
            "features_tested": drift.features_tested,
            "features_drifted": drift.features_drifted,
        }  # fmt: skip
        return {"outcome": self.outcome, "drift": looked or None, **as_row(self.retrained)}


def run_cycle(config: ModelConfig, settings: Settings, note: Callable[[str], None], *, force: bool = False) -> Cycle:
    """Train again where drift or an alarm advises it, and judge the model; unlike a person, it never guesses.

    ``retrain`` by itself takes answers that cannot be looked at for answers that have not drifted. A schedule that did
    so would be silent for ever about a log that is not there, so here that is an error.

    Parameters
    ----------
    force : train whatever the answers look like, and whatever speaks against it

    Raises
    ------
    DataError
        Nothing is live, its log has no inputs, or there are no rows to train on.
    CannotJudge
        The newest answers are too few to say anything about any feature.
    RetrainBusy, RegistryError, ArtefactError, LogDamaged
        A step failed; the next turn begins where it left off.
    """
    drift = None if force else _look(config, settings)
    return Cycle(drift, retrain(config, settings, note, if_drift=not force, force=force))


def _look(config: ModelConfig, settings: Settings) -> DriftCheck:
    live = live_window(settings, config.retrain.live_rows)
    found = check_table(live.reference.window, live.inputs, config.drift)
    if not found.features_tested:
        raise CannotJudge("drift", f"{live.rows} answers of {live.reference.tag} test no feature; 30 values are needed")
    return found
