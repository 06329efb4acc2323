"""`surety verify`: a model folder against a signature in OpenSSF's format."""

from __future__ import annotations

from pathlib import Path

import click

from ml_core.cli.output import emit, note, output_option


@click.command(name="verify")
@click.argument("model")
@click.option("--signature", type=click.Path(path_type=Path), default=None,
              help="The signature (default: the name of the folder with .sig, in the current folder).")  # fmt: skip
@click.option("--key", type=click.Path(path_type=Path), default=None,
              help="Public key, PEM, that must have signed (default: the home's).")  # fmt: skip
@output_option
def command(model: str, signature: Path | None, key: Path | None, output: str) -> None:
    """Check that MODEL, a folder or a tag, holds exactly the files that were signed; exit status 3 where it does not.

    Reads what `surety sign` or `model_signing sign key` has written.

    \b
    Example: surety verify readmission_risk:v3-0a1b2c3d --signature v3.sig --key their.pub
    """
    from ml_core.base.errors import ArtefactError
    from ml_core.base.settings import load_settings
    from ml_core.cli.cmd_sign import model_folder
    from ml_core.lab.registry.model_signature import public_key_path, verify_folder_signature

    settings = load_settings()
    folder, name = model_folder(model, settings)
    try:
        files = verify_folder_signature(folder, signature or Path(f"{name}.sig"), key or public_key_path(settings))
    except ArtefactError as error:
        note(f"surety: {error}")
        raise SystemExit(3) from error
    emit({"verified": True, "files": files}, output)
