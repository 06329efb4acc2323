"""`surety models`: what the registry and the Bento store hold."""

from __future__ import annotations

from typing import Any

import click

from ml_core.cli.options import wanted_version
from ml_core.cli.output import emit, output_option, plain


@click.group(name="models")
def command() -> None:
    """Look at registered models."""


@command.command(name="list")
@click.option("--model", help="Only this model.")
@output_option
def list_models(model: str | None, output: str) -> None:
    """Versions with aliases, gate verdicts and metrics, and their tags in the Bento store.

    \b
    Example: surety models list --model readmission_risk --output table
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.registry.model_registry import ModelRegistry

    settings = load_settings()
    registry = ModelRegistry(settings)
    names = registry.names() if model is None else [model]
    rows = [_row(registry, settings, version) for name in names for version in registry.versions(name)]
    emit(rows if output == "json" else [_short(row) for row in rows], output)


@command.command()
@click.option("--model", required=True, help="Name of the registered model.")
@click.option("--alias", help="The version with this alias.")
@click.option("--version", help="This version (default: the champion, else the newest).")
@click.option("--format", "form", type=click.Choice(["md", "json", "chai"]), default="md", show_default=True,
              help="Text, JSON, or the applied model card of the Coalition for Health AI as XML.")  # fmt: skip
def card(model: str, alias: str | None, version: str | None, form: str) -> None:
    """Print the model card of a version: what it is for, what it was made of, what it measured, what the gate said.

    All forms are made of the same facts. What nobody recorded reads "not recorded" in each of them, also the source
    attributes that 45 CFR 170.315(b)(11) asks for.

    \b
    Example: surety models card --model readmission_risk
    Example: surety models card --model readmission_risk --version 3 > card.md
    Example: surety models card --model readmission_risk --format chai > card.xml
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.registry.card_chai import chai_card
    from ml_core.lab.registry.model_card import card_json, card_text, read_card
    from ml_core.lab.registry.model_registry import ModelRegistry

    registry = ModelRegistry(load_settings())
    if alias is None and version is None:
        chosen = registry.find_alias(model, "champion") or registry.versions(model)[0]
    else:
        chosen = wanted_version(registry, model, alias, version)
    with registry.bundle_folder(chosen) as folder:
        found = read_card(registry, chosen, folder)
    if form == "json":
        emit(card_json(found), form)
    else:
        click.echo(plain(card_text(found) if form == "md" else chai_card(found)), nl=False)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """What fits on a screen; the hash is part of the tag."""
    kept = ("model", "version", "gate", "roc_auc", "coverage", "bento_tag")
    return {**{key: row[key] for key in kept}, "aliases": ", ".join(row["aliases"])}


def _row(registry: Any, settings: Any, version: Any) -> dict[str, Any]:
    from ml_core.lab.registry.importer import stored_path
    from ml_core.serve.model.promotion_record import bento_tag, plain_promotion

    record = plain_promotion(settings, version.name)
    tag = bento_tag(version.name, version.version, version.model_hash) if version.model_hash else None
    metrics = registry.metrics(version)
    return {
        "model": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "is_promoted": record is not None and tag is not None and record.bento_tag == tag,
        "gate": version.tags.get("gate", "none"),
        "failed_rules": version.tags.get("gate_failed_rules", ""),
        "roc_auc": metrics.get("roc_auc"),
        "coverage": metrics.get("coverage"),
        "feature_version": version.tags.get("feature_version", ""),
        "model_hash": version.model_hash,
        "bento_tag": tag if tag is not None and stored_path(tag) is not None else None,
    }
