"""`surety log`: looking after the prediction log."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.options import settings_option
from ml_core.cli.output import emit, note, nothing_there, output_option, picked, progress, refuse

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.lab.data.feature_store import StoredRows
    from ml_core.lab.log_care.chain_check import FileReport
    from ml_core.lab.log_care.erasure import Erased, SubjectRows
    from ml_core.lab.log_care.retention import OldDay
    from ml_core.lab.log_care.sealing import SealedDay

_DAY = click.DateTime(["%Y-%m-%d"])
_SHORT = ("file", "state", "rows", "erased", "ok", "row")
_yes_option = click.option(
    "--yes", is_flag=True, help="Do not ask for confirmation (never asked if stdin is no terminal)."
)


@click.group(name="log")
def command() -> None:
    """Look after the prediction log: is it whole, seal what is over, remove what is old, erase a person.

    Days are UTC. What a worker writes to just now is live; the rest is closed, and changed by these commands alone. Run
    them as the user that the service runs as.
    """


@command.command(name="show")
@settings_option()
@output_option
def show_log(settings: Settings, output: str) -> None:
    """What there is: files, days, rows, size; which are live, and which are sealed as they are.

    \b
    Example: surety log show
    """
    from ml_core.lab.log_care.log_overview import overview

    facts = overview(settings)
    if not facts:
        note(_no_log(settings))
    emit(
        {
            "model": settings.model_name,
            "folder": str(settings.log),
            "days": len({x.file.day for x in facts}),
            "rows": sum(x.rows or 0 for x in facts),
            "bytes": sum(x.bytes for x in facts),
            "files": [
                {
                    "file": x.file.path.name,
                    "day": x.file.day,
                    "rows": x.rows,
                    "bytes": x.bytes,
                    "state": "live" if x.is_live else "closed",
                    "sealed": x.is_sealed,
                }
                for x in facts
            ],
        },
        output,
    )
    unreadable = [x.file.path.name for x in facts if x.rows is None]
    if unreadable:
        note(f"surety: cannot be read: {', '.join(unreadable)}; see surety log verify")
        raise SystemExit(1)


@command.command(name="verify")
@click.option("--day", type=_DAY, help="Only this day, e.g. 2026-11-24.")
@click.option("--heads", type=click.Path(path_type=Path), metavar="FILE",
              help="Lines of the service's own log, from where they are collected: heads published there.")  # fmt: skip
@click.option("--without-key", is_flag=True, help="Take what the log's key has made as it is; far less is found.")
@settings_option(with_keys=True)
@output_option
def verify(day: datetime | None, heads: Path | None, settings: Settings, output: str, *, without_key: bool) -> None:
    """Walk the hash chain of every file, live ones too, and hold it against the journal; labels and sealed copies too.

    Finds any change of a stored row, and rows that were added, removed or moved, by whoever lacks the log's key. An
    end that was cut off, an older copy in a file's place and a missing file are found from the first `surety log seal`
    of their day on; with --heads, from the hour of their publication on. Exit status 3 if anything is not as it was
    stored, 1 if a file cannot be read to its end, 4 if the log is empty.

    \b
    Example: surety log verify
    Example: surety log verify --day 2026-11-24 --output json
    Example: surety log verify --heads /var/log/surety.jsonl
    """
    from ml_core.lab.log_care.chain_check import verify_log

    with progress("verifying", total=1.0) as advance:
        chosen = None if day is None else day.date().isoformat()
        report = verify_log(settings, chosen, advance, heads=heads, with_key=not without_key)
    rows = [_report_row(found) for found in report.files]
    if output == "table":  # what is wrong stands below, and the whole head in the JSON
        emit([{**{name: row[name] for name in _SHORT}, "head": f"{row['head'][:12]}…"} for row in rows], output)
    else:
        facts = {"model": settings.model_name, "ok": report.is_sound, "files": rows}
        findings = [picked(found, "kind", "where", "row", "problem") for found in report.findings]
        emit({**facts, "missing": list(report.missing), "orphans": list(report.orphans), "findings": findings}, output)
    for finding in report.findings:
        note(f"surety: {finding.kind}: {finding}")
    unkeyed = [found.file for found in report.files if not found.key and found.is_sound]
    if unkeyed:
        note(f"{len(unkeyed)} files have no key (of a release before): who can write to them can write them anew")
    if report.orphans:
        note(f"{len(report.orphans)} files of bulk calls belong to no row; a worker that was killed may have left them")
    if not report.is_sound:
        raise SystemExit(3 if report.is_readable else 1)
    if not any(found.rows for found in report.files):
        nothing_there(f"empty: {_no_log(settings)}")


@command.command(name="seal")
@click.option("--before", type=_DAY, help="Only days before this day (default: today).")
@settings_option(with_keys=True)
@output_option
def seal(before: datetime | None, settings: Settings, output: str) -> None:
    """Verify days that are over, copy each into one Parquet file, and write into the journal what the day holds.

    The copies lie in log/MODEL/sealed below SURETY_HOME, for DuckDB, pandas and whatever reads Parquet; the databases
    stay what replay, audit and verify read. A sealed day is closed: what came or changed since is named, and not
    sealed. Days that are sealed as they are stay untouched. Exit status 3 if a day is not sound, and so is not sealed.

    \b
    Example: surety log seal
    Example: surety log seal --before 2026-11-24
    """
    from ml_core.lab.log_care.sealing import days_to_seal, seal_day

    days = days_to_seal(settings, None if before is None else before.date())
    with progress("sealing", total=float(max(1, len(days)))) as advance:
        sealed = [seal_day(settings, day, advance) for day in days]
    if not days:
        note("no day of the log is over" if _has_log(settings) else _no_log(settings))
    emit([_sealed_row(day) for day in sealed], output)
    for line in (line for day in sealed for line in day.heads):
        note(json.dumps({"event": "log.head", **line}))  # as the service's own log has them
    for day in sealed:
        if day.outcome in {"busy", "broken"}:
            note(f"surety: {day.day} was not sealed: {day.detail}")
    if any(day.outcome == "broken" for day in sealed):
        raise SystemExit(3)


@command.command(name="give-up")
@click.argument("machine")
@_yes_option
@settings_option()
@output_option
def give_up_machine(machine: str, settings: Settings, output: str, *, yes: bool) -> None:
    """Expect nothing more of a MACHINE that is gone for good, so that its days can be sealed and erased from.

    Only in a home on many machines. A machine ships what it has stored, and says when nothing more will come of a
    file. One that died cannot. Rows that it had not shipped are lost, unless it comes back after all. Exit status 3 if
    nothing is expected of such a machine.

    \b
    Example: surety log give-up ward-3
    """
    from ml_core.lab.log_care.log_overview import give_up

    _ask(f"Is {machine} gone for good?", yes=yes)
    given_up = give_up(settings, machine)
    emit({"model": settings.model_name, "machine": machine, "files": given_up}, output)
    if not given_up:
        refuse(f"surety: nothing more is expected of {machine}")


@command.command(name="adopt")
@_yes_option
@settings_option(with_keys=True)
@output_option
def adopt_log(settings: Settings, output: str, *, yes: bool) -> None:
    """Vouch for what is in the log without a key: files, labels and journal entries of a release before.

    A key that is made in the home does this by itself. With SURETY_LOG_KEY_FILE it is asked for, once, before the
    first start. Look at the log first: what is adopted counts as it is.

    \b
    Example: surety log adopt
    """
    from ml_core.serve.log.log_records import LogRecords

    _ask("Vouch for everything in the log that has no key?", yes=yes)
    facts = LogRecords(settings).adopt()
    emit(
        {
            "model": settings.model_name,
            "files": list(facts["files"]),
            "labels": facts["labels"],
            "entries": facts["unsigned"],
        },
        output,
    )


@command.command(name="prune")
@click.option("--older-than", "days", type=click.FloatRange(0, 36_500), metavar="DAYS",
              help="Days to keep (default: SURETY_LOG_RETENTION_DAYS).")  # fmt: skip
@click.option("--unsealed", is_flag=True, help="Remove days that are not sealed, too.")
@click.option("--dry-run", is_flag=True, help="Show what would go; remove nothing.")
@_yes_option
@settings_option(with_keys=True)
@output_option
def prune(days: float | None, settings: Settings, output: str, *, unsealed: bool, dry_run: bool, yes: bool) -> None:
    """Remove whole days that are older than the log is kept: databases, bulk calls and sealed copies.

    Their last heads are written into the journal first. Exit status 3 if old days stay because they are not sealed or
    a worker writes to them.

    \b
    Example: surety log prune --dry-run
    Example: surety log prune --older-than 90 --yes
    """
    from ml_core.lab.log_care.retention import old_days, prune_day

    kept = settings.log_retention_days if days is None else days
    old = old_days(settings, kept, unsealed=unsealed)
    going = [day for day in old if day.state == "goes"]
    if not old:
        note(f"no day is older than {kept:g} days" if _has_log(settings) else _no_log(settings))
    if dry_run:
        note("dry run: nothing was removed")
    elif going:
        for day in going:
            note(f"{day.day.name}: {len(day.files)} files, {day.rows} rows, {day.bytes} bytes")
        _ask(f"Remove {len(going)} days for good?", yes=yes)
        gone = {}
        with progress("removing", total=float(len(going))) as advance:
            for day in going:
                gone[day.day] = prune_day(settings, day.day, unsealed=unsealed)
                advance(1.0)
        old = [gone.get(day.day, day) for day in old]
    emit([_old_row(day, removed=not dry_run) for day in old], output)
    _note_what_stays(old)


@command.command(name="erase-subject")
@click.argument("subject", metavar="SUBJECT")
@click.option("--dry-run", is_flag=True, help="Show where there are answers about the subject; erase nothing.")
@_yes_option
@settings_option(with_keys=True)
@output_option
def erase_subject(subject: str, settings: Settings, output: str, *, dry_run: bool, yes: bool) -> None:
    """Erase what answers and training rows about SUBJECT say. Of an answer, id, time and digest stay.

    SUBJECT is what requests named as their subject, or else the value of the record's group column (a person's
    number); - reads subjects from stdin, one a line, which keeps them out of the shell's history. Of each line it is
    said what was found; blanks around a name and empty lines do not count. The hash chain still holds afterwards.
    Labels and the monitor's rows of these answers go as well. From the feature store go the rows whose group column
    is SUBJECT, or a name that retraining made for SUBJECT, and with them every older version of these tables.
    Databases that a live service writes to are changed by its workers within seconds. Bulk calls keep no subject and
    are not looked at. Exit status: 1 a database has not been changed in time; 3 nothing is about one of the subjects;
    4 there is neither a log nor a training row.

    \b
    Example: surety log erase-subject patient-4711 --dry-run
    Example: surety log erase-subject - --yes < subjects.txt
    """
    from ml_core.lab.log_care.erasure import Erased, erase_person, erase_training_rows, find, find_training_rows
    from ml_core.serve.log.log_keys import Pseudonyms

    names = _subjects(subject)
    has_log = _has_log(settings)
    if has_log:
        _check_key(settings)
    keys = Pseudonyms(settings.subject_key) if settings.subject_key.exists() else None
    of_each = {line: keys.all_of(name) if keys else [] for line, name in names.items()}
    rows_of = {line: find_training_rows(settings, name, of_each[line]) for line, name in names.items()}
    subjects = [
        {
            "line": line,
            "found": sum(x.rows for x in find(settings, found)) if has_log else 0,
            "training_rows": sum(x.rows for x in rows_of[line]),
        }
        for line, found in of_each.items()
    ]
    pseudonyms = [each for found in of_each.values() for each in found]
    found = find(settings, pseudonyms) if has_log else []
    training = [rows for each in rows_of.values() for rows in each]
    if not has_log and not training:
        emit({**_erased_facts(settings, found, None, training), "subjects": subjects}, output)
        nothing_there(f"empty: {_no_log(settings)}")
    if dry_run:
        note("dry run: nothing was erased")
        emit({**_erased_facts(settings, found, None, training), "subjects": subjects}, output)
    else:
        answers, rows = sum(x.rows for x in found), sum(x.rows for x in training)
        question = f"{answers} answers in {sum(x.rows > 0 for x in found)} files, {rows} training rows"
        _ask(f"{question}. Erase them for good?", yes=yes or not (answers or training))
        with progress("erasing", total=1.0) as advance:
            gone = [each for line, name in names.items() for each in erase_training_rows(settings, name, of_each[line])]
            done = erase_person(settings, pseudonyms, step=advance) if has_log else Erased()
            done.training = gone
        more = {"labels": done.labels, "matured": done.matured, "subjects": subjects}
        emit({**_erased_facts(settings, found, done, gone), **more}, output)
        _note_what_was_erased(done)
    if missed := [str(each["line"]) for each in subjects if not each["found"] and not each["training_rows"]]:
        where = f" in {'line' if len(missed) == 1 else 'lines'} {', '.join(missed)}" if subject == "-" else ""
        refuse(f"surety: no answer and no training row is about the subject{where}")


def _note_what_was_erased(done: Erased) -> None:
    for rows in done.training:
        of = f" of {rows.model}" if rows.model else ""
        note(
            f"feature store, {rows.table}{of}: rows and all versions up to {rows.version} are gone. Take the person "
            "out of the file it is made from, or the next surety features run brings them back"
        )
    if done.earlier:
        note(f"{done.earlier} more answers were erased for earlier requests that had not been ended")
    for day, problem in done.unsealed.items():
        note(f"{day} lost its sealed copy, which could not be written anew ({problem}): run surety log seal later")
    for file, problem in done.left.items():
        note(f"surety: {file} still has to be done: {problem}")
    if done.left:
        note("run it again; what a worker has been asked for stays asked for")
        raise SystemExit(1)


def _note_what_stays(old: Sequence[OldDay]) -> None:
    unsealed = [day.day.name for day in old if day.state == "unsealed"]
    busy = [day.day.name for day in old if day.state == "busy"]
    if unsealed:
        note(f"surety: not sealed as they are: {', '.join(unsealed)}. Run surety log seal first, or give --unsealed")
    if busy:
        note(f"surety: a worker writes to {', '.join(busy)}: stop it, or try again later")
    if unsealed or busy:
        raise SystemExit(3)


def _has_log(settings: Settings) -> bool:
    """Whether the model has a log, on this machine or in the home's database."""
    from ml_core.serve.log.log_places import place_of

    return any(place_of(settings).files())


def _no_log(settings: Settings) -> str:
    return f"{settings.model_name} has no answer in {settings.log}"


def _ask(question: str, *, yes: bool) -> None:
    """Go on only if the person in front says yes; a job is not asked."""
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)


def _subjects(given: str) -> dict[int, str]:
    """The names that were given, each once, by the number of their line."""
    if given != "-":
        names = {1: given} if given else {}
    else:
        lines = sys.stdin.read().removeprefix("\ufeff").splitlines()
        names = {}
        for line, text in enumerate(lines, 1):
            if (name := text.strip()) and name not in names.values():
                names[line] = name
    if not names:
        raise click.UsageError("The subject is empty.")
    return names


def _check_key(settings: Settings) -> None:
    """Without the key nobody can be found; a new one would find nobody and say so with an easy mind."""
    from ml_core.base.errors import ConfigError

    if not settings.subject_key.exists():
        raise ConfigError(
            str(settings.subject_key),
            "the key of subjects is missing, and without it no answer can be found: restore it",
        )


def _report_row(found: FileReport) -> dict[str, Any]:
    return {
        "file": found.file,
        "state": "live" if found.is_live else "closed",
        **picked(found, "rows", "answers", "commits"),
        "erased": len(found.erased),
        "head": found.head.hex(),
        "ok": found.is_sound,
        "key": found.key or None,
        "row": found.row,
        "problem": found.problem or None,
    }


def _sealed_row(day: SealedDay) -> dict[str, Any]:
    return {**picked(day, "day", "outcome", "answers"), "detail": day.detail or None}


def _old_row(day: OldDay, *, removed: bool) -> dict[str, Any]:
    gone = "removed" if removed else "would go"
    return {
        "day": day.day.name,
        "outcome": gone if day.state == "goes" else day.state,
        **picked(day, "files", "rows", "bytes"),
    }


def _erased_facts(
    settings: Settings, found: Sequence[SubjectRows], done: Erased | None, training: Sequence[StoredRows]
) -> dict[str, Any]:
    """What was found and what was done, file by file; never the subject."""
    files = [
        {
            "file": x.file,
            "state": "live" if x.is_live else "closed",
            "found": x.rows,
            "erased": 0 if done is None else len(done.rows.get(x.file, ())),
            "left": x.problem or None if done is None else done.left.get(x.file),
        }
        for x in found
        if x.rows or x.problem or (done is not None and (x.file in done.rows or x.file in done.left))
    ]
    return {
        "model": settings.model_name,
        "found": sum(x.rows for x in found),
        "erased": 0 if done is None else done.answers,
        "files": files,
        "training": [picked(x, "model", "table", "rows", "files", "version") for x in training],
    }
