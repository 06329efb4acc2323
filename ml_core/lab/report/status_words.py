"""The status in plain words, what to do first, and the key figures at the top of a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from ml_core.lab.report.facts import Model, ReportFacts
from ml_core.lab.report.facts_drift import Detector, Drift
from ml_core.lab.report.facts_outcomes import ClassCoverage
from ml_core.lab.report.facts_upkeep import CircuitNow
from ml_core.lab.report.formats import age, code, count, day, moment, number, per, percent
from ml_core.lab.report.gaps import Part

__all__ = [
    "ALL",
    "FALLBACKS_NOTED",
    "KeyFigure",
    "ReportStatus",
    "Sentence",
    "class_words",
    "key_figures",
    "no_outcomes",
    "status_of",
]

Overall = Literal["ok", "attention", "broken"]
Level = Literal["broken", "attention", "ok", "unknown"]
"""How a sentence is meant: something does not work, somebody should look, fine, not known yet."""

FALLBACKS_NOTED = 0.05
"""Share of fallback answers from which somebody should look: what a canary is allowed by default."""

ALL = "all"
"""Stands for all classes where the promise is made to all of them together."""

_DAY_S = 86_400.0
_PRESSING: tuple[Level, ...] = ("broken", "attention", "ok", "unknown")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One thing to know and what it means; ``first`` is what to do first, "" where there is nothing to do.

    Words between backquotes are commands or codes.
    """

    level: Level
    text: str
    first: str = ""


@dataclass(frozen=True, slots=True)
class ReportStatus:
    """The worst of all sentences in one word, and the sentences, the pressing ones first."""

    overall: Overall
    headline: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """One number in words, with what it is and what it is held against."""

    name: str
    value: str
    beside: str
    needs_attention: bool = False


def status_of(facts: ReportFacts) -> ReportStatus:
    """The status that follows from the facts. What is not known is said, and does not change the overall word."""
    parts = (
        _served,
        _watched,
        _coverage_alarms,
        _unverified,
        _drift_alarm,
        _retraining,
        _circuits,
        _fallbacks,
        _store,
        _gaps,
    )
    found = [sentence for part in parts for sentence in part(facts)]
    levels = [sentence.level for sentence in found]
    overall: Overall = "broken" if "broken" in levels else "attention" if "attention" in levels else "ok"
    ordered = sorted(found, key=lambda sentence: _PRESSING.index(sentence.level))
    return ReportStatus(overall, _headline(levels), tuple(ordered))


def class_words(facts: ReportFacts, label: str) -> str:
    """``class 1 (readmitted within 30 days)``, as far as there are words for it; ``all`` are all classes together."""
    if label == ALL:
        return "all classes together"
    words = facts.label_words.get(label)
    return f"class {label} ({words})" if words else f"class {label}"


def _answer_counts(facts: ReportFacts) -> tuple[int, int]:
    """Answers of the period, and how many of them a fallback gave."""
    buckets = facts.answers.buckets if facts.answers else ()
    return sum(b.answers for b in buckets), sum(b.fallbacks for b in buckets)


def no_outcomes(facts: ReportFacts) -> str:
    """Why there are no outcomes to judge by, and what brings them."""
    labels = facts.labels
    days = "" if labels.horizon_days is None else f", {number(labels.horizon_days)} days after the prediction"
    send = "`POST /labels` or `surety labels import FILE`"
    if labels.uncounted:
        return f"{count(labels.uncounted)} outcomes were sent in and are not counted yet: run `surety monitor --once`."
    if labels.waiting and labels.next_at is not None:
        waiting = f"{count(labels.waiting)} predictions wait for the day their outcome counts{days}"
        return f"{waiting}; the first is {day(labels.next_at)}. Outcomes are sent in by {send}."
    if labels.missing:
        return f"{count(labels.missing)} predictions are old enough, but no outcome was sent in for them: use {send}."
    return f"It takes outcomes, which count once their time has passed{days}, and are sent in by {send}."


def _headline(levels: list[Level]) -> str:
    broken, attention = levels.count("broken"), levels.count("attention")
    if broken:
        return ("One thing does" if broken == 1 else f"{broken} things do") + " not work and cannot wait."
    if attention:
        return ("One thing needs" if attention == 1 else f"{attention} things need") + " somebody to look."
    return "No alarm is on, and nothing needs doing now."


# --- sentences ------------------------------------------------------------------------------------------------------


def _served(facts: ReportFacts) -> Iterator[Sentence]:
    champion = _model(facts, "champion")
    if champion is None and _has_gap(facts, "models"):
        yield Sentence(
            "broken", "The model that should answer could not be read.", "Import it again: `surety import-model`."
        )
        return
    if champion is None:
        promote = f"`surety promote --model {facts.model_name}`"
        first = f"Train, judge and promote one: `surety train`, `surety validate`, {promote}."
        yield Sentence(
            "broken", f"No model of the name {facts.model_name} is promoted, so nothing can be answered.", first
        )
        return
    if champion.gate is None or not champion.gate.passed:
        text = f"Version {champion.version} has no passed gate on record, so nothing vouches for it."
        yield Sentence(
            "attention", text, f"Judge it: `surety validate --model {champion.name} --version {champion.version}`."
        )
    serving = facts.serving
    if serving is None or not serving.workers:
        text = f"The service does not run: no process reports. Version {champion.version} would answer."
        yield Sentence(
            "broken", text, "Start it: `make serve`. If it runs, it has another SURETY_HOME than this report."
        )
        return
    processes = "1 process" if serving.workers == 1 else f"{serving.workers} processes"
    yield Sentence("ok", f"{champion.name}, version {champion.version}, is served by {processes}. {_trial(facts)}")
    if serving.lost:
        text = f"{count(serving.lost)} of the service's processes stopped reporting; the others answer in their place."
        yield Sentence("attention", text, "Look in the service's log for why they ended, and restart it.")
    for problem in serving.problems:
        text = f"A process does not do what the rollout says: {problem.rstrip('.')}."
        yield Sentence("attention", text, "See `surety rollout show`.")


def _trial(facts: ReportFacts) -> str:
    challenger, serving = _model(facts, "challenger"), facts.serving
    if challenger is None or serving is None or serving.mode == "off":
        return "No other version is on trial."
    if serving.mode == "shadow":
        return f"Version {challenger.version} is scored beside it without anybody seeing its answers (shadow)."
    return f"Version {challenger.version} answers {percent(serving.weight)} of the requests on trial (canary)."


def _watched(facts: ReportFacts) -> Iterator[Sentence]:
    watching = facts.monitoring
    first = f"Start it: `surety monitor --every 5s --model {facts.model_name}`."
    if watching is None or watching.last_look_at is None:
        text = "Nobody is watching: the monitor has never looked at this model, so no alarm could have been raised."
        yield Sentence("attention", text, first)
        return
    since = facts.written_at - watching.last_look_at
    ago = age(max(0.0, since.total_seconds()))
    if since > timedelta(seconds=watching.stale_after_s):
        text = (
            f"Nobody is watching: the monitor last looked {ago} before this report ({moment(watching.last_look_at)}). "
        )
        text += "Alarms since then are missing, and answers are marked as not monitored."
        yield Sentence("attention", text, first)
        return
    none = "" if any(d.alarm_at for d in _detectors(facts)) else ", and no alarm is on"
    yield Sentence("ok", f"It is watched{none}. The monitor last looked {ago} before this report.")


def _coverage_alarms(facts: ReportFacts) -> Iterator[Sentence]:
    if facts.coverage is None and _has_gap(facts, "coverage"):
        yield Sentence("unknown", "Whether the sets keep their promise is not known: outcomes could not be read.")
        return
    if facts.coverage is None:
        yield Sentence("unknown", f"Whether the sets keep their promise is not known yet. {no_outcomes(facts)}")
        return
    for judged in facts.coverage.classes:
        if judged.detector is not None and judged.detector.alarm_at is not None:
            yield _coverage_alarm(facts, judged, judged.detector, _lately(judged, facts.coverage.bucket_s))


def _unverified(facts: ReportFacts) -> Iterator[Sentence]:
    if facts.missing is not None and facts.missing.unverified:
        text = (
            f"Coverage cannot be verified: {'. '.join(facts.missing.unverified)}. While no alarm is on, answers are "
            "marked unverified."
        )
        yield Sentence(
            "attention", text, "Find out why outcomes do not come; send them by `surety labels import FILE`."
        )


def _drift_alarm(facts: ReportFacts) -> Iterator[Sentence]:
    detector = facts.drift.detector if facts.drift else None
    if detector is not None and detector.alarm_at is not None:
        text = (
            f"Drift alarm since {moment(detector.alarm_at)}: the records being scored differ from those the model was "
            "calibrated on, and for such records the sets may not keep their promise. "
            f"Answers are marked suspect (`drift`). {detector.promise}"
        )
        first = (
            "See below which features changed. A changed unit or a failing feed is more common than changed subjects."
        )
        yield Sentence("attention", text, first)


def _coverage_alarm(facts: ReportFacts, judged: ClassCoverage, detector: Detector, lately: str) -> Sentence:
    one = judged.label != ALL
    text = (
        f"Coverage alarm for {class_words(facts, judged.label)} since {moment(detector.alarm_at)}. The sets promise to "
        f"hold {'this' if one else 'the true'} outcome for {percent(judged.promised)} of those "
        f"{'who come to have it' if one else 'who are scored'}; {lately}. Until the alarm is cleared, do not read a "
        f"set without {judged.label if one else 'a label'} as ruling it out; answers are marked suspect "
        f"(`coverage:{judged.label}`). {detector.promise}"
    )
    first = (
        "See under drift who is scored differently now. Then calibrate on the newest outcomes (`surety recalibrate`), "
        "later train on them (`surety retrain`), or, if it began with a new version, go back "
        "(`surety rollout rollback`)."
    )
    return Sentence("attention", text, first)


def _lately(judged: ClassCoverage, bucket_s: float) -> str:
    """What the latest stretch below the band held, or what the whole period did."""
    for bucket in reversed(judged.buckets):
        if bucket.observed is not None and bucket.lower is not None and bucket.observed < bucket.lower:
            when = day(bucket.start) if bucket_s == _DAY_S else f"the {per(bucket_s)} from {day(bucket.start)}"
            return f"{'on' if bucket_s == _DAY_S else 'in'} {when} they held it for {percent(bucket.observed)}"
    return f"over this period they held it for {percent(judged.observed)}"


def _retraining(facts: ReportFacts) -> Iterator[Sentence]:
    drift = facts.drift
    if drift is None:
        why = "answers could not be read" if _has_gap(facts, "drift") else "no check was made"
        yield Sentence("unknown", f"Whether records have changed, and whether to retrain, is not known yet: {why}.")
        return
    tested = [f for f in drift.features if f.is_tested]
    if not tested:
        yield Sentence("unknown", "Whether to retrain is not known: no feature could be judged. The table says why.")
    elif drift.retrain_advised:
        first = "Rule out a failing feed, then `surety retrain`."
        why = "; ".join((_share_drifted(drift), *(r for r in drift.reasons if "tested features" not in r)))
        yield Sentence("attention", f"Retraining is advised: {why}.", first)
    else:
        yield Sentence("ok", f"Retraining is not advised: {_share_drifted(drift)}.")
    warned = [f.name for f in drift.features if f.is_warned]
    if warned:
        named = ", ".join(warned[:5]) + (f" and {len(warned) - 5} more" if len(warned) > 5 else "")
        yield Sentence("unknown", f"By this rule it is not clear whether {named} changed: see the notes under drift.")


def _share_drifted(drift: Drift) -> str:
    tested = [f for f in drift.features if f.is_tested]
    drifted = sum(f.is_drifted for f in tested)
    share = percent(drifted / len(tested), 0)
    return (
        f"{drifted} of {len(tested)} features drifted ({share}; it is advised from {percent(drift.retrain_share)} on)"
    )


def _circuits(facts: ReportFacts) -> Iterator[Sentence]:
    champion = [c for c in facts.circuits.now if c.slot == "champion"]
    if champion and all(c.state == "open" for c in champion):
        text = f"The model is not asked: its circuit is open in every process ({_reasons(champion)}). "
        text += "Fallbacks answer, and say so."
        yield Sentence("broken", text, "Find out why the model fails, or go back: `surety rollout rollback`.")
        return
    for circuit in facts.circuits.now:
        if circuit.state == "open":
            where = f"The {circuit.slot}'s circuit is open in {circuit.worker} ({_reasons([circuit])})"
            first = "It tries again by itself. If it keeps opening, look in the service's log for why."
            yield Sentence("attention", f"{where}: a fallback answers there, and says so.", first)


def _reasons(circuits: Iterable[CircuitNow]) -> str:
    return ", ".join(sorted({code(c.reason) if c.reason else "by order" for c in circuits}))


def _fallbacks(facts: ReportFacts) -> Iterator[Sentence]:
    answers, fallbacks = _answer_counts(facts)
    if answers and fallbacks / answers >= FALLBACKS_NOTED:
        text = (
            f"{percent(fallbacks / answers)} of the answers in this period came from a fallback instead of the model."
        )
        yield Sentence("attention", text, "See the reasons under scores and sets.")


def _store(facts: ReportFacts) -> Iterator[Sentence]:
    store = facts.store
    if store is None:
        return
    if store.broken:
        more = f" and {len(store.broken) - 3} more" if len(store.broken) > 3 else ""
        files = ", ".join(store.broken[:3]) + more
        text = f"The prediction log was changed or damaged: the hash chain of {files} does not hold."
        yield Sentence("broken", text, "Keep the files as they are and run `surety log verify`.")
    if store.lost:
        text = f"{count(store.lost)} answers could not be stored: they can be neither replayed nor monitored."
        yield Sentence("attention", text, "Look whether the disk was full or slow.")


def _gaps(facts: ReportFacts) -> Iterator[Sentence]:
    of_log = {gap.reason for gap in facts.gaps if gap.part in {"answers", "log"}}
    for reason in dict.fromkeys(gap.reason for gap in facts.gaps):
        look = " `surety log verify` looks at every file of the prediction log." if reason in of_log else ""
        yield Sentence("attention", f"Something could not be read: {reason}", f"What is told is without it.{look}")


def _has_gap(facts: ReportFacts, part: Part) -> bool:
    return any(gap.part == part for gap in facts.gaps)


def _model(facts: ReportFacts, slot: str) -> Model | None:
    return next((model for model in facts.models if model.slot == slot), None)


def _detectors(facts: ReportFacts) -> Iterator[Detector]:
    found = [facts.drift.detector if facts.drift else None]
    found += [judged.detector for judged in (facts.coverage.classes if facts.coverage else ())]
    yield from (detector for detector in found if detector is not None)


# --- key figures ----------------------------------------------------------------------------------------------------


def key_figures(facts: ReportFacts) -> tuple[KeyFigure, ...]:
    """The numbers most readers come for; only those that there are."""
    return (*_of_answers(facts), *_of_outcomes(facts), *_of_drift(facts))


def _of_answers(facts: ReportFacts) -> Iterator[KeyFigure]:
    answers, fallbacks = _answer_counts(facts)
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
