"""The monitor of a canary: sums the counts of all workers, judges the guards, and takes a bad canary back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pydantic import Field

from ml_core.base.documents import Document
from ml_core.base.errors import ArtefactError, RolloutConflict
from ml_core.base.settings import Settings
from ml_core.lab.watching.canary_guards import GuardVerdict, judge_guard
from ml_core.serve.home.homes import open_home
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_state import GuardLimits, RolloutState
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import SlotReport, beating, clear_lost, read_reports, summed

__all__ = ["Look", "Monitor", "guard_counts"]

logger = logging.getLogger(__name__)

GUARDS = ("error_share", "fallback_share", "slow_share", "set_size")
START_EVERY_S = 300.0
MOST_STARTS = 12

ValueCounts = dict[str, dict[float, int]]


class Start(Document):
    """A moment from which the guards judge anew, so that what came before does not hide a late change.

    Attributes
    ----------
    number : 0 for the beginning of the stage, then 1, 2, …; decides the start's part of the false-alarm budget
    at_s : monotonic clock of the monitor's machine
    counts : by guard, what had been counted by then: how often each value, as text because JSON keys are
    """

    number: int
    at_s: float
    counts: dict[str, dict[str, int]] = Field(default_factory=dict)


class Memory(Document):
    """What the monitor must remember of a stage between two looks."""

    stage: int
    starts: tuple[Start, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """The rollout and its counts at one moment, and what the guards made of them.

    Attributes
    ----------
    state : the rollout when it was looked at; None where there is none
    alive : processes that reported lately
    champion, challenger : summed counts of the stage; None where a slot has none
    verdicts : of every guard, from the start with the strongest evidence
    rolled_back : why the canary was taken back, "" where it was not
    """

    state: RolloutState | None
    alive: int
    champion: SlotReport | None
    challenger: SlotReport | None
    verdicts: tuple[GuardVerdict, ...]
    rolled_back: str


class Monitor:
    """Judges the canary of one model name.

    Parameters
    ----------
    settings : home and model name
    clock : monotonic seconds, the clock of the reports
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = RolloutStore(settings)
        self._home = open_home(settings)
        self._reports = self._home.heartbeats(settings.model_name)
        self._memory = f"monitor/{settings.model_name}.json"
        self._clock = clock

    def look(self, *, act: bool = True) -> Look:
        """Read the reports, judge a canary, and take it back where a guard trips.

        Parameters
        ----------
        act : False only tells

        Raises
        ------
        ArtefactError
            The rollout state cannot be read.
        """
        state = self._store.read()
        reports = read_reports(self._reports)
        alive = len(beating(reports, self._clock()))
        if state is None:
            return Look(None, alive, None, None, (), "")
        champion, challenger = (summed(reports, state.stage, slot) for slot in ("champion", "challenger"))
        verdicts: tuple[GuardVerdict, ...] = ()
        rolled_back = ""
        if state.mode == "canary" and state.guards is not None and challenger is not None:
            verdicts = self._judge(state, state.guards, challenger, remember=act)
            tripped = [v for v in verdicts if v.tripped]
            if tripped and act:
                rolled_back = self._take_back(state, tripped)
        if act:
            clear_lost(self._reports, reports, state.stage, self._clock())
        return Look(state, alive, champion, challenger, verdicts, rolled_back)

    def _judge(
        self, state: RolloutState, limits: GuardLimits, challenger: SlotReport, *, remember: bool
    ) -> tuple[GuardVerdict, ...]:
        counts = guard_counts(challenger, limits.classes)
        memory = self._remembered(state.stage, counts)
        if self._clock() - memory.starts[-1].at_s >= START_EVERY_S:
            begun = Start(number=memory.starts[-1].number + 1, at_s=self._clock(), counts=_as_text(counts))
            first, *later = memory.starts
            memory = Memory(stage=state.stage, starts=(first, *later[-MOST_STARTS + 1 :], begun))
        if remember:
            self._home.documents.save(self._memory, memory, durable=False)
        return tuple(_strongest(guard, counts[guard], limits, memory.starts) for guard in GUARDS)

    def _remembered(self, stage: int, counts: ValueCounts) -> Memory:
        """What is known of the stage; a monitor on another machine may have told it, whose clock is another one."""
        now = self._clock()
        try:
            memory = self._home.documents.load(self._memory, Memory)
        except ArtefactError:
            memory = None
        if memory is None or memory.stage != stage or not _has_grown(counts, memory.starts[-1]):
            return Memory(stage=stage, starts=(Start(number=0, at_s=now),))
        *earlier, last = memory.starts
        return Memory(stage=stage, starts=(*earlier, last.model_copy(update={"at_s": min(last.at_s, now)})))

    def _take_back(self, state: RolloutState, tripped: list[GuardVerdict]) -> str:
        why = "; ".join(
            f"guard {v.guard}: {v.observed:.3g} over {v.limit:g} in {v.observations} observations" for v in tripped
        )
        try:
            change = changes.rollback(tripped[0].guard)
            self._store.change(change, why=why, by="monitor", expected=state.generation)
        except RolloutConflict:  # somebody was faster; the next look sees what they did
            return ""
        logger.warning("rollout.taken_back", extra={"model": state.model_name, "tag": state.challenger, "reason": why})
        return why


def guard_counts(report: SlotReport, classes: int) -> ValueCounts:
    """How often each value in [0, 1] was seen, by guard: failed or not, fallback or not, slow or not, set size."""
    fallbacks = sum(report.fallbacks.values())
    return {
        "error_share": {0.0: max(0, report.calls - report.failures), 1.0: report.failures},
        "fallback_share": {0.0: max(0, report.answers - fallbacks), 1.0: fallbacks},
        "slow_share": {0.0: max(0, report.calls - report.slow), 1.0: report.slow},
        "set_size": {min(1.0, int(size) / classes): n for size, n in report.set_sizes.items()},
    }


def _strongest(guard: str, counts: Mapping[float, int], limits: GuardLimits, starts: tuple[Start, ...]) -> GuardVerdict:
    """The guard's verdict since the start whose counts speak most against the canary.

    Half of a guard's false-alarm budget goes to the stage's beginning, 1 / (j (j + 1)) of the other half to the j-th
    later start: together never more than the whole, however long the canary runs.
    """
    limit = limits.set_size / limits.classes if guard == "set_size" else float(getattr(limits, guard))
    limit = min(limit, 1.0 - 1e-9)
    budget = limits.false_alarm / len(GUARDS) / 2
    verdicts = []
    for start in starts:
        before = {float(value): n for value, n in start.counts.get(guard, {}).items()}
        since = {value: max(0, n - before.get(value, 0)) for value, n in counts.items()}
        part = budget if start.number == 0 else budget / (start.number * (start.number + 1))
        verdicts.append(judge_guard(guard, since, limit, false_alarm=part, minimum=limits.minimum))
    found = max(verdicts, key=lambda v: (v.tripped, v.log_evidence - v.needed))
    if guard != "set_size" or found.observed is None:
        return found
    return replace(found, observed=found.observed * limits.classes, limit=limits.set_size)  # in labels, for people


def _has_grown(counts: ValueCounts, start: Start) -> bool:
    """Whether what was counted then still is: after a restart of the system, a folder of reports is empty."""
    return all(sum(counts[guard].values()) >= sum(told.values()) for guard, told in start.counts.items())


def _as_text(counts: ValueCounts) -> dict[str, dict[str, int]]:
    return {guard: {str(value): n for value, n in values.items()} for guard, values in counts.items()}
