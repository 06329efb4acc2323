"""The sets of stored answers at the level that their model is configured to, whatever level a caller asked for."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from ml_core.base.arrays import BoolArray
from ml_core.base.errors import DataError
from ml_core.lab.measuring.live_coverage import sets_of
from ml_core.lab.watching.alarms import confidence_of
from ml_core.serve.log.logged_answers import LoggedAnswer

__all__ = ["configured_sets"]


def configured_sets(answers: Sequence[LoggedAnswer]) -> list[BoolArray | None]:
    """Each answer's set, shape (K,); None where its calibration cannot tell.

    That is so of the prior, which answers with all labels and has no calibration, and of an answer whose p-values are
    not those of the calibration it names.
    """
    found: list[BoolArray | None] = [None] * len(answers)
    alike: dict[tuple[Any, ...], list[int]] = {}
    for n, answer in enumerate(answers):
        facts = answer.lineage
        if facts["slot"] != "prior":
            key = (facts["model_hash"], facts["calibration_id"], facts["level"], *facts["calibration_sizes"])
            alike.setdefault(key, []).append(n)
    for places in alike.values():
        for n, one in zip(places, _of_one_calibration([answers[n] for n in places]), strict=True):
            found[n] = one
    return found


def _of_one_calibration(answers: Sequence[LoggedAnswer]) -> list[BoolArray | None]:
    facts = answers[0].lineage
    promised = (facts["calibration_sizes"], Decimal(facts["level"]), confidence_of(facts), facts["guarantee"])
    try:
        return list(sets_of([answer.p_values for answer in answers], *promised))
    except (DataError, ValueError):  # one is of another calibration, or of other classes
        return [None] if len(answers) == 1 else [one for a in answers for one in _of_one_calibration([a])]
