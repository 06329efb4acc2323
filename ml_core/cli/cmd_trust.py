"""`surety trust`: whose word lets a model answer."""

from __future__ import annotations

from pathlib import Path

import click

from ml_core.cli.output import emit, note, output_option

_WHY = click.option("--why", default="", help="For the journal.")


@click.group(name="trust")
def command() -> None:
    """Public keys whose owners may say that a model passed its gate: which there are, new ones, a new signing key.

    Keys come from SURETY_HOME/trust, from SURETY_TRUSTED_KEYS and, in a container, from the image; never from a model
    store.

    \b
    Example: surety trust show --output table
    """


@command.command(name="show")
@output_option
def show_keys(output: str) -> None:
    """List the trusted keys: fingerprint, where each comes from, and which one signs here.

    \b
    Example: surety trust show --output table
    """
    from ml_core.base.settings import load_settings
    from ml_core.serve.model.vouching import papers_without_weight
    from ml_core.serve.trust.keys import home_keys, trusted_keys

    settings = load_settings()
    signs = home_keys(settings).signs
    emit(
        [
            {
                "fingerprint": key.fingerprint[:16],
                "source": key.source,
                "name": key.name,
                "signs": key.source == "home" and key.fingerprint == signs,
                "added_at": key.added_at,
                "key": key.key,
            }
            for key in trusted_keys(settings)
        ],
        output,
    )
    for name in papers_without_weight(settings):
        note(f"{name} is not what was signed and counts for nothing: run `surety validate` or `surety promote` again")
    if not signs:
        note("this home has not signed anything yet: its key is made with the first gate, or by `surety trust rotate`")


@command.command()
@click.argument("key")
@click.option("--name", default="", help="Whose it is, for people.")
@_WHY
def add(key: str, name: str, why: str) -> None:
    """Trust the public KEY of another machine: a key as `surety trust show` prints it, or a file that holds one.

    \b
    Example: surety trust add ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= --name training-host
    """
    from ml_core.base.errors import ConfigError
    from ml_core.base.settings import load_settings
    from ml_core.serve.model.vouching import trust_key

    try:
        given = key if key.startswith("ed25519:") else Path(key).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ConfigError("KEY", "is neither a public key nor a file that holds one") from error
    is_new = trust_key(load_settings(), given, name, why=why)
    note(f"{name or 'the key'} is trusted {'from now on' if is_new else 'already'}")


@command.command()
@click.option("--name", default="this home", show_default=True, help="What to call the new key.")
@_WHY
def rotate(name: str, why: str) -> None:
    """Make a new signing key and sign every verdict and promotion of this home with it; print the public key.

    Copies beside models, in the Bento store and in SURETY_HOME, are replaced by the new papers. The old key stays
    trusted until `surety trust remove` takes it away. Other machines need the new key first. Models that only the old
    key vouches for are named: run `surety validate` for them before you remove it.

    \b
    Example: surety trust rotate --name "ward server 2027"
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.registry.paper_copies import hanging_on, renew_copies
    from ml_core.serve.model.vouching import rotate_key
    from ml_core.serve.trust.keys import home_keys

    settings = load_settings()
    old = home_keys(settings).signs
    key, count = rotate_key(settings, name, why=why)
    click.echo(key)
    copies = renew_copies(settings)
    note(f"{count} papers are signed with it, and the copies beside {len(copies.renewed)} models")
    for tag, problem in copies.failed:
        note(f"surety: the copies beside {tag} could not be replaced: {problem}; run `surety import-model` for it")
    if old:
        _tell_hanging(hanging_on(settings, old), "once the old key is removed")


@command.command()
@click.argument("fingerprint")
@_WHY
def remove(fingerprint: str, why: str) -> None:
    """Trust the key with this FINGERPRINT no longer; its first digits are enough.

    Only keys of this home can be removed here. Workers believe it no longer the next time they load a model.

    \b
    Example: surety trust remove 3f6ab0c1
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.registry.paper_copies import hanging_on
    from ml_core.serve.model.vouching import distrust_key
    from ml_core.serve.trust.keys import home_keys, key_fingerprint

    settings = load_settings()
    full = [f for key in home_keys(settings).keys if (f := key_fingerprint(key.key)).startswith(fingerprint.lower())]
    hanging = hanging_on(settings, full[0]) if len(full) == 1 else ()
    removed = distrust_key(settings, fingerprint, why=why)
    note(f"{removed.name or removed.key} is trusted no longer")
    _tell_hanging(hanging, "from now on")


def _tell_hanging(tags: tuple[str, ...], when: str) -> None:
    for tag in tags:
        note(f"surety: no other key vouches for {tag}: {when} it does not answer until `surety validate` has judged it")
