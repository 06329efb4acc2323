"""`surety import-model`: MLflow to Bento store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ml_core.cli.options import file_option, wanted_version
from ml_core.cli.output import emit, note, output_option, picked, refuse


@click.command(name="import-model")
@click.option("--model", help="Name of the registered model.")
@click.option("--alias", help="Import the version with this alias (default: champion).")
@click.option("--version", help="Import this version.")
@click.option("--uri", help="models:/name/3, models:/name@alias or runs:/RUN/path.")
@file_option(
    "--calibration", told="Labelled rows the model never saw; adopts a foreign classifier (docs/foreign-models.md)."
)
@click.option(
    "--feature-version",
    help="Feature version whose features or raw columns the foreign model takes (default: the configuration's).",
)
@file_option("--config", "config_path", told="The model's YAML (foreign models: level, split and gate).")
@click.option("--trust-pickle", is_flag=True, help="Allow unpickling a foreign model, which can run any code.")
@click.option("--into-home", is_flag=True,
              help="Also place it in SURETY_HOME/models, for services with a read-only Bento store.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be imported; store nothing.")
@output_option
def command(
    model: str | None,
    alias: str | None,
    version: str | None,
    uri: str | None,
    calibration: Path | None,
    feature_version: str | None,
    config_path: Path | None,
    *,
    trust_pickle: bool,
    into_home: bool,
    dry_run: bool,
    output: str,
) -> None:
    """Bring a registered version into the Bento store; its tag is printed and is always the same.

    With --calibration a foreign classifier is converted, calibrated, registered as a challenger, gated on held-out rows
    and, if the gate passes, imported. Exit status 3 if it does not.

    \b
    Example: surety import-model --model readmission_risk
    Example: surety import-model --model readmission_risk --version 3
    Example: surety import-model --uri runs:/0a1b2c/model --model other_risk --calibration rows.parquet \
                 --feature-version v1 --config configs/other.yaml
    """
    if sum(x is not None for x in (alias, version, uri)) > 1:
        raise click.UsageError("Give only one of --alias, --version and --uri.")
    if calibration is None:
        result, passed = _import_ours(model, alias, version, uri, dry_run=dry_run), True
    else:
        if uri is None or model is None or (feature_version is None and config_path is None):
            raise click.UsageError("--calibration needs --uri, --model, and --feature-version or --config.")
        result, passed = _import_foreign(
            uri, model, calibration, feature_version, config_path, trust_pickle=trust_pickle, dry_run=dry_run
        )
    if into_home and passed and not dry_run:
        from ml_core.base.settings import load_settings
        from ml_core.lab.registry.importer import place_in_home

        result["placed_in"] = str(place_in_home(result["tag"], load_settings()))
    emit(result, output)
    if dry_run:
        note("dry run: nothing was stored")
    if not passed:
        refuse(f"not imported; refused by: {', '.join(result['failed_rules'])}")


def _import_ours(
    model: str | None, alias: str | None, version: str | None, uri: str | None, *, dry_run: bool
) -> dict[str, Any]:
    from ml_core.base.settings import load_settings
    from ml_core.lab.registry.importer import import_version
    from ml_core.lab.registry.model_registry import ModelRegistry

    settings = load_settings()
    if uri is None and model is None:
        raise click.UsageError("Give --model or --uri.")
    registry = ModelRegistry(settings)
    if uri is not None:
        chosen = registry.by_uri(uri)
    else:
        chosen = wanted_version(registry, str(model), alias or (None if version else "champion"), version)
    found = import_version(registry, chosen, settings, dry_run=dry_run)
    about = {"model": chosen.name, "version": chosen.version}
    return {**picked(found, "tag", "is_new"), **about, **picked(found, "model_hash", "gate")}


def _import_foreign(
    uri: str,
    model: str,
    calibration: Path,
    feature_version: str | None,
    config_path: Path | None,
    *,
    trust_pickle: bool,
    dry_run: bool,
) -> tuple[dict[str, Any], bool]:
    from ml_core.base.settings import load_settings
    from ml_core.lab.journeys.adopt import adopt, adoption_config

    config = adoption_config(model, feature_version, calibration, config_path)
    found = adopt(uri, calibration, config, load_settings(), note, trust_pickle=trust_pickle, dry_run=dry_run)
    result = {
        "tag": found.tag,
        "model": model,
        "version": found.version,
        "model_hash": found.model_hash,
        "gate": "none" if found.gate is None else "passed" if found.gate.passed else "refused",
        "failed_rules": list(found.gate.failed_rules) if found.gate else [],
        "metrics": found.metrics,
    }
    return result, found.gate is None or found.gate.passed
