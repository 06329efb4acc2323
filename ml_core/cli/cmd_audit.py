"""`surety audit`: everything known about one answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.explained_rows import explained_rows
from ml_core.cli.options import one_answer, settings_option
from ml_core.cli.output import emit, note, output_option, plain

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.lab.past_answers.audit import Audit


@click.command(name="audit")
@click.argument("request_id", metavar="[ID]", required=False)
@click.option("--client-request-id", help="The answer to the request with this client_request_id.")
@click.option("--docs", is_flag=True, help="Also explain each column of the input in a table.")
@settings_option("Name of the model whose log it is")
@output_option
def command(
    request_id: str | None, client_request_id: str | None, settings: Settings, output: str, *, docs: bool
) -> None:
    """What was answered under that request id, to which input, by which model, and what has become of them since.

    The answer with its set in words, the input with units, every fact of its lineage; the model's place, gate,
    promotion, MLflow version and journal now; labels with their history; and the entry of the log, whose digest and
    chain are computed again. Of an erased answer, what is left.

    \b
    Example: surety audit 01936f0e-7c8a-7b52-9d5f-0d3f6a1c2b4e
    Example: surety audit --client-request-id visit-7 --output table --docs
    """
    from ml_core.lab.past_answers.audit import audit

    request_id = one_answer(settings, request_id, client_request_id)
    try:
        found = audit(settings, request_id)
    except ValueError as error:
        raise click.UsageError(f"{request_id!r} is no request id.") from error
    if found is None:
        note(f"surety: no answer has the id {request_id}")
        raise SystemExit(1)
    _note(found)
    if output == "json":
        emit(asdict(found), output)
    else:
        _tell(found, docs=docs)


def _note(found: Audit) -> None:
    if found.is_erased:
        note("its subject was erased: this is what is left")
    elif found.input is None:
        note("its input was not kept (SURETY_LOG_INPUTS=false)")
    entry = found.log_entry or {}
    if entry.get("digest_holds") is False:
        note("the log does not hold what was written there: the digest of its entry is another")
    if entry.get("chain_holds") is False:
        note("the chain of the log is broken around its entry: see `surety log verify`")


def _without_numbers(said: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in (said["answer"] or {}).items() if key not in ("probabilities", "p_values")}
    return {"request_id": said["request_id"], "at": said["at"], **kept}


def _by_label(answer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if answer is None:
        return []
    in_set = set(map(str, answer["prediction_set"]))
    return [
        {"label": label, "probability": p, "p_value": answer["p_values"][label], "in_set": label in in_set}
        for label, p in answer["probabilities"].items()
    ]


def _tell(found: Audit, *, docs: bool) -> None:
    """The sections one after another, for people."""
    said = asdict(found)
    shown = ("column", "value", "unit", "meaning") if docs else ("column", "value", "unit")
    now: dict[str, Any] = said["model_now"] or {}
    gate, labels = now.get("gate", {}), said["labels"]
    sections: list[tuple[str, Any]] = [
        ("Answer", _without_numbers(said)),
        ("Answer by label", _by_label(said["answer"])),
        ("Why: the answer's own explanation", _without(said["explanation"], "contributions")),
        ("Why: what each column added", explained_rows(said["explanation"], said["input"])),
        ("Input", [{key: row[key] for key in shown} for row in said["input"] or []]),
        ("Lineage", said["lineage"]),
        ("The model now: rollout", now.get("rollout")),
        ("The model now: stored", now.get("stored")),
        ("The model now: gate", {key: value for key, value in gate.items() if key != "rules"}),
        ("The model now: rules of its gate", gate.get("rules", [])),
        ("The model now: promotion", now.get("promotion")),
        ("The model now: MLflow", now.get("mlflow")),
        ("The model now: journal", [_decision(entry) for entry in now.get("journal", [])]),
        ("Label", {key: value for key, value in labels.items() if key != "history"}),
        ("Labels as they came", labels.get("history", [])),
        ("Log entry", said["log_entry"]),
        ("Batch", said["batch"]),
    ]
    for title, content in sections:
        if content:
            click.echo(plain(f"\n{title}"))
            emit(content, "table")


def _without(content: dict[str, Any] | None, name: str) -> dict[str, Any]:
    return {key: value for key, value in (content or {}).items() if key != name}


def _decision(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What fits on a line of an entry of the journal."""
    return {key: entry.get(key) for key in ("at", "event", "by", "why", "decision", "passed")}
