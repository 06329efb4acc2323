"""All facts of one report, from files alone: each part is collected by itself, and what cannot be read leaves a gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ml_core.base.errors import DataError, LogDamaged
from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.features.columns import features_of
from ml_core.lab.report.collect_answers import AnswersSeen, seen_answers
from ml_core.lab.report.collect_detectors import detectors_of
from ml_core.lab.report.collect_drift import drift_facts
from ml_core.lab.report.collect_gaps import Gaps
from ml_core.lab.report.collect_journal import rollout_facts
from ml_core.lab.report.collect_models import KnownModel, known_models, label_words, model_facts
from ml_core.lab.report.collect_outcomes import known_outcomes, label_facts, outcome_facts
from ml_core.lab.report.collect_period import Period, period_of
from ml_core.lab.report.collect_serving import circuits, monitoring, serving
from ml_core.lab.report.collect_shadow import NamedModel, shadow_pairs
from ml_core.lab.report.collect_store import store_facts
from ml_core.lab.report.facts import Coverage, Detector, Drift, Labels, Performance, ReportFacts
from ml_core.lab.watching.health_monitor import ledger_path
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.promotion_record import promotion_path
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import WorkerReport, read_reports

__all__ = ["collect_facts"]

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Home:
    """What several parts need, read once.

    Attributes
    ----------
    entries : of the journal on the model, oldest first
    models : those that are live and could be loaded, the champion first
    """

    settings: Settings
    log: PredictionLog
    entries: Sequence[Mapping[str, Any]]
    state: RolloutState | None
    reports: Sequence[WorkerReport]
    models: tuple[KnownModel, ...]

    @property
    def champion(self) -> KnownModel | None:
        """The model that answers, where it could be loaded."""
        return next((model for model in self.models if model.slot == "champion"), None)


@dataclass(frozen=True, slots=True)
class _Watched:
    """What is known of the champion's drift and outcomes."""

    drift: Drift | None = None
    coverage: Coverage | None = None
    performance: Performance | None = None


def collect_facts(
    settings: Settings, asked: timedelta, now: datetime, *, clock_s: float | None = None, verify: bool = False
) -> ReportFacts:
    """Everything one report tells about the configured model. The same stores and moment give the same facts.

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
    home = _look(settings, gaps)
    period = _period(home, asked, now, gaps)
    seen = gaps.asked(
        "answers", lambda: seen_answers(home.log, period.answers, _classes(home), gaps), AnswersSeen(None, {})
    )
    watched = _watched(home, period, gaps)
    champion = home.champion
    return ReportFacts(
        model_name=settings.model_name,
        written_at=now,
        since=period.answers.since,
        until=now,
        bucket_s=period.answers.bucket.total_seconds(),
        label_words=label_words(home.models),
        serving=serving(home.reports, home.state, clock_s),
        models=tuple(model_facts(model, home.entries) for model in home.models),
        monitoring=gaps.asked(
            ("drift", "coverage"),
            lambda: monitoring(settings, None if champion is None else champion.loaded.model_hash),
            None,
        ),
        drift=watched.drift,
        answers=seen.history,
        labels=_labels(home, period, gaps),
        coverage=watched.coverage,
        performance=watched.performance,
        shadow=gaps.asked(
            "shadow",
            lambda: shadow_pairs(
                settings.shadow_log, period.answers, _named(home, seen), home.reports, home.state, gaps
            ),
            (),
        ),
        circuits=circuits(home.reports, clock_s),
        rollout=rollout_facts(home.entries, home.state),
        store=gaps.asked(
            "log",
            lambda: store_facts(settings, home.reports, home.state, gaps, verified_at=now if verify else None),
            None,
        ),
        gaps=gaps.found,
    )


def _look(settings: Settings, gaps: Gaps) -> _Home:
    none: list[dict[str, Any]] = []
    every = gaps.asked("rollout", Journal(settings.journal).entries, none)
    entries = [entry for entry in every if entry.get("model") == settings.model_name]
    _check_known(settings, entries, every)
    state = gaps.asked(("rollout", "models"), RolloutStore(settings).read, None)
    return _Home(
        settings=settings,
        log=PredictionLog(settings.log),
        entries=entries,
        state=state,
        reports=gaps.asked("circuits", lambda: read_reports(settings.worker_reports), []),
        models=known_models(settings, ModelLoader(settings), state, gaps),
    )


def _check_known(settings: Settings, entries: Sequence[Mapping[str, Any]], every: Sequence[Mapping[str, Any]]) -> None:
    name = settings.model_name
    traces = (
        promotion_path(settings.promotions, name),
        RolloutStore(settings).path,
        settings.worker_reports,
        settings.log,
        ledger_path(settings),
    )
    if settings.model or entries or any(trace.exists() for trace in traces):
        return
    known = {path.stem for folder in (settings.promotions, settings.rollouts) for path in folder.glob("*.json")}
    known |= {str(entry["model"]) for entry in every if "model" in entry}
    others = f"there is {', '.join(sorted(known))}" if known else "nothing of any other model either"
    raise DataError(
        f"the model {name}",
        f"{settings.home} knows nothing of it, {others}: give another --model, or set SURETY_HOME",
    )


def _period(home: _Home, asked: timedelta, now: datetime, gaps: Gaps) -> Period:
    champion, ledger = home.champion, ledger_path(home.settings)
    known = (
        None
        if champion is None
        else gaps.asked(("coverage", "performance"), lambda: known_outcomes(ledger, champion.loaded.model_hash), None)
    )
    horizon = timedelta(days=home.settings.label_horizon_days)
    return period_of(now, asked, horizon, first_answer=_first_answer(home.log, now), known=known)


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


def _classes(home: _Home) -> Sequence[object]:
    return () if home.champion is None else home.champion.manifest.classes


def _watched(home: _Home, period: Period, gaps: Gaps) -> _Watched:
    """What the champion's answers and their outcomes show; nothing where it is not known."""
    champion = home.champion
    if champion is None:
        return _Watched()
    ledger, model_hash, manifest = ledger_path(home.settings), champion.loaded.model_hash, champion.manifest
    detectors: dict[str, Detector] = gaps.asked(
        ("drift", "coverage"), lambda: detectors_of(ledger, model_hash, period.answers.since), {}
    )
    none: tuple[Coverage | None, Performance | None] = (None, None)
    coverage, performance = gaps.asked(
        ("coverage", "performance"),
        lambda: outcome_facts(ledger, model_hash, manifest, period.outcomes, detectors),
        none,
    )
    columns = features_of(get_feature_version(manifest.feature_version).columns)
    drift = drift_facts(home.settings, model_hash, columns, detectors.get("drift"), gaps)
    return _Watched(drift, coverage, performance)


def _labels(home: _Home, period: Period, gaps: Gaps) -> Labels:
    days = home.settings.label_horizon_days
    return gaps.asked(
        ("coverage", "performance"),
        lambda: label_facts(ledger_path(home.settings), home.log, period, days, gaps),
        Labels(horizon_days=days),
    )


def _named(home: _Home, seen: AnswersSeen) -> dict[str, NamedModel]:
    """Models by hash: those that are live, and those that answers of the period tell of."""
    told = {
        model_hash: NamedModel(str(facts.get("bento_tag", model_hash[:12])), tuple(facts["classes"]))
        for model_hash, facts in seen.lineages.items()
    }
    return told | {m.loaded.model_hash: NamedModel(m.tag, m.manifest.classes) for m in home.models}
