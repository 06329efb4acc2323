"""All facts of one report, from files alone: each part is collected by itself, and what cannot be read leaves a gap."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_core.base.errors import DataError, LogDamaged
from ml_core.base.settings import Settings
from ml_core.lab.report.collect_answers import Lineages, seen_answers
from ml_core.lab.report.collect_drift import drift_facts
from ml_core.lab.report.collect_journal import Entry, rollout_facts
from ml_core.lab.report.collect_ledger import detectors_of, known_outcomes, label_facts, missing_outcomes
from ml_core.lab.report.collect_models import KnownModel, known_models, label_words, model_facts
from ml_core.lab.report.collect_outcomes import OutcomeFacts, expected_facts, outcome_facts
from ml_core.lab.report.collect_period import Period, period_of
from ml_core.lab.report.collect_service import circuits, monitoring, serving, store_facts
from ml_core.lab.report.collect_shadow import NamedModel, shadow_pairs
from ml_core.lab.report.facts import AnswerHistory, ReportFacts
from ml_core.lab.report.facts_drift import Detector, Drift
from ml_core.lab.report.facts_outcomes import ExpectedHistory, Labels, MissingOutcomes
from ml_core.lab.report.gaps import Gaps
from ml_core.lab.watching.ledger import open_ledger_tables
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import LabelStore
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import WorkerReport, read_reports

__all__ = ["collect_facts"]

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_Entries = Sequence[Entry]


def collect_facts(
    settings: Settings, asked: timedelta, now: datetime, *, clock_s: float | None = None, verify: bool = False
) -> ReportFacts:
    """All facts of a report on the configured model. The same stores and moment give the same facts.

    Nothing but files is read, and of the log only what fits in little memory is kept. A part that cannot be read stays
    empty, and ``gaps`` says why.

    Parameters
    ----------
    asked : how far back histories go; whole buckets, and not beyond the first answer
    now : when the report is written, UTC
    clock_s : the system's monotonic clock, by which processes are alive or lost; None for now
    verify : walk the hash chains of the whole log, which takes time in proportion to it

    Raises
    ------
    DataError
        Nothing is known of a model of that name.
    """
    gaps = Gaps()
    log, ledger = PredictionLog.of(settings), open_ledger_tables(settings, settings.model_name)
    labels = LabelStore(open_label_tables(settings, settings.model_name), log.known)
    entries = _entries(settings, gaps)
    state = gaps.asked(("rollout", "models"), RolloutStore(settings).read, None)
    heartbeats = open_home(settings).heartbeats(settings.model_name)
    reports: Sequence[WorkerReport] = gaps.asked("circuits", lambda: read_reports(heartbeats), [])
    models = known_models(settings, ModelLoader(settings), state, gaps)
    champion = next((model for model in models if model.slot == "champion"), None)
    model_hash, classes = (None, ()) if champion is None else (champion.loaded.model_hash, champion.manifest.classes)
    own_horizon = None if champion is None else champion.manifest.label_horizon_days
    horizon_days = settings.label_horizon_days if own_horizon is None else own_horizon
    period = _period(settings, model_hash, asked, now, timedelta(days=horizon_days), gaps)
    no_answers: tuple[AnswerHistory | None, Lineages] = (None, {})
    answers, lineages = gaps.asked("answers", lambda: seen_answers(log, period.answers, classes, gaps), no_answers)
    drift, missing, outcomes = _watched(settings, champion, period, gaps)
    return ReportFacts(
        model_name=settings.model_name,
        written_at=now,
        since=period.answers.since,
        until=now,
        bucket_s=period.answers.bucket.total_seconds(),
        label_words=label_words(models),
        serving=serving(reports, state, clock_s),
        models=tuple(model_facts(model, entries) for model in models),
        monitoring=gaps.asked(("drift", "coverage"), lambda: monitoring(settings, model_hash), None),
        drift=drift,
        answers=answers,
        labels=gaps.asked(
            ("coverage", "performance"),
            lambda: label_facts(ledger, log, labels, period, horizon_days, gaps),
            Labels(horizon_days=horizon_days),
        ),
        coverage=outcomes.coverage,
        missing=missing,
        performance=outcomes.performance,
        expected=_expected(settings, champion, period, outcomes, gaps),
        reliability=outcomes.reliability,
        groups=outcomes.groups,
        shadow=gaps.asked(
            "shadow",
            lambda: shadow_pairs(settings.shadow_log, period.answers, _named(models, lineages), reports, state, gaps),
            (),
        ),
        circuits=circuits(reports, clock_s),
        rollout=rollout_facts(entries, state),
        store=gaps.asked(
            "log", lambda: store_facts(settings, reports, state, gaps, verified_at=now if verify else None), None
        ),
        gaps=gaps.found,
    )


def _entries(settings: Settings, gaps: Gaps) -> _Entries:
    """Entries of the journal on the model, oldest first."""
    none: list[dict[str, Any]] = []
    every = gaps.asked("rollout", open_home(settings).journal.entries, none)
    entries = [entry for entry in every if entry.get("model") == settings.model_name]
    _check_known(settings, entries, every)
    return entries


def _check_known(settings: Settings, entries: _Entries, every: _Entries) -> None:
    name, home = settings.model_name, open_home(settings)
    if settings.model or entries or settings.log.exists() or open_ledger_tables(settings, name).is_made():
        return
    papers = [paper for folder in ("promotions", "rollout") for paper in home.documents.names(folder)]
    known = {paper.rpartition("/")[2].removesuffix(".json").removesuffix(".signed") for paper in papers}
    if name in known or home.heartbeats(name).reports():
        return
    known |= {str(entry["model"]) for entry in every if "model" in entry}
    others = f"there is {', '.join(sorted(known))}" if known else "nothing of any other model either"
    raise DataError(
        f"the model {name}",
        f"{settings.home} knows nothing of it, {others}: give another --model, or set SURETY_HOME",
    )


def _period(
    settings: Settings, model_hash: str | None, asked: timedelta, now: datetime, horizon: timedelta, gaps: Gaps
) -> Period:
    known = None
    if model_hash is not None:
        ledger = open_ledger_tables(settings, settings.model_name)
        known = gaps.asked(("coverage", "performance"), lambda: known_outcomes(ledger, model_hash), None)
    first = _first_answer(PredictionLog.of(settings), now)
    return period_of(now, asked, horizon, first_answer=first, known=known)


def _first_answer(log: PredictionLog, now: datetime) -> datetime | None:
    """When the first answer was given of which the log knows; by the name of its file where that cannot be read."""
    for file in log.files():  # a worker makes its file when it starts, so the first may hold nothing
        try:
            first = log.given(file, _BEGINNING, now)[1]
        except LogDamaged:
            return datetime.fromisoformat(file.day).replace(tzinfo=UTC)
        if first is not None:
            return first
    return None


def _watched(
    settings: Settings, champion: KnownModel | None, period: Period, gaps: Gaps
) -> tuple[Drift | None, MissingOutcomes | None, OutcomeFacts]:
    """What the champion's answers and their outcomes show; nothing where it is not known."""
    if champion is None:
        return None, None, OutcomeFacts()
    model_hash, manifest = champion.loaded.model_hash, champion.manifest
    ledger = open_ledger_tables(settings, settings.model_name)
    no_detectors: dict[str, Detector] = {}
    detectors = gaps.asked(
        ("drift", "coverage"), lambda: detectors_of(ledger, model_hash, period.answers.since), no_detectors
    )
    outcomes = gaps.asked(
        ("coverage", "performance"),
        lambda: outcome_facts(ledger, model_hash, manifest, period.outcomes, detectors),
        OutcomeFacts(),
    )
    missing = gaps.asked("coverage", lambda: missing_outcomes(settings, model_hash, manifest, period.now), None)
    columns = champion.features.features
    drift = drift_facts(settings, model_hash, columns, detectors.get("drift"), gaps)
    return drift, missing, outcomes


def _expected(
    settings: Settings,
    champion: KnownModel | None,
    period: Period,
    outcomes: OutcomeFacts,
    gaps: Gaps,
) -> ExpectedHistory | None:
    """What the champion's answers lead to expect of their outcomes."""
    if champion is None:
        return None
    ledger, model_hash = open_ledger_tables(settings, settings.model_name), champion.loaded.model_hash
    return gaps.asked(
        "performance",
        lambda: expected_facts(ledger, model_hash, champion.manifest, period.expected, outcomes),
        None,
    )


def _named(models: Sequence[KnownModel], lineages: Lineages) -> dict[str, NamedModel]:
    """Models by hash: those that are live, and those that answered in the period."""
    told = {
        model_hash: NamedModel(str(facts.get("bento_tag", model_hash[:12])), tuple(facts["classes"]))
        for model_hash, facts in lineages.items()
    }
    return told | {m.loaded.model_hash: NamedModel(m.tag, m.manifest.classes) for m in models}
