"""A drift check of two tables, or of a model's reference and a table, with advice on retraining."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ml_core.base.errors import DataError
from ml_core.features.columns import Column
from ml_core.lab.batch.engines import Engine, InProcess
from ml_core.lab.config import DataConfig, DriftConfig
from ml_core.lab.drift.current_window import independent_share, summarised
from ml_core.lab.drift.detect import detect_score_drift, judged
from ml_core.lab.drift.drift_columns import Table
from ml_core.lab.drift.drift_report import DriftReport, counted, drifted_share, should_retrain
from ml_core.lab.drift.drift_rules import Limits
from ml_core.lab.drift.drift_stream import summarised_table
from ml_core.lab.drift.drift_table import DriftTable
from ml_core.lab.drift.reference_window import ReferenceWindow

if TYPE_CHECKING:
    from ml_core.lab.drift.domain_classifier import DomainReport

__all__ = ["DriftCheck", "also_advised", "check_files", "check_table", "read_reference"]

_IN_MEMORY_CELLS = 20_000_000
"""Cells of current tables that are read at once (160 MB); larger ones are read a piece at a time."""

_MOST_NAMES = 6

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
    retrain_advised : there is a reason
    reasons : why retraining is advised, in words: many features drifted, drifted features are important to the model,
        or its probabilities drifted
    false_alarms : how often the rule is wrong when nothing drifts, in words
    notes : columns that were not compared, in words
    features : one report for each feature
    scores : one report for each label's probability
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
    reasons: tuple[str, ...] = ()
    scores: tuple[DriftReport, ...] = ()
    domain: DomainReport | None = None


def check_table(
    window: ReferenceWindow,
    table: Table,
    config: DriftConfig,
    *,
    probabilities: Table | None = None,
    patients: Sequence[Hashable] = (),
    reference_patients: Sequence[Hashable] = (),
    notes: Sequence[str] = (),
) -> DriftCheck:
    """Compare rows in memory with a reference.

    Parameters
    ----------
    table : frame of raw values, or arrays; see ``columns.features_in``
    probabilities : P(label) of these rows or of most, one column per label, if a model has scored them
    patients, reference_patients : of whom each row of the table is, and of the reference, where that is known (None:
        the row stands alone); without them rows count as independent
    notes : kept in the result

    Raises
    ------
    DataError
        A column or label of the reference is missing.
    """
    limits = Limits(config.alpha, config.min_shift_fraction)
    share = independent_share(patients, reference_patients)
    current = summarised(window, table, extended=config.rule == "extended")
    reports = judged(window, current, limits, config.rule, share)
    rows = max((len(table[name]) for name in window.columns), default=0)
    scores: list[DriftReport] = []
    if probabilities is not None and window.scores:
        scores = detect_score_drift(
            window, probabilities, config.alpha, config.min_shift_fraction, rule=config.rule, share=share
        )
    return _check(window, reports, rows, config, (*notes, *_repeats(rows, share)), scores)


def also_advised(check: DriftCheck, reasons: Sequence[str]) -> DriftCheck:
    """The check with further reasons to retrain, such as skill that was lost; the same without any."""
    return replace(check, reasons=(*check.reasons, *reasons), retrain_advised=check.retrain_advised or bool(reasons))


def read_reference(
    reference: Path, columns: Sequence[Column] = (), *, among: Sequence[str] = (), data: DataConfig | None = None
) -> ReferenceWindow:
    """The window of a table file of raw rows, or of the ``reference.npz`` of a model.

    Parameters
    ----------
    columns : feature columns of a feature version; an ``.npz`` needs them
    among : without ``columns``: compare those of the table's columns that stand here too
    data : how a file of rows is written; as usual where it is not given

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
    table = DriftTable(reference, columns, data)
    names = [column.name for column in columns] or [name for name in table.columns if name in among]
    table.check_present(names)
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
    patient: str | None = None,
    data: DataConfig | None = None,
    engine: Engine = InProcess(),  # noqa: B008 - has no state
    advance: Callable[[float], None] = lambda _: None,
) -> DriftCheck:
    """Compare tables with others, or with the ``reference.npz`` of a model.

    Current rows in Parquet may be of any number: many are read a piece at a time.

    Parameters
    ----------
    reference : ``.parquet`` or ``.csv`` with raw rows, a folder of such files, an address of a store, or ``.npz``
    current : likewise raw rows
    columns : feature columns of a feature version; without them the columns of both files are compared as their cells
        look
    with_domain : also train a domain classifier, on at most 5,000 random rows of each side
    seed : decides those rows
    patient : column that says of whom a row is, in the current table and, for rows, in the reference; without it every
        row counts as independent
    data : how files of rows are written and what their values mean; as usual where it is not given
    engine : looks at the pieces of many rows
    advance : told the share of that work that has just been done

    Raises
    ------
    DataError
        A file cannot be used, lacks a column, or cannot serve what was asked.
    ArtefactError
        The ``.npz`` is no reference, or one of another feature version.
    """
    now = DriftTable(current, columns, data)
    now.check_present([column.name for column in columns])
    if not now.rows:
        raise DataError(str(current), "has no rows")
    if with_domain and _is_published(reference):
        raise DataError(str(reference), "holds no rows, and a domain classifier needs them: give a table of rows")
    window = read_reference(reference, columns, among=() if columns else now.columns, data=data)
    names = list(window.columns)
    now.check_present(names)
    before = None if _is_published(reference) else DriftTable(reference, columns, data)
    for table in (now, before):
        _check_patient(table, patient)
    notes = _ignored(before, now, [*names, patient or ""])
    if now.rows * len(names) <= _IN_MEMORY_CELLS:
        check = check_table(
            window, now.frame(names), config,
            patients=_patients(now, patient), reference_patients=_patients(before, patient), notes=notes,
        )  # fmt: skip
    else:
        found, people = summarised_table(
            window, now, engine, extended=config.rule == "extended", patient=patient, advance=advance
        )
        share = 1.0 if patient is None else independent_share(people, _patients(before, patient))
        reports = judged(window, found, Limits(config.alpha, config.min_shift_fraction), config.rule, share)
        check = _check(window, reports, now.rows, config, (*notes, *_repeats(now.rows, share)))
    if not with_domain:
        return check
    from ml_core.lab.drift.domain_classifier import SAMPLE_ROWS, domain_classifier  # xgboost takes a moment to import

    rng, wanted = np.random.default_rng(seed), list(dict.fromkeys([*names, *([] if patient is None else [patient])]))
    then, today = (side.sample(wanted, SAMPLE_ROWS, rng) for side in (before or now, now))
    sampled = None if patient is None else (_hashable(then[patient]), _hashable(today[patient]))
    domain = domain_classifier(then, today, names, columns, alpha=config.alpha, seed=seed, patients=sampled)
    return replace(check, domain=domain)


def _check_patient(table: DriftTable | None, patient: str | None) -> None:
    if table is not None and patient is not None and patient not in table.columns:
        raise DataError(str(table.path), f"has no column {patient}, which is to say of whom a row is")


def _patients(table: DriftTable | None, patient: str | None) -> list[Hashable]:
    """Of whom each row of a table is; empty where that is not asked."""
    if table is None or patient is None:
        return []
    return _hashable(table.frame([patient])[patient])


def _hashable(cells: pd.Series[Any]) -> list[Hashable]:
    return [None if missing else cell for cell, missing in zip(cells.tolist(), cells.isna().tolist(), strict=True)]


def _check(
    window: ReferenceWindow,
    reports: Sequence[DriftReport],
    rows: int,
    config: DriftConfig,
    notes: Sequence[str],
    scores: Sequence[DriftReport] = (),
) -> DriftCheck:
    among = counted(reports)
    reasons = _reasons(window, reports, scores, config)
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
        retrain_advised=bool(reasons),
        false_alarms=_STATEMENTS[config.rule].format(alpha=config.alpha),
        notes=tuple(notes),
        features=tuple(reports),
        reasons=reasons,
        scores=tuple(scores),
    )


def _reasons(
    window: ReferenceWindow, reports: Sequence[DriftReport], scores: Sequence[DriftReport], config: DriftConfig
) -> tuple[str, ...]:
    """Why retraining is advised. A change may matter though few features show it."""
    among, drifted = counted(reports), [report.feature for report in reports if report.drifted]
    important = sum(window.importance.get(name, 0.0) for name in drifted)
    found = []
    if should_retrain(reports, config.threshold_fraction):
        found.append(f"{len(drifted)} of {len(among)} tested features drifted")
    if important >= config.importance_fraction:
        names = ", ".join(sorted(drifted, key=lambda name: -window.importance.get(name, 0.0))[:_MOST_NAMES])
        found.append(f"what drifted carries {important:.0%} of the model's importance: {names}")
    if any(report.drifted for report in scores):
        found.append("the model's probabilities drifted")
    return tuple(found)


def _repeats(rows: int, share: float) -> tuple[str, ...]:
    """How many rows the tests counted, where patients repeat."""
    if share >= 1.0:
        return ()
    return (f"subjects repeat: {rows} rows were tested as {round(rows * share)} independent ones",)


def _is_published(reference: Path) -> bool:
    return reference.suffix.lower() == ".npz"


def _ignored(before: DriftTable | None, now: DriftTable, names: Sequence[str]) -> tuple[str, ...]:
    """Columns that are not compared, in words."""
    sides = {"current": now.columns} if before is None else {"reference": before.columns, "current": now.columns}
    left_out = {side: [name for name in columns if name not in names] for side, columns in sides.items()}
    return tuple(
        f"columns of the {side} table that are not compared: {', '.join(n)}" for side, n in left_out.items() if n
    )
