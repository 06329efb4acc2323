"""`surety explain`: why an answer is what it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.explained_rows import explained_rows
from ml_core.cli.options import one_answer, settings_option
from ml_core.cli.output import emit, note, output_option

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.lab.past_answers.explained import ExplainedAnswer

_NOT_THERE = ("unknown_id", "erased", "model_missing")


@click.command(name="explain")
@click.argument("request_id", metavar="[ID]", required=False)
@click.option("--client-request-id", help="The answer to the request with this client_request_id.")
@settings_option("Name of the model whose log it is")
@output_option
def command(request_id: str | None, client_request_id: str | None, settings: Settings, output: str) -> None:
    """What each column of the input added to the number that decides the set of that answer.

    The answer is given again first, by the very model that gave it. Then exact TreeSHAP (of trees) or its own terms (of
    a logistic regression) say how that number came about: a base value, and what each raw column raised or lowered it
    by. It tells how the model counts, not what causes what, nor what to change. docs/explanations.md says more.

    Exit status: 0 it is explained; 3 there is no explanation, or the answer or its stored explanation is another now;
    1 its id is unknown, its subject was erased or its model is missing; 2 its input is not in the log
    (SURETY_LOG_INPUTS=false).

    \b
    Example: surety explain 01936f0e-7c8a-7b52-9d5f-0d3f6a1c2b4e
    Example: surety explain --client-request-id visit-7 --output table
    """
    from ml_core.lab.past_answers.explained import explain_answer

    request_id = one_answer(settings, request_id, client_request_id)
    try:
        found = explain_answer(settings, request_id)
    except ValueError as error:
        raise click.UsageError(f"{request_id!r} is no request id.") from error
    if found is None:
        note(f"surety: no answer has the id {request_id}")
        raise SystemExit(1)
    _note(found)
    said = asdict(found)
    emit(said if output == "json" else _for_people(said), output)
    if status := _status(found):
        raise SystemExit(status)


def _note(found: ExplainedAnswer) -> None:
    if found.note:
        note(f"surety: {found.note}")
    if found.state == "input_not_kept":
        note("surety: its input is not in the log (SURETY_LOG_INPUTS=false)")
    if found.stored == "different":
        note("surety: the explanation that was given with it is another one")
    if found.explanation is not None and found.explanation["reason"] is not None:
        note(f"surety: there is no explanation: {found.explanation['reason']}")


def _status(found: ExplainedAnswer) -> int:
    if found.state in _NOT_THERE:
        return 1
    if found.state == "input_not_kept":
        return 2
    is_told = found.explanation is not None and found.explanation["reason"] is None
    return 0 if found.state == "equal" and is_told else 3


def _for_people(said: dict[str, Any]) -> dict[str, Any]:
    explanation = said["explanation"] or {}
    facts = {key: said[key] for key in ("request_id", "at", "state", "prediction", "prediction_set", "slot", "stored")}
    about = {key: explanation.get(key) for key in ("label", "method", "scale", "base_value", "margin", "reason")}
    return {**facts, **about, "contributions": explained_rows(explanation, said["input"])}
