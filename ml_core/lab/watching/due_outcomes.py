"""Due answers and their outcomes: counting them from the log, and saying what missing outcomes leave open of coverage.

An answer is due once its label horizon has passed. It is counted then, once: retries of a ``client_request_id`` are one
answer, and erased ones are none. An outcome that comes later moves its answer from the missing to the returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ml_core.base.arrays import Label
from ml_core.base.clock import microseconds
from ml_core.base.settings import Settings
from ml_core.lab.measuring.returned_outcomes import (
    CoverageBounds,
    OutcomeCell,
    ReturnTest,
    WeightedCoverage,
    coverage_bounds,
    inverse_chance_coverage,
    observed_coverage,
    return_test,
)
from ml_core.lab.watching.alarms import COVERAGE, hold, restart_detector, started_hour
from ml_core.lab.watching.configured_sets import configured_sets
from ml_core.lab.watching.ledger import Ledger
from ml_core.lab.watching.maturing import Horizons, NewlyMatured
from ml_core.lab.watching.outcome_counts import HOUR_US, DueAnswer
from ml_core.lab.watching.readable_log import ReadableLog
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import Cursor
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.rollout.monitor_state import Unverified

__all__ = [
    "JUDGED_ROWS",
    "ClassOutcomes",
    "DueOutcomes",
    "JudgedOutcomes",
    "OutcomeCounter",
    "class_outcomes",
    "due_outcomes",
    "first_grouped_hour",
    "judge_outcomes",
    "latest_outcomes",
    "unverified_of",
]


JUDGED_ROWS = 1_000
"""Missing outcomes are judged on the latest hours that hold so many due answers."""
DEPENDS_P = 0.001
"""Largest p-value at which the return of outcomes depends on the set, if the gap is large enough as well."""
_OUTCOMES, _UNVERIFIED = "outcomes:", "unverified:"
_CURSORS, _COUNTED_BY, _FORGOTTEN = "outcome_cursors", "outcome_horizons", "outcomes_forgotten"
_AT_A_TIME = 20_000
_ALWAYS = 1 << 40


class OutcomeCounter:
    """Counts answers of the log when they become due.

    Parameters
    ----------
    log : the prediction log
    keep_days : how long an outcome that is missing may still come, days after its answer
    """

    def __init__(self, log: ReadableLog, keep_days: float) -> None:
        self._log = log
        self._keep_days = keep_days

    def look(self, ledger: Ledger, matured: NewlyMatured, now: datetime, horizons: Horizons) -> None:
        """Count what has become due since the last look, and outcomes that came late.

        Each horizon has its own place in the log, so a look reads what is new. Where the horizon of a counted model has
        changed, all is counted anew.

        Parameters
        ----------
        matured : what this look let mature

        Raises
        ------
        LogDamaged
            The log cannot be read.
        """
        self._begin_anew(ledger, horizons)
        ledger.outcomes.came({row.request_id: row.label for row in matured.rows})
        cursors: dict[str, Cursor] = ledger.fact(_CURSORS, {})
        counted_by: dict[str, float] = ledger.fact(_COUNTED_BY, {})
        for days in {horizons.usual, *horizons.by_model.values()}:
            until_us, place = microseconds(now - timedelta(days=days)), repr(float(days))
            for found, after in self._log.pages(cursors.get(place, {}), _AT_A_TIME, until_us):
                cursors[place] = after
                due = [a for a in found if horizons.days_of(a.lineage["model_hash"]) == days]
                self._count(ledger, due)
                counted_by |= {a.lineage["model_hash"]: days for a in due}
        ledger.remember(_CURSORS, cursors)
        ledger.remember(_COUNTED_BY, counted_by)
        before_us = microseconds(now - timedelta(days=self._keep_days))
        ledger.outcomes.forget_before(before_us)
        ledger.remember(_FORGOTTEN, before_us)

    def _begin_anew(self, ledger: Ledger, horizons: Horizons) -> None:
        counted_by: Mapping[str, float] = ledger.fact(_COUNTED_BY, {})
        if any(horizons.days_of(model_hash) != days for model_hash, days in counted_by.items()):
            ledger.outcomes.clear()
            ledger.remember(_CURSORS, {})
            ledger.remember(_COUNTED_BY, {})

    def _count(self, ledger: Ledger, due: Sequence[LoggedAnswer]) -> None:
        answers = _as_counted(self._log.without_repeats(due))
        ledger.outcomes.add(answers, ledger.labels_of([answer.request_id for answer in answers]))


def _as_counted(answers: Sequence[LoggedAnswer]) -> list[DueAnswer]:
    """Answers with their sets at the configured level of their model."""
    found = []
    for answer, held in zip(answers, configured_sets(answers), strict=True):
        own, facts = answer.is_the_models_own and held is not None, answer.lineage
        members = tuple(held.nonzero()[0].tolist()) if held is not None and own else ()
        found.append(
            DueAnswer(
                request_id=id_bytes(answer.request_id),
                at_us=microseconds(answer.at),
                model_hash=facts["model_hash"],
                own=own,
                members=members,
                prediction=facts["classes"].index(answer.prediction) if own else -1,
                groups=answer.groups,
            )
        )
    return found


def first_grouped_hour(ledger: Ledger, model_hash: str) -> int:
    """The hour since 1970 from which on all outcomes that a model's answers lack are known by group.

    Earlier ones are no longer waited for, or were counted by a release that did not keep groups.
    """
    forgotten = -(-int(ledger.fact(_FORGOTTEN, 0)) // HOUR_US)
    return max(forgotten, ledger.outcomes.groupless_until(model_hash) + 1)


# --- what is known ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClassOutcomes:
    """What the outcomes that have come say of the coverage of one class, and what they leave open.

    Attributes
    ----------
    label : class label; None for all classes together
    observed : coverage of the outcomes that have come; None without any
    bounds : worst and best case; None where no due answer can be of the class
    weighted : estimate under the assumption that outcomes are missing at random given the set and the predicted class;
        None where it cannot be made
    returned : whether the return of an outcome depends on the set
    """

    label: Label | None
    observed: float | None
    bounds: CoverageBounds | None
    weighted: WeightedCoverage | None
    returned: ReturnTest


@dataclass(frozen=True, slots=True)
class DueOutcomes:
    """Due answers of a model from some hours.

    Attributes
    ----------
    cells : answers of the model itself, by prediction set and predicted class
    classes : what they say of all classes together, then of each class
    of_fallbacks : due answers that a fallback gave instead, and those of them without an outcome
    hours : first and last of them since 1970
    """

    cells: tuple[OutcomeCell, ...]
    classes: tuple[ClassOutcomes, ...]
    of_fallbacks: tuple[int, int]
    hours: tuple[int, int]

    @property
    def due(self) -> int:
        """Number of due answers of the model itself."""
        return sum(cell.due for cell in self.cells)

    @property
    def missing(self) -> int:
        """Those of them whose outcome has not come."""
        return sum(cell.missing for cell in self.cells)


def due_outcomes(
    ledger: Ledger, model_hash: str, manifest: Manifest, since_hour: int = 0, until_hour: int = _ALWAYS
) -> DueOutcomes:
    """The due answers that a model gave in those hours since 1970, both included."""
    cells = ledger.outcomes.cells(model_hash, manifest.classes, since_hour, until_hour)
    fallbacks = ledger.outcomes.of_fallbacks(model_hash, since_hour, until_hour)
    return DueOutcomes(cells, class_outcomes(cells, manifest), fallbacks, (since_hour, until_hour))


def class_outcomes(cells: Sequence[OutcomeCell], manifest: Manifest) -> tuple[ClassOutcomes, ...]:
    """What due answers say of all classes together, then of each class."""
    effects = [manifest.metrics.get("calibration_effect", 1.0)]
    effects += [manifest.metrics.get(f"calibration_effect_class_{label}", 1.0) for label in manifest.classes]
    whose: list[tuple[int | None, Label | None]] = [(None, None), *_positions(manifest)]
    return tuple(
        ClassOutcomes(
            label=label,
            observed=observed_coverage(cells, k),
            bounds=coverage_bounds(cells, k),
            weighted=inverse_chance_coverage(cells, k, effect),
            returned=return_test(cells, k),
        )
        for (k, label), effect in zip(whose, effects, strict=True)
    )


def latest_outcomes(
    ledger: Ledger, model_hash: str, manifest: Manifest, settings: Settings, now: datetime
) -> DueOutcomes:
    """The answers that missing outcomes are judged on: the latest 1,000 or so whose horizon and grace have passed."""
    patience = timedelta(days=_horizon(manifest, settings) + settings.outcome_grace_days)
    until_hour = microseconds(now - patience) // HOUR_US
    since_hour = ledger.outcomes.first_hour(model_hash, until_hour, max(JUDGED_ROWS, settings.unverified_after))
    return due_outcomes(ledger, model_hash, manifest, since_hour, until_hour)


@dataclass(frozen=True, slots=True)
class JudgedOutcomes:
    """What one look makes of the outcomes of a model.

    Attributes
    ----------
    latest : the due answers that are judged
    unverified : promises that missing outcomes leave open, in class order
    restarted : names of detectors that have begun anew
    """

    latest: DueOutcomes
    unverified: tuple[Unverified, ...]
    restarted: tuple[str, ...] = ()


def judge_outcomes(
    ledger: Ledger, model_hash: str, manifest: Manifest, settings: Settings, now: datetime
) -> JudgedOutcomes:
    """Judge the outcomes of a model at a look of the monitor; hold and release its coverage alarms.

    Coverage of a class is unverified if at least ``unverified_after`` answers are judged, and either more than
    ``unverified_missing`` of their outcomes are missing, or the return of outcomes depends on the set (p < 0.001) and
    the weighted coverage is more than ``unverified_gap`` from that of the returned outcomes. It is judged anew at each
    look and ends by itself. Where return does not depend on the set, one look at one class errs with a chance of at
    most 0.001; nothing is stated for many looks together.

    A coverage alarm is held if the same is true of its own evidence: the answers that were due when it went off, since
    its detector began. It stays on if the weighted coverage is too low as well. Outcomes that come for these answers
    later release it. What happens to later answers does not hold an alarm that was right. Where the latest outcomes
    leave nothing open, a held detector begins anew: what it has counted would accuse the model for ever.
    """
    latest = latest_outcomes(ledger, model_hash, manifest, settings, now)
    held = _depending(ledger, model_hash, manifest, settings)
    over = [
        name
        for name, of_class in _promised(manifest, latest.classes)
        if name in held and latest.due >= settings.unverified_after and not _why(latest, of_class, settings)
    ]
    for name in over:
        restart_detector(ledger, model_hash, f"{COVERAGE}{name}")
        del held[name]
    hold(ledger, model_hash, [f"{COVERAGE}{name}" for name in held])
    unverified = _unverified(latest, held, manifest, settings)
    ledger.remember(f"{_UNVERIFIED}{model_hash}", [each.model_dump() for each in unverified])
    return JudgedOutcomes(latest, unverified, tuple(f"{COVERAGE}{name}" for name in over))


def unverified_of(ledger: Ledger, model_hash: str) -> tuple[Unverified, ...]:
    """What was unverified of a model at the last look of the monitor."""
    return tuple(Unverified(**each) for each in ledger.fact(f"{_UNVERIFIED}{model_hash}", []))


def _unverified(
    latest: DueOutcomes, held: Mapping[str, ClassOutcomes], manifest: Manifest, settings: Settings
) -> tuple[Unverified, ...]:
    found = []
    for name, of_class in _promised(manifest, latest.classes):
        why = _why(latest, of_class, settings)
        if name in held:
            why = f"{_return_words(held[name])}, so the alarm {COVERAGE}{name} is held"
        if why:
            found.append(Unverified(reason=f"{_OUTCOMES}{name}", says=f"{why}{_open(latest, of_class)}"))
    return tuple(found)


def _promised(manifest: Manifest, classes: Sequence[ClassOutcomes]) -> list[tuple[str, ClassOutcomes]]:
    """What the model promises coverage of, by the name that its detector has."""
    if manifest.guarantee == "marginal":
        return [("all", classes[0])]
    return [(str(of_class.label), of_class) for of_class in classes[1:]]


def _depending(ledger: Ledger, model_hash: str, manifest: Manifest, settings: Settings) -> dict[str, ClassOutcomes]:
    """By name, what the evidence of a coverage alarm rests on, where outcomes came back depending on the set."""
    horizon = timedelta(days=_horizon(manifest, settings))
    found: dict[str, ClassOutcomes] = {}
    for detector, (_, since) in ledger.detectors(model_hash).items():
        if since is None or not detector.startswith(COVERAGE):
            continue
        until_hour = microseconds(datetime.fromisoformat(since) - horizon) // HOUR_US
        rests_on = due_outcomes(ledger, model_hash, manifest, started_hour(ledger, model_hash, detector), until_hour)
        name = detector.removeprefix(COVERAGE)
        of_class = dict(_promised(manifest, rests_on.classes)).get(name)
        if of_class is not None and _depends(of_class, settings) and not _is_low(of_class, manifest):
            found[name] = of_class
    return found


def _why(latest: DueOutcomes, of_class: ClassOutcomes, settings: Settings) -> str:
    """Why coverage is not verified; "" where it is, or too few answers are due."""
    if latest.due < settings.unverified_after:
        return ""
    if _depends(of_class, settings):
        return _return_words(of_class)
    if latest.missing > settings.unverified_missing * latest.due:
        share = f"{latest.missing / latest.due:.0%} of the latest {latest.due:,} due answers"
        return f"no outcome has come of {share} (at most {settings.unverified_missing:.0%} may be missing)"
    return ""


def _depends(of_class: ClassOutcomes, settings: Settings) -> bool:
    """Whether the return of outcomes depends on the set, so that the coverage of those returned is that of others."""
    if of_class.returned.p_value >= DEPENDS_P:
        return False
    if of_class.weighted is None or of_class.observed is None:  # not to be told from what has come
        return True
    return abs(of_class.weighted.estimate - of_class.observed) > settings.unverified_gap


def _is_low(of_class: ClassOutcomes, manifest: Manifest) -> bool:
    """Whether the weighted coverage, too, is below the model's level."""
    return of_class.weighted is not None and of_class.weighted.upper < float(manifest.confidence_level)


def _return_words(of_class: ClassOutcomes) -> str:
    inside, outside = (f"{share or 0.0:.0%}" for share in (of_class.returned.inside, of_class.returned.outside))
    if of_class.label is None:
        return f"outcomes came back for {inside} of the answers with one set and for {outside} with another"
    sets = f"the answers whose set holds {of_class.label}"
    return f"outcomes came back for {inside} of {sets} and for {outside} of the others"


def _open(latest: DueOutcomes, of_class: ClassOutcomes) -> str:
    if of_class.bounds is None or not latest.due:
        return ""
    whose = "coverage" if of_class.label is None else f"coverage of {of_class.label}"
    return f"; {whose} may be anything from {of_class.bounds.lowest:.3f} to {of_class.bounds.highest:.3f}"


def _positions(manifest: Manifest) -> list[tuple[int, Label]]:
    return list(enumerate(manifest.classes))


def _horizon(manifest: Manifest, settings: Settings) -> float:
    return settings.label_horizon_days if manifest.label_horizon_days is None else manifest.label_horizon_days
