"""`surety coverage check`: do the sets still cover what they promise."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.options import Duration, asked_grouping, by_option, settings_option, slot_option
from ml_core.cli.output import emit, note, output_option, picked

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.lab.watching.due_outcomes import ClassOutcomes
    from ml_core.lab.watching.live_performance import MaturedAnswers


@click.group(name="coverage")
def command() -> None:
    """Coverage of answers whose outcome is known.

    \b
    Example: surety coverage check
    """


@command.command(name="check")
@click.option("--since", type=Duration(), help="Only answers of the last e.g. 24h, 30d (default: all).")
@slot_option()
@by_option("Also of each class in each group of this grouping, such as age_band.")
@settings_option()
@output_option
def check_coverage(since: float | None, slot: str, grouping: str | None, settings: Settings, output: str) -> None:
    """Compare coverage per class with the band of a valid model; exit status 3 if a coverage alarm is on.

    A band says what chance explains in one look. Only the detector, which may be looked at as often as one likes,
    raises an alarm. Due answers whose outcome has not come are counted by set and predicted class: "lowest" and
    "highest" say what coverage may be whatever they turn out to be, "weighted" estimates it as if outcomes were missing
    at random given the set and the predicted class. The exit status is 3, too, if they leave a class unverified.

    With --by, "groups" has a row for each class in each group. "promise" says what it is held against: class_and_group,
    or "measured only", where the band tells what chance explains in a group like all. "group_outcomes" says how many
    due answers of each group have their outcome, and between which bounds its coverage lies; its p-value is that of
    outcomes returning alike in all groups. A class with fewer than 10 subjects in a group has no numbers.

    \b
    Example: surety coverage check --since 30d --by age_band
    """
    from datetime import timedelta

    from ml_core.base.clock import utc_now
    from ml_core.lab.watching.live_performance import matured_answers

    found = matured_answers(settings, None if since is None else utc_now() - timedelta(seconds=since), slot)
    if grouping is not None:
        asked_grouping(found, grouping)
    if not found.rows:
        note(f"no label of {found.model.tag} has matured yet; {found.waiting} wait for their horizon")
    on = {alarm.reason for alarm in found.alarms}
    detectors: list[dict[str, Any]] = [
        {
            "alarm": name,
            **picked(state, "labels", "misses"),
            "evidence": state.total_evidence,
            "needed": state.threshold,
            "largest_miss_rate": state.mu0,
            "on": name in on,
            "held": state.is_alarmed and name not in on,
        }
        for name, state in found.detectors.items()
    ]
    emit(
        {
            "model": found.model.tag,
            "slot": slot,
            "matured": len(found.rows),
            "waiting": found.waiting,
            "unknown": found.unknown,
            "bands": _bands(found),
            **({} if grouping is None else {"groups": _groups(found, grouping), **_by_group(found, grouping)}),
            "detectors": detectors,
            **_outcomes(found),
        },
        output,
    )
    for each in found.unverified:
        note(f"{each.reason}: {each.says}")
    if found.unverified or any(reason.startswith("coverage:") for reason in on):
        raise SystemExit(3)


def _bands(found: MaturedAnswers) -> list[dict[str, Any]]:
    """The bands; whether coverage lies inside is left open where missing outcomes leave coverage open."""
    from ml_core.lab.watching.live_performance import bands_of

    open_ = {each.reason.partition(":")[2] for each in found.unverified}
    rows = [asdict(band) for band in bands_of(found)]
    for row in rows:
        if open_ and (row["label"] is None or open_ & {str(row["label"]), "all"}):
            row["inside"] = None
    return rows


def _groups(found: MaturedAnswers, grouping: str) -> list[dict[str, Any]]:
    """Coverage of each class in each cell of a grouping."""
    from ml_core.lab.watching.matured_arrays import cells_of

    nothing = ("n", "covered", "observed", "promised", "lower", "upper", "inside")
    return [
        {
            "group": measured.cell.group,
            "label": of_class.label,
            "promise": measured.cell.promise,
            "subjects": of_class.patients,
            **(dict.fromkeys(nothing) if of_class.band is None else picked(of_class.band, *nothing)),
        }
        for measured in cells_of(found.rows, found.targets, found.model.manifest.groups, grouping)
        for of_class in measured.classes
    ]


def _by_group(found: MaturedAnswers, grouping: str) -> dict[str, Any]:
    """Due answers with and without an outcome by group, and what follows for the coverage of each class there."""
    from ml_core.lab.watching.outcomes_by_group import outcomes_by_group

    cells, p_value = outcomes_by_group(found.in_groups, found.targets, found.model.manifest, grouping)
    rows = [
        {
            "group": cell.returned.cell.group,
            "label": label,
            "due": cell.returned.due if cell.shown else None,
            "missing": cell.returned.due - cell.returned.came if cell.shown else None,
            "returned": cell.returned.share,
            **_open(of_class),
        }
        for cell in cells
        for label, of_class in cell.classes.items()
    ]
    return {"group_outcomes": rows, "group_outcomes_p_value": p_value}


def _open(each: ClassOutcomes | None) -> dict[str, float | None]:
    """What missing outcomes leave open of the coverage of one class."""
    bounds, weighted = (None, None) if each is None else (each.bounds, each.weighted)
    return {
        "observed": None if each is None else each.observed,
        "lowest": None if bounds is None else bounds.lowest,
        "highest": None if bounds is None else bounds.highest,
        "weighted": None if weighted is None else weighted.estimate,
        "weighted_from": None if weighted is None else weighted.lower,
        "weighted_to": None if weighted is None else weighted.upper,
    }


def _outcomes(found: MaturedAnswers) -> dict[str, Any]:
    """Due answers with and without an outcome, and what follows for the coverage of each class."""
    due, names = found.outcomes, found.model.manifest.classes
    return {
        "due": due.due,
        "missing": due.missing,
        "due_of_fallbacks": due.of_fallbacks[0],
        "missing_of_fallbacks": due.of_fallbacks[1],
        "sets": [
            {
                "set": [names[k] for k in cell.members],
                "predicted": names[cell.prediction],
                "due": cell.due,
                "missing": cell.missing,
                "returned": cell.came / cell.due,
            }
            for cell in due.cells
        ],
        "bounds": [{"label": each.label, **_open(each), "p_value": each.returned.p_value} for each in due.classes],
        "weighted_assumes": "outcomes are missing at random given the set and the predicted class",
        "unverified": [picked(each, "reason", "says") for each in found.unverified],
    }
