"""`surety sign`: a model folder, signed for other people's tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_core.cli.output import emit, output_option

if TYPE_CHECKING:
    from ml_core.base.settings import Settings


@click.command(name="sign")
@click.argument("model")
@click.option("--signature", type=click.Path(path_type=Path), default=None,
              help="File to write (default: the name of the folder with .sig, in the current folder).")  # fmt: skip
@click.option("--key", type=click.Path(path_type=Path), default=None,
              help="Private key, PEM, on P-256, P-384 or P-521 (default: the home's, made on first use).")  # fmt: skip
@output_option
def command(model: str, signature: Path | None, key: Path | None, output: str) -> None:
    """Sign MODEL, a folder or a tag, in OpenSSF's model-signing format; `model_signing verify key` reads it.

    \b
    Example: surety sign readmission_risk:v3-0a1b2c3d --signature v3.sig
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.registry.model_signature import public_key_path, sign_folder, signing_key_path

    settings = load_settings()
    folder, name = model_folder(model, settings)
    written = signature or Path(f"{name}.sig")
    files = sign_folder(folder, written, key or signing_key_path(settings))
    own_key = str(public_key_path(settings)) if key is None else None
    emit({"signature": str(written), "public_key": own_key, "files": len(files)}, output)


def model_folder(model: str, settings: Settings) -> tuple[Path, str]:
    """The folder of the artefact, and a name for its signature.

    Parameters
    ----------
    model : a folder, or the tag of a stored model

    Raises
    ------
    NotLoaded
        It is neither.
    """
    from ml_core.serve.model.loader import ModelLoader

    if Path(model).is_dir():
        return Path(model), Path(model).resolve().name
    return ModelLoader(settings).artefact(model), model.replace(":", "-")
