"""What the answers of live models lead to expect of their labels, day by day, from the log alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import numpy as np

from ml_core.base.errors import SuretyError
from ml_core.lab.measuring.expected_performance import (
    ExpectedPerformance,
    ProbabilityMap,
    ScoreSums,
    expected_performance,
    recalibration_of,
    score_sums,
)
from ml_core.lab.watching.configured_sets import configured_sets
from ml_core.lab.watching.ledger import Ledger
from ml_core.lab.watching.live_drift import reference_of
from ml_core.lab.watching.readable_log import ReadableLog
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import Cursor
from ml_core.serve.model.bundle import read_bundle
from ml_core.serve.model.loader import ModelLoader

if TYPE_CHECKING:
    from ml_core.lab.watching.health_monitor import MonitoredModel

__all__ = [
    "LATEST_ANSWERS",
    "ExpectationMonitor",
    "ExpectedStretch",
    "expected_between",
    "expected_lately",
]

logger = logging.getLogger(__name__)

LATEST_ANSWERS = 1_000
"""The latest whole days that hold so many answers of the model itself are what its figures are about."""

_CURSOR, _SUMS, _RECALIBRATION = "expected_cursor", "expected:", "recalibration:"
_AT_A_TIME = 20_000
_DAYS_KEPT = 800
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class ExpectedStretch:
    """What is expected of the answers of some days.

    Attributes
    ----------
    since, until : begin of the first UTC day with answers, and end of the last
    found : what their labels are expected to show
    """

    since: datetime
    until: datetime
    found: ExpectedPerformance


class ExpectationMonitor:
    """Reads new answers from the log, and keeps sums of their probabilities and sets by day in the ledger.

    A model's recalibration is made from its artefact when the model is first seen, and kept in the ledger as well.

    Parameters
    ----------
    loader : finds the artefacts of live models
    log : the prediction log
    """

    def __init__(self, loader: ModelLoader, log: ReadableLog) -> None:
        self._loader = loader
        self._log = log

    def look(self, ledger: Ledger, models: Sequence[MonitoredModel]) -> None:
        """Take in what was answered since the last look: answers of the models themselves, repeats left out.

        Raises
        ------
        LogDamaged
            The log cannot be read.
        """
        ready = {m.model_hash for m in models if self._is_recalibrated(ledger, m)}
        read_to: Cursor = dict(ledger.fact(_CURSOR, {}))
        for found, after in self._log.pages(read_to, _AT_A_TIME):
            read_to = after
            own = [a for a in found if a.is_the_models_own and a.lineage["model_hash"] in ready]
            alike: dict[tuple[str, str], list[LoggedAnswer]] = {}
            for answer in self._log.without_repeats(own):
                day = answer.at.astimezone(UTC).date().isoformat()
                alike.setdefault((answer.lineage["model_hash"], day), []).append(answer)
            for (model_hash, day), answers in alike.items():
                _add(ledger, model_hash, day, answers)
        ledger.remember(_CURSOR, read_to)
        for model_hash in ready:
            _forget_oldest(ledger, model_hash)

    def _is_recalibrated(self, ledger: Ledger, model: MonitoredModel) -> bool:
        """Whether the ledger has the model's recalibration, after making it where that was not tried before."""
        name = f"{_RECALIBRATION}{model.model_hash}"
        missing: object = "missing"
        kept = ledger.fact(name, missing)
        if kept is missing:
            try:
                made = self._recalibration(model)
            except SuretyError as error:
                logger.warning("model.not_expected", extra={"tag": model.tag, "reason": str(error)})
                return False
            kept = None if made is None else made.as_json()
            ledger.remember(name, kept)
        return kept is not None

    def _recalibration(self, model: MonitoredModel) -> ProbabilityMap | None:
        bundle = read_bundle(self._loader.artefact(model.tag), model.model_hash)
        classes = bundle.manifest.classes
        if len(classes) == 2:
            return recalibration_of(bundle.calibration)
        scores = reference_of(self._loader, model.tag).window.scores
        return recalibration_of(bundle.calibration, [scores[str(label)].points for label in classes])


def expected_between(
    ledger: Ledger, model_hash: str, starts: Sequence[datetime], length: timedelta
) -> list[ExpectedPerformance | None]:
    """What is expected of the answers of each stretch of whole UTC days, one for each start; None without answers.

    Nothing is expected of a model that no monitor has looked at, or whose calibration is ``marginal``: its scores do
    not tell which label a calibration row had.
    """
    recalibration = _recalibration_of(ledger, model_hash)
    if recalibration is None:
        return [None] * len(starts)
    days = list(_days(ledger, model_hash))
    found = ([sums for day, sums in days if start <= day < start + length] for start in starts)
    return [expected_performance(recalibration, _together(sums)) if sums else None for sums in found]


def expected_lately(
    ledger: Ledger, model_hash: str, since: datetime | None = None, least: int = LATEST_ANSWERS
) -> ExpectedStretch | None:
    """What is expected of the answers of the latest days that hold ``least`` answers; None without any.

    Parameters
    ----------
    since : take the answers of that UTC day and all later ones instead
    """
    recalibration = _recalibration_of(ledger, model_hash)
    if recalibration is None:
        return None
    first = last = None
    days: list[ScoreSums] = []
    for day, sums in _days(ledger, model_hash):
        if day + _DAY <= since if since is not None else sum(d.answers for d in days) >= least:
            break
        first, last = day, last or day
        days.append(sums)
    if first is None or last is None:
        return None
    return ExpectedStretch(first, last + _DAY, expected_performance(recalibration, _together(days)))


def _together(days: Sequence[ScoreSums]) -> ScoreSums:
    return reduce(add, days)


def _recalibration_of(ledger: Ledger, model_hash: str) -> ProbabilityMap | None:
    kept: Mapping[str, object] | None = ledger.fact(f"{_RECALIBRATION}{model_hash}")
    return None if kept is None else ProbabilityMap.from_json(kept)


def _days(ledger: Ledger, model_hash: str) -> Iterator[tuple[datetime, ScoreSums]]:
    """The days of a model with answers, the latest first."""
    start = f"{_SUMS}{model_hash}:"
    for name, kept in ledger.facts(start):
        yield datetime.fromisoformat(name.removeprefix(start)).replace(tzinfo=UTC), ScoreSums.from_json(kept)


def _add(ledger: Ledger, model_hash: str, day: str, answers: Sequence[LoggedAnswer]) -> None:
    recalibration = _recalibration_of(ledger, model_hash)
    known = [(a, held) for a, held in zip(answers, configured_sets(answers), strict=True) if held is not None]
    if recalibration is None or not known:
        return
    proba = np.array([answer.probabilities for answer, _ in known], dtype=np.float64)
    sets = np.array([held for _, held in known], dtype=np.bool_)
    name, sums = f"{_SUMS}{model_hash}:{day}", score_sums(recalibration, proba, sets)
    kept = ledger.fact(name)
    ledger.remember(name, (sums if kept is None else ScoreSums.from_json(kept) + sums).as_json())


def _forget_oldest(ledger: Ledger, model_hash: str) -> None:
    start = f"{_SUMS}{model_hash}:"
    newest = next(iter(ledger.facts(start)), None)
    if newest is not None:
        last = datetime.fromisoformat(newest[0].removeprefix(start))
        ledger.forget_facts(start, f"{start}{(last - _DAYS_KEPT * _DAY).date().isoformat()}")
