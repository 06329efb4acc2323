"""`surety keys`: who may ask the service for what."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_core.cli.options import file_option
from ml_core.cli.output import emit, note, output_option, picked
from ml_core.serve.http.api_keys import ROLES, KeyPlace, KeyRole

if TYPE_CHECKING:
    from ml_core.base.settings import Settings

_FILE = file_option("--file", "path", told="The file of keys (default: SURETY_API_KEYS_FILE).")


@click.group(name="keys")
def command() -> None:
    """API keys: which there are, new ones, and taking one back. Running services obey within a second.

    A service asks for keys where SURETY_API_KEYS_FILE names this file. One on many machines (SURETY_DATABASE) needs no
    file: its keys are in the database, and it asks for them once there is one. Several keys are valid at once, so a key
    is changed without a gap: add the new one, move the callers, revoke the old one.

    \b
    Example: surety keys add ward-7 --role predict --file /etc/surety/keys.json
    """


@command.command(name="add")
@click.argument("name")
@click.option(
    "--role",
    "roles",
    type=click.Choice(ROLES),
    multiple=True,
    required=True,
    help="A role of the key; can be given more than once.",
)
@click.option("--expires", type=click.DateTime(), help="When the key stops working, UTC (default: never).")
@click.option("--per-second", type=float, help="Most requests a second (default: no limit).")
@_FILE
def add_api_key(
    name: str, roles: tuple[KeyRole, ...], expires: datetime | None, per_second: float | None, path: Path | None
) -> None:
    """Make a key for NAME and print it, for the only time: the file keeps its sha256.

    \b
    Example: surety keys add ward-7 --role predict --role label --expires 2027-12-31
    """
    from datetime import UTC

    from ml_core.serve.home.homes import open_home
    from ml_core.serve.http.api_keys import add_key

    settings, place = _settings_and(path)
    expires_at = None if expires is None else expires.replace(tzinfo=UTC)
    home = open_home(settings)
    with home.together():
        key = add_key(place, name, roles, expires_at=expires_at, per_second=per_second)
        facts = {"file": place.shown, "name": name, "roles": roles, "expires_at": expires_at, "per_second": per_second}
        home.journal.append("key.added", facts)
    click.echo(key)
    note(f"{name} may {', '.join(roles)}; keep the key now, it is not shown again")


@command.command(name="list")
@_FILE
@output_option
def list_keys(path: Path | None, output: str) -> None:
    """Show the keys by name, without themselves or their hashes.

    \b
    Example: surety keys list --output table
    """
    from ml_core.base.clock import utc_now
    from ml_core.serve.http.api_keys import read_api_keys

    _, place = _settings_and(path)
    now = utc_now()
    emit(
        [
            {**picked(key, "name", "roles", "made_at", "expires_at", "per_second"), "valid": key.is_valid(now)}
            for key in read_api_keys(place).keys
        ],
        output,
    )


@command.command()
@click.argument("name")
@click.option("--why", default="", help="The reason, kept in the journal.")
@_FILE
def revoke(name: str, why: str, path: Path | None) -> None:
    """Take the key of NAME back.

    \b
    Example: surety keys revoke ward-7 --why "left in a chat"
    """
    from ml_core.serve.home.homes import open_home
    from ml_core.serve.http.api_keys import revoke_key

    settings, place = _settings_and(path)
    home = open_home(settings)
    with home.together():
        revoke_key(place, name)
        home.journal.append("key.revoked", {"file": place.shown, "name": name, "why": why})
    note(f"{name} is refused from now on, within a second where a service runs")


def _settings_and(path: Path | None) -> tuple[Settings, KeyPlace]:
    from ml_core.base.settings import load_settings

    settings = load_settings()
    found = KeyPlace.of(settings, path)
    if found is None:
        raise click.UsageError("which file? Give --file, or set SURETY_API_KEYS_FILE")
    return settings, found
