"""The few numbers at the top of a report, each beside what it is held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ml_core.lab.report.facts import ReportFacts
from ml_core.lab.report.formats import count, day, number, percent
from ml_core.lab.report.status_words import ALL, FALLBACKS_NOTED, answer_counts

__all__ = ["KeyFigure", "key_figures"]


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """One number in words, with what it is and what it is held against."""

    name: str
    value: str
    beside: str
    needs_attention: bool = False


def key_figures(facts: ReportFacts) -> tuple[KeyFigure, ...]:
    """The numbers most readers come for; only those that there are."""
    return (*_of_answers(facts), *_of_outcomes(facts), *_of_drift(facts))


def _of_answers(facts: ReportFacts) -> Iterator[KeyFigure]:
    answers, fallbacks = answer_counts(facts)
    if answers:
        share = fallbacks / answers
        yield KeyFigure("answers", count(answers), "in this period")
        yield KeyFigure("from a fallback", percent(share), f"{count(fallbacks)} answers", share >= FALLBACKS_NOTED)


def _of_outcomes(facts: ReportFacts) -> Iterator[KeyFigure]:
    for judged in facts.coverage.classes if facts.coverage else ():
        is_on = judged.detector is not None and judged.detector.alarm_at is not None
        beside = f"promised {percent(judged.promised)}" + (", alarm on" if is_on else "")
        whose = "all classes" if judged.label == ALL else f"class {judged.label}"
        yield KeyFigure(f"coverage, {whose}", percent(judged.observed), beside, is_on)
    performance = facts.performance
    known = [b.auc for b in performance.buckets if b.auc is not None] if performance else []
    if performance and known:
        beside = (
            "latest known"
            if performance.trained_auc is None
            else f"latest; {number(performance.trained_auc)} in training"
        )
        yield KeyFigure("area under the curve", number(known[-1]), beside)


def _of_drift(facts: ReportFacts) -> Iterator[KeyFigure]:
    if facts.drift is not None:
        tested = [f for f in facts.drift.features if f.is_tested]
        drifted = sum(f.is_drifted for f in tested)
        beside = f"until {day(facts.drift.until)}"
        yield KeyFigure("features drifted", f"{drifted} of {len(tested)}", beside, facts.drift.retrain_advised)
