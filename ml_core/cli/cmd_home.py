"""`surety home`: the place where a service remembers, as a whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.output import emit, note, nothing_there, output_option, picked

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.lab.home_care.copying import CopiedHome


@click.group(name="home")
def command() -> None:
    """The home of a service (a folder, or a database with its objects): is it whole, is it up to date, move it.

    \b
    Example: surety home check --output table
    """


@command.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@output_option
def migrate(dry_run: bool, output: str) -> None:  # noqa: FBT001 - click's way
    """Bring every table of the home up to date, of all models, and say the versions before and after.

    In a database this adds and takes nothing away, so services of the release before go on. Run it before the new
    release starts. Done again it changes nothing.

    \b
    Example: surety home migrate --output table
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.home_care.migration import migrate_home

    emit(migrate_home(load_settings(), dry_run=dry_run), output)


@command.command()
@click.option("--quick", is_flag=True, help="Do not walk through the rows of log and labels, nor ask MLflow.")
@output_option
def check(quick: bool, output: str) -> None:  # noqa: FBT001 - click's way
    """Say whether the home is whole: reached, up to date, with its keys, models, chains, marks and machines.

    Exit status 3 where something is wrong; warnings alone are no such thing.

    \b
    Example: surety home check --output table
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.home_care.whole_check import check_home

    settings = load_settings()
    report = check_home(settings, chains=not quick, step=lambda what: note(f"looking at {what}"))
    if report.is_empty and report.is_whole:
        nothing_there(f"empty: {report.facts['home']} holds nothing of any model")
    found = [{**asdict(each), "is_wrong": True} for each in report.findings]
    found += [{**asdict(each), "is_wrong": False} for each in report.warnings]
    emit({"whole": report.is_whole, **report.facts, "found": found}, output)
    if not report.is_whole:
        raise SystemExit(3)


@command.command(name="copy")
@click.option("--to", required=True, help="postgresql://… of an empty database, or a folder that is empty or missing.")
@click.option("--objects", default="", help="Object store beside the database: s3://…, gs://…, az://… or a folder.")
@click.option("--live", is_flag=True, help="Copy while services write; copy once more when they have stopped.")
@click.option("--dry-run", is_flag=True, help="Only say what is there to be copied, and whether it may be.")
@output_option
def copy_it(to: str, objects: str, live: bool, dry_run: bool, output: str) -> None:  # noqa: FBT001 - click's way
    """Copy the home to a database and its objects, or from there to a folder. Nothing is changed at the source.

    A copy that was broken off goes on when the same command is given again. What was copied is verified by counts,
    hashes and the chains of log and labels. Secrets are never copied: the result names the key files that each machine
    must be given. A password of the database is best given by PGPASSWORD or ~/.pgpass.

    \b
    Example: surety home copy --to postgresql://surety@db/surety --objects s3://hospital/surety
    """
    from tempfile import TemporaryDirectory

    from ml_core.base.settings import load_settings
    from ml_core.lab.home_care.copying import copy_home, may_copy

    source = load_settings()
    with TemporaryDirectory(prefix="surety-target-") as place:
        target = _target(source, to, objects, Path(place))
        if dry_run:
            emit(may_copy(source, target, live=live), output)
            return
        done = copy_home(source, target, live=live, step=lambda what: note(f"copying {what}"))
    emit(_shown(done, target), output)
    _say_what_is_left(done, target)
    if not done.is_sound:
        raise SystemExit(3)


def _target(source: Settings, to: str, objects: str, place: Path) -> Settings:
    """Settings of the home to copy to; its secrets stay where they are."""
    from ml_core.base.settings import load_settings

    is_database = to.startswith(("postgresql://", "postgres://"))
    if objects and not is_database:
        raise click.UsageError("--objects goes with a database: a folder has everything in it")
    if "://" in to and not is_database:
        raise click.UsageError("--to is postgresql://… or a folder")
    own = {
        "log_key_file": source.log_key if source.log_key.is_file() else None,
        "subject_key_file": source.subject_key if source.subject_key.is_file() else None,
        "api_keys_file": None,
        "model_name": source.model_name,
    }
    where: dict[str, Any] = {"home": place if is_database else Path(to), "database": to if is_database else ""}
    return load_settings(**where, objects=objects, **own)


def _shown(done: CopiedHome, target: Settings) -> dict[str, Any]:
    from ml_core.serve.home.homes import open_home

    database = open_home(target).database
    models = [
        {
            "model": name,
            "log_files": each.log.files,
            "log_rows": each.log.rows,
            "labels_and_chain": each.labels.rows,
            "ledger": each.ledger.rows,
            "verified": not each.problems,
            "problems": list(each.problems),
        }
        for name, each in done.of_models.items()
    ]
    return {
        "to": str(target.home) if database is None else database.shown,
        **picked(done, "is_final", "changed"),
        "documents": done.documents.count,
        "journal_entries": done.journal.count,
        "artefacts": len(done.models.hashes),
        "files": done.files.files,
        "bytes": done.files.bytes,
        "registry_rows": sum(done.registry.values()),
        "missing": list(done.missing),
        "left": dict(done.models.left),
        "keys": dict(done.keys),
        "models": models,
    }


def _say_what_is_left(done: CopiedHome, target: Settings) -> None:
    for setting, path in done.keys.items():
        note(f"secrets are not copied: give each machine {path} as {setting}")
    if done.keys_file is not None:
        note(f"API keys: set SURETY_API_KEYS_FILE={done.keys_file}")
    elif target.database:
        note("API keys lie in the database now: leave SURETY_API_KEYS_FILE unset there")
    for tag, problem in done.models.left.items():
        note(f"{tag} was left out: {problem}")
    if not done.is_final:
        note("somebody still writes to the source: stop the services and the monitor, and give this command once more")
