"""A drift check of two tables, or of a model's reference and a table, with advice on retraining."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
from ml_core.lab.config import DriftConfig
from ml_core.lab.drift.current_stream import summarised_stream
from ml_core.lab.drift.current_window import summarised
from ml_core.lab.drift.detect import detect_score_drift, judged
from ml_core.lab.drift.drift_columns import Table
from ml_core.lab.drift.drift_report import DriftReport, counted, drifted_share, should_retrain
from ml_core.lab.drift.drift_rules import Limits
from ml_core.lab.drift.drift_table import DriftTable
from ml_core.lab.drift.reference_window import ReferenceWindow

if TYPE_CHECKING:
    from ml_core.lab.drift.domain_classifier import DomainReport

__all__ = ["DriftCheck", "check_files", "check_table", "read_reference"]

_IN_MEMORY_CELLS = 20_000_000
"""Cells of a current table that are read at once (160 MB); a larger Parquet file is read a piece at a time."""

_STATEMENTS = {
    "ks_mean_shift": "per check: every feature is tested at alpha {alpha:g} by itself, without a correction for their "
    "number, so features are flagged now and then without any drift; repeated checks add up",
    "extended": "per check: without any drift some feature is flagged in about {alpha:g} of checks at most "
    "(Benjamini-Hochberg over all tests); repeated checks add up",
}


@dataclass(frozen=True, slots=True)
class DriftCheck:
    """Result of one check.

    Attributes
    ----------
    rule, alpha, min_shift_fraction, threshold_fraction : the configuration
    rows_reference, rows_current : rows on each side
    features_tested, features_drifted : how many; ``drifted_share`` is their ratio, 0.0 where none was tested
    retrain_advised : the share reaches the threshold
    false_alarms : how often the rule is wrong when nothing drifts, in words
    notes : columns that were not compared, in words
    features : one report for each feature
    scores : one report for each label's probability; the advice does not depend on them
    domain : the domain classifier's report, if asked for; the advice does not depend on it
    """

    rule: str
    alpha: float
    min_shift_fraction: float
    threshold_fraction: float
    rows_reference: int
    rows_current: int
    features_tested: int
    features_drifted: int
    drifted_share: float
    retrain_advised: bool
    false_alarms: str
    notes: tuple[str, ...]
    features: tuple[DriftReport, ...]
    scores: tuple[DriftReport, ...] = ()
    domain: DomainReport | None = None


def check_table(
    window: ReferenceWindow,
    table: Table,
    config: DriftConfig,
    *,
    probabilities: Table | None = None,
    notes: Sequence[str] = (),
) -> DriftCheck:
    """Compare rows in memory with a reference.

    Parameters
    ----------
    table : frame of raw values, or arrays; see ``columns.features_in``
    probabilities : P(label) of the same rows, one column per label, if a model has scored them
    notes : kept in the result

    Raises
    ------
    DataError
        A column or label of the reference is missing.
    """
    limits = Limits(config.alpha, config.min_shift_fraction)
    reports = judged(window, summarised(window, table, extended=config.rule == "extended"), limits, config.rule)
    rows = max((len(table[name]) for name in window.columns), default=0)
    check = _check(window, reports, rows, config, notes)
    if probabilities is None or not window.scores:
        return check
    scores = detect_score_drift(window, probabilities, config.alpha, config.min_shift_fraction, rule=config.rule)
    return replace(check, scores=tuple(scores))


def read_reference(reference: Path, columns: Sequence[Column] = (), *, among: Sequence[str] = ()) -> ReferenceWindow:
    """The window of a table file of raw rows, or of the ``reference.npz`` of a model.

    Parameters
    ----------
    columns : feature columns of a feature version; an ``.npz`` needs them
    among : without ``columns``: compare those of the table's columns that stand here too

    Raises
    ------
    DataError
        The file cannot be used, or lacks a column.
    ArtefactError
        The ``.npz`` is no reference, or one of another feature version.
    """
    if _is_published(reference):
        if not columns:
            raise DataError(str(reference), "is a model's reference: name its feature version")
        return ReferenceWindow.read(reference, columns)
    table = DriftTable(reference, columns)
    names = [column.name for column in columns] or [name for name in table.columns if name in among]
    absent = [name for name in names if name not in table.columns]
    if absent:
        raise DataError(str(reference), f"has no column {', '.join(absent)}")
    if not names:
        raise DataError(str(reference), "has no column in common with the current rows")
    return ReferenceWindow.of(table.frame(names), names, columns)


def check_files(
    reference: Path,
    current: Path,
    config: DriftConfig,
    columns: Sequence[Column] = (),
    *,
    with_domain: bool = False,
    seed: int = 0,
) -> DriftCheck:
    """Compare a table file with another one, or with the ``reference.npz`` of a model.

    A Parquet file of current rows may be of any size: a large one is read a piece at a time.

    Parameters
    ----------
    reference : ``.parquet`` or ``.csv`` with raw rows, or ``.npz``
    current : ``.parquet`` or ``.csv`` with raw rows
    columns : feature columns of a feature version; without them the columns of both files are compared as their cells
        look
    with_domain : also train a domain classifier, on at most 5,000 random rows of each side
    seed : decides those rows

    Raises
    ------
    DataError
        A file cannot be used, lacks a column, or cannot serve what was asked.
    ArtefactError
        The ``.npz`` is no reference, or one of another feature version.
    """
    now = DriftTable(current, columns)
    if not now.rows:
        raise DataError(str(current), "has no rows")
    if with_domain and _is_published(reference):
        raise DataError(str(reference), "holds no rows, and a domain classifier needs them: give a table of rows")
    window = read_reference(reference, columns, among=() if columns else now.columns)
    names = list(window.columns)
    absent = [name for name in names if name not in now.columns]
    if absent:
        raise DataError(str(current), f"has no column {', '.join(absent)}")
    check = _check_file(window, now, names, config, _ignored(reference, now, names))
    if not with_domain:
        return check
    from ml_core.lab.drift.domain_classifier import SAMPLE_ROWS, domain_classifier  # xgboost takes a moment to import

    rng = np.random.default_rng(seed)
    then, today = (side.sample(names, SAMPLE_ROWS, rng) for side in (DriftTable(reference, columns), now))
    return replace(check, domain=domain_classifier(then, today, names, columns, alpha=config.alpha, seed=seed))


def _check_file(
    window: ReferenceWindow, now: DriftTable, names: Sequence[str], config: DriftConfig, notes: Sequence[str]
) -> DriftCheck:
    if now.rows * len(names) <= _IN_MEMORY_CELLS:
        return check_table(window, now.frame(names), config, notes=notes)
    found = summarised_stream(window, lambda: now.batches(names), extended=config.rule == "extended")
    reports = judged(window, found, Limits(config.alpha, config.min_shift_fraction), config.rule)
    return _check(window, reports, now.rows, config, notes)


def _check(
    window: ReferenceWindow, reports: Sequence[DriftReport], rows: int, config: DriftConfig, notes: Sequence[str]
) -> DriftCheck:
    among = counted(reports)
    return DriftCheck(
        rule=config.rule,
        alpha=config.alpha,
        min_shift_fraction=config.min_shift_fraction,
        threshold_fraction=config.threshold_fraction,
        rows_reference=window.rows,
        rows_current=rows,
        features_tested=len(among),
        features_drifted=sum(report.drifted for report in among),
        drifted_share=drifted_share(reports),
        retrain_advised=should_retrain(reports, config.threshold_fraction),
        false_alarms=_STATEMENTS[config.rule].format(alpha=config.alpha),
        notes=tuple(notes),
        features=tuple(reports),
    )


def _is_published(reference: Path) -> bool:
    return reference.suffix.lower() == ".npz"


def _ignored(reference: Path, now: DriftTable, names: Sequence[str]) -> tuple[str, ...]:
    """Columns that are not compared, in words."""
    sides = (
        {"current": now.columns}
        if _is_published(reference)
        else {"reference": DriftTable(reference).columns, "current": now.columns}
    )
    left_out = {side: [name for name in columns if name not in names] for side, columns in sides.items()}
    return tuple(
        f"columns of the {side} table that are not compared: {', '.join(n)}" for side, n in left_out.items() if n
    )
