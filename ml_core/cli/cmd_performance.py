"""`surety performance check`: how good the scores were, now that outcomes are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.options import Duration, asked_grouping, by_option, settings_option, slot_option
from ml_core.cli.output import emit, note, output_option, refuse

if TYPE_CHECKING:
    from ml_core.base.arrays import Label
    from ml_core.base.settings import Settings
    from ml_core.lab.watching.live_expectations import ExpectedStretch
    from ml_core.lab.watching.live_performance import MaturedAnswers


_BY_GROUP = (
    "auc", "brier", "brier_skill", "log_loss", "mean_set_size", "singleton_share", "empty_share", "calibration_slope",
    "calibration_intercept", "reliability", "unjudged",
)  # fmt: skip
"""What is told of a group: nothing that counts rows of a class, which may be few."""


@click.group(name="performance")
def command() -> None:
    """Realised performance of answers whose outcome is known.

    \b
    Example: surety performance check
    """


@command.command(name="check")
@click.option("--since", type=Duration(), help="Only answers of the last e.g. 24h, 30d (default: all).")
@slot_option()
@click.option(
    "--min-auc",
    type=click.FloatRange(0, 1),
    default=None,
    help="Exit status 3 if the whole interval of the AUC lies below this.",
)
@by_option("Also in each group of this grouping, such as age_band.")
@settings_option()
@output_option
def check_performance(
    since: float | None, slot: str, min_auc: float | None, grouping: str | None, settings: Settings, output: str
) -> None:
    """Show AUC, Brier score, log loss and set sizes on matured labels beside what training found on its test rows.

    ``expected`` is what the labels of the latest answers, or of those since then, are expected to show before they
    come. It is blind where the same inputs now mean another outcome. With --by, "groups" has a row for each group; one
    with fewer than 10 subjects has no numbers.

    \b
    Example: surety performance check --since 90d --by age_band --min-auc 0.6
    """
    from datetime import timedelta

    from ml_core.base.clock import utc_now
    from ml_core.lab.watching.live_performance import expected_of, matured_answers, performance_of

    first = None if since is None else utc_now() - timedelta(seconds=since)
    found = matured_answers(settings, first, slot)
    if grouping is not None:
        asked_grouping(found, grouping)
    judged = performance_of(found)
    if judged is None:
        note(f"no label of {found.model.tag} has matured yet; {found.waiting} wait for their horizon")
    trained = found.model.manifest.metrics
    emit(
        {
            "model": found.model.tag,
            "slot": slot,
            "matured": len(found.rows),
            "waiting": found.waiting,
            "realised": None if judged is None else asdict(judged),
            **({} if grouping is None else {"groups": _groups(found, grouping)}),
            "expected": _expected(expected_of(settings, found.model.model_hash, first), found.model.manifest.classes),
            "at_training": {
                name: trained.get(name) for name in ("roc_auc", "brier", "brier_skill", "log_loss", "mean_set_size")
            },
        },
        output,
    )
    if min_auc is not None and judged is not None and judged.auc is not None and judged.auc.upper < min_auc:
        refuse(f"the AUC is below {min_auc:g}: its interval ends at {judged.auc.upper:.3f}")


def _groups(found: MaturedAnswers, grouping: str) -> list[dict[str, Any]]:
    """Performance in each cell of a grouping."""
    from ml_core.lab.watching.matured_arrays import cells_of

    return [
        {
            "group": measured.cell.group,
            "subjects": measured.patients,
            **(dict.fromkeys(_BY_GROUP) if measured.performance is None else _shown(asdict(measured.performance))),
        }
        for measured in cells_of(found.rows, found.targets, found.model.manifest.groups, grouping)
    ]


def _shown(measured: dict[str, Any]) -> dict[str, Any]:
    return {name: measured[name] for name in _BY_GROUP}


def _expected(stretch: ExpectedStretch | None, classes: Sequence[Label]) -> dict[str, Any] | None:
    """What labels are expected to show, each number in its interval; None where nothing is expected."""
    if stretch is None:
        return None
    from ml_core.base.clock import utc_text

    found = stretch.found
    named = {"auc": found.auc, "brier": found.brier} | {
        f"coverage_class_{label}": each for label, each in zip(classes, found.coverage, strict=True)
    }
    return {
        "since": utc_text(stretch.since),
        "until": utc_text(stretch.until),
        "answers": found.answers,
        **{name: None if each is None else asdict(each) for name, each in named.items()},
    }
