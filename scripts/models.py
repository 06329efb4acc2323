"""`surety models`: what the registry and the Bento store hold."""

from __future__ import annotations

from typing import Any

import click

from scripts.output import emit, output_option


@click.group(name="models")
def command() -> None:
    """Look at registered models."""


@command.command(name="list")
@click.option("--model", default=None, help="Only this model.")
@output_option
def list_models(model: str | None, output: str) -> None:
    """Versions with aliases, gate verdicts and metrics, and their tags in the Bento store.

    \b
    Example: surety models list --model readmission_risk --output table
    """
    from ml_core.registry.registry import ModelRegistry
    from ml_core.settings import load_settings

    settings = load_settings()
    registry = ModelRegistry(settings)
    names = registry.names() if model is None else [model]
    rows = [_row(registry, settings, version) for name in names for version in registry.versions(name)]
    emit(rows if output == "json" else [_short(row) for row in rows], output)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """What fits on a screen; the hash is part of the tag."""
    kept = ("model", "version", "gate", "roc_auc", "coverage", "bento_tag")
    return {**{key: row[key] for key in kept}, "aliases": ", ".join(row["aliases"])}


def _row(registry: Any, settings: Any, version: Any) -> dict[str, Any]:
    from ml_core.documents import read_document
    from ml_core.models.promotion_record import PromotionRecord, bento_tag, promotion_path
    from ml_core.registry.importer import stored_path

    record = read_document(promotion_path(settings.promotions, version.name), PromotionRecord)
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
