"""`surety labels`: what turned out to be true, told later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.options import raw_id, settings_option
from ml_core.cli.output import emit, note, output_option, progress

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.serve.log.labels import LabelStore, StoredLabel


@click.group(name="labels")
def command() -> None:
    """Bring in what turned out to be true of answers, and look at it.

    The label received last holds; every earlier one is kept. Labels count for monitors once the horizon
    (SURETY_LABEL_HORIZON_DAYS) has passed since the answer.
    """


def _source(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (0 < len(value) <= 200 and value.isprintable()):
        raise click.BadParameter("must be text of 1 to 200 printable characters")
    return value


@command.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--source", callback=_source,
              help="Where they come from, kept beside each label (default: the file's name).")  # fmt: skip
@settings_option(with_keys=True)
@click.option("--dry-run", is_flag=True, help="Read, check and count; store nothing.")
@output_option
def import_(file: Path, source: str | None, settings: Settings, output: str, *, dry_run: bool) -> None:
    """Bring in labels from FILE, a .parquet or .csv table with the columns request_id and label.

    Instead of request_id it may have client_request_id: a label is then that of every answer which bears that name. A
    column observed_at (ISO 8601 with zone) says when each was seen to be true; without it that is now. Rows that cannot
    be taken are told by number and field, and then nothing is stored. Run it again if it breaks off: what is stored
    already counts as duplicate.

    \b
    Example: surety labels import outcomes.csv
    Example: surety labels import outcomes.parquet --source discharge-office --dry-run
    """
    from ml_core.lab.log_care.label_import import import_labels
    from ml_core.serve.log.labels import add_imported

    with progress("labels", total=1.0) as advance:
        done = import_labels(
            file,
            _store(settings),
            source=source or file.name,
            batch_rows=settings.max_batch_rows,
            classes=_classes(settings),
            resolve=_by_client_id(settings),
            dry_run=dry_run,
            counted=partial(add_imported, settings),
            step=advance,
        )
    if dry_run:
        note("dry run: nothing was stored")
    if done.counts.refused:
        note(
            f"surety: {done.counts.refused} labels were not stored: too many name answers that are not in the log. "
            "`surety monitor` drops those that wait longest"
        )
    if done.counts.over_limit:
        note(
            f"surety: {done.counts.over_limit} labels were not stored: the label of their answer changed too often. "
            "`surety labels show ID` shows all that are kept of one; the last holds"
        )
    emit(
        {
            "model": settings.model_name,
            "rows": done.rows,
            **done.counts.told(),
            "unresolved": done.unresolved,
        },
        output,
    )


@command.command(name="show")
@click.argument("request_id", metavar="ID")
@settings_option()
@output_option
def show_history(request_id: str, settings: Settings, output: str) -> None:
    """The label of the answer with that request_id, and every one it had before.

    \b
    Example: surety labels show 01936f0e-7c8a-7b52-9d5f-0d3f6a1c2b4e
    """
    from ml_core.serve.log.entries import id_text

    raw = raw_id(request_id)
    history = _store(settings).history(raw)
    if not history:
        note("no label has come for it")
    emit(
        {
            "request_id": id_text(raw),
            "label": history[-1].label if history else None,
            "answer_known": bool(_known(settings)([raw])),
            "history": [_row(stored) for stored in history],
        },
        output,
    )


def _store(settings: Settings) -> LabelStore:
    from ml_core.serve.log.label_tables import open_label_tables
    from ml_core.serve.log.labels import LabelStore
    from ml_core.serve.log.log_records import LogRecords

    tables = open_label_tables(settings, settings.model_name)
    return LabelStore(tables, _known(settings), key=LogRecords(settings).key)


def _known(settings: Settings) -> Callable[[Sequence[bytes]], set[bytes]]:
    """Tells the ids that answers were given under."""
    from ml_core.serve.log.reader import PredictionLog

    return PredictionLog.of(settings).known


def _by_client_id(settings: Settings) -> Callable[[Sequence[str]], Mapping[str, Sequence[bytes]]]:
    """Finds answers by the names that callers gave them."""
    from ml_core.serve.log.reader import PredictionLog

    return PredictionLog.of(settings).ids_of_clients


def _classes(settings: Settings) -> Sequence[int | str] | None:
    """Labels of the model that answers; None where there is no model here."""
    from ml_core.base.errors import NotLoaded
    from ml_core.serve.model.loader import ModelLoader
    from ml_core.serve.rollout.rollout_store import RolloutStore

    loader, state = ModelLoader(settings), RolloutStore(settings).read()
    try:
        return loader.facts(loader.served_tag() if state is None else state.champion)[0].classes
    except NotLoaded:
        note(f"no model {settings.model_name} is here, so the labels are not held against its own")
        return None


def _row(stored: StoredLabel) -> dict[str, Any]:
    from ml_core.base.clock import utc_text

    return {
        "label": stored.label,
        "observed_at": utc_text(stored.observed_at),
        "received_at": utc_text(stored.received_at),
        "source": stored.source,
        "outcome": stored.outcome,
    }
