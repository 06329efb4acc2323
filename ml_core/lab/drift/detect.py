"""Compares a current window with a reference window, feature by feature, and says in which state each one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ml_core.features.columns import Column
from ml_core.lab.drift.current_window import CurrentColumn, summarised
from ml_core.lab.drift.describe import described
from ml_core.lab.drift.drift_columns import Table
from ml_core.lab.drift.drift_report import DriftReport, Rule
from ml_core.lab.drift.drift_rules import Limits, adjusted, basic_findings, extended_findings
from ml_core.lab.drift.ks import p_values
from ml_core.lab.drift.reference_window import ReferenceWindow

__all__ = ["detect_drift", "detect_score_drift", "judged"]


def detect_drift(
    reference: Table | ReferenceWindow,
    current: Table,
    feature_cols: Sequence[str] | None = None,
    alpha: float = 0.05,
    min_shift_fraction: float = 0.10,
    *,
    rule: Rule = "ks_mean_shift",
    columns: Sequence[Column] = (),
) -> list[DriftReport]:
    """One report for each feature, in the order asked for; none is left out.

    ``ks_mean_shift`` (the default): drifted if the two-sample Kolmogorov-Smirnov test gives p < alpha *and* the mean
    moved by more than ``min_shift_fraction`` reference standard deviations (ddof 0), on the finite values, at least 30
    on each side. The p-value is exact up to 1,000 values a side. It does not correct for the number of features, and
    cannot see a change of variance, of missing values or of shares that keep the mean.

    ``extended``: numbers by the smaller of KS and Brown-Forsythe p-value, doubled, with W1 over a robust scale as
    effect; levels, and numbers with at most ten distinct values, by chi-square or Fisher's test with the
    Jensen-Shannon distance as effect; missing values by a 2 x 2 test. All p-values are corrected together
    (Benjamini-Hochberg at alpha), and a change counts if its effect is large as well.

    Both say "per check": over repeated checks false alarms add up. See ``ml_core.lab.drift.sequential`` for that.

    Parameters
    ----------
    reference, current : frames of raw values, or arrays of shape (n,) by name (see ``columns.features_in``); or a
        ``ReferenceWindow``, made once and used for many checks
    feature_cols : columns to compare; all of the reference if not given
    alpha : unitless, in (0, 1)
    min_shift_fraction : unitless, >= 0
    columns : a column table, to say what is a category; without it types decide

    Raises
    ------
    DataError
        A column is missing on one side.
    ValueError
        A limit is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> before, after = {"age": rng.normal(60, 10, 500)}, {"age": rng.normal(66, 10, 500)}
    >>> [(r.feature, r.state, r.method) for r in detect_drift(before, after, ["age"])]
    [('age', 'drifted', 'ks exact')]
    """
    limits = Limits(alpha, min_shift_fraction)
    if isinstance(reference, ReferenceWindow):
        window = reference if feature_cols is None else reference.only(feature_cols)
    else:
        names = [str(name) for name in reference] if feature_cols is None else feature_cols
        window = ReferenceWindow.of(reference, names, columns)
    return judged(window, summarised(window, current, extended=rule == "extended"), limits, rule)


def detect_score_drift(
    reference: ReferenceWindow,
    probabilities: Table,
    alpha: float = 0.05,
    min_shift_fraction: float = 0.10,
    *,
    rule: Rule = "ks_mean_shift",
) -> list[DriftReport]:
    """One report for the distribution of each label's probability, P(label): what the model makes of the rows.

    It stands beside the features and is not one of them: leave it out of ``should_retrain``.

    Parameters
    ----------
    reference : with ``scores``, as a model's own reference has
    probabilities : one column per label, in [0, 1]; labels that the reference lacks are not looked at

    Raises
    ------
    DataError
        A label of the reference is missing.
    ValueError
        A limit is out of its range.
    """
    limits, window = Limits(alpha, min_shift_fraction), ReferenceWindow(reference.rows, reference.scores)
    return judged(window, summarised(window, probabilities, extended=rule == "extended"), limits, rule)


def judged(
    window: ReferenceWindow, current: Mapping[str, CurrentColumn], limits: Limits, rule: Rule
) -> list[DriftReport]:
    """The reports on columns that were summarised beforehand, in memory or from a stream."""
    distances = {name: c.distance for name, c in current.items() if c.distance is not None}
    ks = dict(zip(distances, p_values(list(distances.values())).tolist(), strict=True))
    pairs = {name: (column, current[name]) for name, column in window.columns.items()}
    with np.errstate(over="ignore", invalid="ignore"):  # of values near the largest float; a flag tells of them
        if rule == "extended":
            single = [extended_findings(*pair, ks.get(name), limits) for name, pair in pairs.items()]
            findings = adjusted(single, limits.alpha)
        else:
            findings = [basic_findings(*pair, ks.get(name), limits) for name, pair in pairs.items()]
        told = zip(pairs.items(), findings, strict=True)
        return [described(name, *pair, of_feature, limits) for (name, pair), of_feature in told]
