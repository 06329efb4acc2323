"""The drift part of a report: the champion's newest answers against its reference, beside the detector's alarm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt

from ml_core.base.arrays import FloatArray
from ml_core.base.clock import moment_of
from ml_core.base.errors import DataError
from ml_core.base.settings import Settings
from ml_core.features.columns import Column
from ml_core.lab.config import DriftConfig
from ml_core.lab.drift.current_window import level_counts
from ml_core.lab.drift.drift_check import DriftCheck
from ml_core.lab.drift.drift_report import FEATURE_FLAGS, FEATURE_STATES, DriftReport, Finding, should_retrain
from ml_core.lab.drift.reference_window import CategoryReference, NumberReference
from ml_core.lab.report.facts_drift import Detector, Drift, FeatureDrift, LevelShares, NumberShares, ScoreShift, Shares
from ml_core.lab.report.gaps import Gaps
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.lab.watching.live_drift import LiveWindow, check_live, live_window
from ml_core.serve.home.table_stores import TableStore

__all__ = ["drift_facts", "level_shares", "number_shares", "score_shares"]

_RULES = {
    "ks_mean_shift": "A feature drifts if its law has changed (two-sample Kolmogorov-Smirnov test, p < {alpha:g}) and "
    "its mean has moved by more than {shift:g} standard deviations. Each look at each feature may be wrong by chance, "
    "and looks add up.",
    "extended": "A feature drifts if its law, its spread, its levels or its missing values have changed (tests "
    "corrected for their number, p < {alpha:g}) and the change is large. Looks add up.",
}

_BINS = 24
_SCORE_BINS = 25
_MOST_LEVELS = 12
_REST = "all others"
_SHOWN_OF_REFERENCE, _SHOWN_OF_CURRENT = (0.005, 0.995), (0.025, 0.975)
"""Quantiles that must lie in the picture: a few far values would leave all others in one bin."""


def drift_facts(
    settings: Settings, model_hash: str, columns: Sequence[Column], detector: Detector | None, gaps: Gaps
) -> Drift | None:
    """The newest answers against the champion's reference; None where nothing has been compared yet.

    Where the log holds no inputs to compare, the window the monitor judged last is told, without pictures.

    Parameters
    ----------
    model_hash, columns : of the champion; its feature columns
    """
    live = gaps.asked("drift", lambda: _live(settings), None)
    if live is not None and live.reference.model_hash == model_hash:
        return _of_live(live, detector)
    tables = open_ledger_tables(settings, settings.model_name)
    window = gaps.asked("drift", lambda: _last_window(tables, model_hash), None)
    return None if window is None else _of_window(window, columns, detector)


def _live(settings: Settings) -> LiveWindow | None:
    """As many of the newest answers as the detector takes at a time; None where there are none to compare."""
    try:
        return live_window(settings, settings.drift_window_rows)
    except DataError:  # nothing is live, nothing was asked, or inputs are not kept
        return None


def _last_window(tables: TableStore, model_hash: str) -> dict[str, Any] | None:
    with Ledger.reading(tables) as ledger:
        windows = [] if ledger is None else ledger.windows(model_hash, 1)
    return windows[0] if windows else None


def _of_live(live: LiveWindow, detector: Detector | None) -> Drift:
    check = check_live(live, DriftConfig())
    columns = {column.name: column for column in live.reference.columns}
    features = tuple(
        _feature(report, columns.get(report.feature), _shares(live, report, columns)) for report in check.features
    )
    return Drift(
        rule=check.rule,
        rule_in_words=_rule_words(check.rule),
        n_reference=check.rows_reference,
        n_current=live.rows,
        since=live.since,
        until=live.until,
        features=features,
        retrain_share=check.threshold_fraction,
        retrain_advised=check.retrain_advised,
        reasons=check.reasons,
        scores=_scores(live, check),
        detector=detector,
    )


def _of_window(window: Mapping[str, Any], columns: Sequence[Column], detector: Detector | None) -> Drift:
    """What the ledger keeps of a window: reports, and no values."""
    known = {column.name: column for column in columns}
    reports = [_report(found) for found in window["reports"]["features"]]
    share = DriftConfig().threshold_fraction
    return Drift(
        rule="extended",
        rule_in_words=_rule_words("extended"),
        n_reference=max((report.n_reference for report in reports), default=0),
        n_current=window["rows"],
        since=moment_of(window["first_us"]),
        until=moment_of(window["last_us"]),
        features=tuple(_feature(report, known.get(report.feature), None) for report in reports),
        retrain_share=share,
        retrain_advised=should_retrain(reports, share),
        detector=detector,
    )


def _rule_words(rule: str) -> str:
    limits = DriftConfig()
    return _RULES[rule].format(alpha=limits.alpha, shift=limits.min_shift_fraction)


def _shares(live: LiveWindow, report: DriftReport, columns: Mapping[str, Column]) -> Shares | None:
    reference, values = live.reference.window.columns[report.feature], live.inputs[report.feature]
    if isinstance(reference, NumberReference):
        return number_shares(reference, values, whole=columns[report.feature].dtype == "int")
    return level_shares(reference, values) if isinstance(reference, CategoryReference) else None


def _scores(live: LiveWindow, check: DriftCheck) -> tuple[ScoreShift, ...]:
    """P(label) of each label; of two only the second, which says all of the first."""
    reports = check.scores[1:] if len(check.scores) == 2 else check.scores
    found = ((r, score_shares(live.reference.window.scores[r.feature], live.scores[r.feature])) for r in reports)
    return tuple(ScoreShift(r.feature, shares, r.ks_statistic, r.p_value) for r, shares in found if shares is not None)


def _feature(report: DriftReport, column: Column | None, shares: Shares | None) -> FeatureDrift:
    is_number = report.kind == "number"
    moved = report.mean_shift if is_number and report.reference_sd else None
    return FeatureDrift(
        name=report.feature,
        state=report.state,
        is_drifted=report.drifted,
        is_tested=report.tested,
        is_warned=report.state == "warned",
        unit="" if column is None else column.unit,
        statistic_name="" if report.ks_statistic is None else "KS",
        statistic=report.ks_statistic,
        p_value=report.p_value,
        reference_mean=report.reference_mean if is_number else None,
        current_mean=report.current_mean if is_number else None,
        shift_sd=None if moved is None or report.reference_sd is None else moved / report.reference_sd,
        reference_missing=report.missing_reference,
        current_missing=report.missing_current,
        shares=shares,
        notes=_notes(report),
    )


def _notes(report: DriftReport) -> tuple[str, ...]:
    """Why it was not judged, or what a state says beyond its name; then what else was noticed."""
    state: tuple[str, ...] = ()
    if report.state == "too_few":
        state = (
            f"{report.n_current:,} values now, {report.n_reference:,} before: at least 30 are needed on each side",
        )
    elif report.state not in {"drifted", "ok", "warned"}:
        state = (FEATURE_STATES[report.state],)
    return (*state, *(FEATURE_FLAGS[flag] for flag in report.flags))


def _report(kept: Mapping[str, Any]) -> DriftReport:
    findings = tuple(Finding(**finding) for finding in kept["findings"])
    return DriftReport(**{**kept, "flags": tuple(kept["flags"]), "findings": findings})


# --- a column's reference beside its current values, over the same bins or levels -----------------------------------


def number_shares(reference: NumberReference, values: FloatArray, *, whole: bool) -> NumberShares | None:
    """Histograms of a column of numbers; None where the reference is not published or no picture can be made.

    Parameters
    ----------
    values : shape (n,), NaN where missing
    whole : values are whole numbers, so that every bin must hold as many of them
    """
    present = values[np.isfinite(values)]
    if not reference.points.size:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # near the largest float there is no picture
        shown = [np.quantile(reference.points, _SHOWN_OF_REFERENCE)]
        shown += [np.quantile(present, _SHOWN_OF_CURRENT)] if present.size else []
        low, high = float(np.min(shown)), float(np.max(shown))
        if not (np.isfinite(low) and np.isfinite(high)):
            return None
        edges = _whole_edges(low, high) if whole else _even_edges(low, high)
    return _over(edges, reference.points, present)


def score_shares(reference: NumberReference, values: FloatArray) -> NumberShares | None:
    """Histograms of a probability over all of [0, 1]; None where the reference is not published."""
    return _over(np.linspace(0.0, 1.0, _SCORE_BINS + 1), reference.points, values) if reference.points.size else None


def level_shares(reference: CategoryReference, values: npt.NDArray[Any]) -> LevelShares:
    """Shares of the most frequent levels of either side, the most frequent first, and of all others together.

    Parameters
    ----------
    values : shape (n,), as ``ColumnArrays`` have them
    """
    counts, other = level_counts(reference, values)
    before = _portions(reference.counts, reference.count)
    now = _portions(counts, int(counts.sum()) + other)
    order = sorted(range(len(before)), key=lambda k: (-max(before[k], now[k]), k))
    shown, rest = order[:_MOST_LEVELS], order[_MOST_LEVELS:]
    rows = [(str(reference.levels[k]), before[k], now[k]) for k in shown if before[k] or now[k]]
    left = (
        sum(before[k] for k in rest) + _share(reference.rest or 0, reference.count),
        sum(now[k] for k in rest) + _share(other, int(counts.sum()) + other),
    )
    if any(left):
        rows.append((_REST, *left))
    levels, first, second = zip(*rows, strict=True) if rows else ((), (), ())
    return LevelShares(levels, first, second)


def _over(edges: FloatArray, reference: FloatArray, current: FloatArray) -> NumberShares | None:
    if not (np.isfinite(edges).all() and (np.diff(edges) > 0.0).all()):
        return None
    held = (np.histogram(side, edges)[0] / max(1, side.size) for side in (reference, current))
    before, now = (tuple(shares.tolist()) for shares in held)
    return NumberShares(tuple(edges.tolist()), before, now)


def _even_edges(low: float, high: float) -> FloatArray:
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _BINS + 1)


def _whole_edges(low: float, high: float) -> FloatArray:
    first, last = floor(low), ceil(high)
    width = ceil((last - first + 1) / _BINS)
    n = ceil((last - first + 1) / width)
    return first - 0.5 + width * np.arange(n + 1, dtype=np.float64)


def _portions(counts: npt.NDArray[np.int64], total: int) -> list[float]:
    return [_share(int(n), total) for n in counts]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
