"""`surety replay`: old answers given again, bit for bit."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.options import Moment, raw_id, settings_option
from ml_core.cli.output import emit, note, nothing_there, output_option, progress

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.lab.past_answers.replay import ReplayReport
    from ml_core.lab.past_answers.replayer import Found, Replayed, ReplayState


@click.command(name="replay")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--client-request-id", help="Answers to requests with this client_request_id.")
@click.option("--since", type=Moment(), help="Answers since this moment: 2026-11-01, or 24h or 7d ago.")
@click.option("--until", type=Moment(), help="Answers before this moment.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many answers, the oldest first.")
@click.option("--sample", type=click.IntRange(min=1), help="A random sample of this many answers.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random sample.")
@settings_option("Name of the model whose log it is")
@output_option
def command(
    ids: tuple[str, ...],
    client_request_id: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int | None,
    sample: int | None,
    seed: int,
    settings: Settings,
    output: str,
) -> None:
    """Give the answers of these request ids again and compare them bit for bit (- reads ids from stdin).

    Each is given by the very model that gave it, found by its hash in the Bento store, in SURETY_HOME/models or in
    MLflow, whatever was promoted since. Probabilities, p-values, set, prediction and the hash of the input must be the
    same (a row of an Arrow stream has no hash of its own). Of a span of time, erased answers are left out.

    Exit status: 0 all are equal; 3 one is not, or the feature module was edited; 1 a model is missing, an id is unknown
    or its answer was erased; 2 an answer has no input in the log (SURETY_LOG_INPUTS=false); 4 there was none to replay.

    \b
    Example: surety replay 01936f0e-7c8a-7b52-9d5f-0d3f6a1c2b4e
    Example: surety replay --since 7d --sample 1000
    Example: surety replay --client-request-id visit-7
    """
    _check_usage(ids, client_request_id, is_span=bool(since or until), is_cut=bool(limit or sample))
    if limit and sample:
        raise click.UsageError("Give --limit or --sample, not both.")
    from ml_core.lab.past_answers.replay import n_within, replay, with_client_id, with_ids, within
    from ml_core.serve.log.reader import PredictionLog

    log = PredictionLog.of(settings)
    wanted = list(_read_ids(ids))
    total: float | None = len(wanted)
    if since or until:  # counting costs a look at every row, for the bar alone
        total = min(n_within(log, since, until), limit or sys.maxsize) if sys.stderr.isatty() else None
    with progress("replaying", total=total) as advance:
        answers: Iterable[Found]
        if client_request_id is not None:
            answers = with_client_id(log, client_request_id)
        elif wanted:
            answers = with_ids(log, wanted, advance)
        else:
            answers = within(log, since, until, limit=limit, sample=sample, seed=seed, advance=advance)
        report = replay(settings, answers, named=since is None and until is None)
    _tell(report)
    emit(_shown(report, output), output)
    if not report.counts.total():
        nothing_there(f"empty: the log of {settings.model_name} has no such answer in {settings.log}")
    if status := _status(report):
        raise SystemExit(status)


def _check_usage(ids: tuple[str, ...], client_request_id: str | None, *, is_span: bool, is_cut: bool) -> None:
    if sum((bool(ids), client_request_id is not None, is_span)) != 1:
        raise click.UsageError("Give request ids, --client-request-id, or --since and --until.")
    if is_cut and not is_span:
        raise click.UsageError("--limit and --sample go with --since or --until.")


def _read_ids(ids: tuple[str, ...]) -> Iterator[str]:
    """The ids, in their one spelling; ``-`` stands for those on stdin."""
    from ml_core.serve.log.entries import id_text

    for text in ids:
        for one in sys.stdin.read().split() if text == "-" else [text]:
            yield id_text(raw_id(one))


def _tell(report: ReplayReport) -> None:
    for text in report.notes:
        note(f"surety: {text}")
    counts, total = report.counts, report.counts.total()
    if n := counts["different"]:
        note(f"{n} of {total} answers are not what they were; numbers differ by up to {report.max_difference:.3g}")
    if n := counts["input_not_kept"]:
        note(f"{n} of {total} answers have no input in the log (SURETY_LOG_INPUTS=false): they cannot be replayed")


def _status(report: ReplayReport) -> int:
    counts = report.counts
    if counts["different"] or counts["feature_module_changed"]:
        return 3
    if counts["model_missing"] or counts["unknown_id"] or counts["erased"]:
        return 1
    return 2 if counts["input_not_kept"] else 0


def _shown(report: ReplayReport, output: str) -> dict[str, Any]:
    if output == "table":
        return _for_people(report)
    return {
        "replayed": report.counts.total(),
        "states": _all_states(report.counts),
        "max_difference": report.max_difference,
        "models": [
            {
                "model": model.name,
                "version": model.version,
                "model_hash": model.model_hash,
                "found_in": model.place or None,
                "states": _all_states(model.counts),
            }
            for model in report.models.values()
        ],
        "answers": [_row(one) for one in report.answers],
    }


def _for_people(report: ReplayReport) -> dict[str, Any]:
    """What fits on a screen: the states that were met, and of each answer what came of it."""
    shown = ("request_id", "state", "slot")
    return {
        "replayed": report.counts.total(),
        **_met(report.counts),
        "max_difference": report.max_difference,
        "models": [
            {"model": model.name, "version": model.version, "found_in": model.place, **_met(model.counts)}
            for model in report.models.values()
        ],
        "answers": [
            {**{key: row[key] for key in shown}, "differs": ", ".join(row["differs"])}
            for row in map(_row, report.answers)
        ],
    }


def _met(counts: Counter[ReplayState]) -> dict[str, Any]:
    return {state: n for state, n in counts.items() if n}


def _all_states(counts: Counter[ReplayState]) -> dict[str, int]:
    from ml_core.lab.past_answers.replayer import REPLAY_STATES

    return {state: counts[state] for state in REPLAY_STATES}


def _row(one: Replayed) -> dict[str, Any]:
    from ml_core.base.clock import utc_text

    lineage = one.lineage or {}
    return {
        "request_id": one.request_id or None,
        "state": one.state,
        "at": None if one.at is None else utc_text(one.at),
        "slot": lineage.get("slot"),
        "model_hash": lineage.get("model_hash"),
        "differs": list(one.differs),
        "max_difference": one.max_difference,
        "note": one.note,
    }
