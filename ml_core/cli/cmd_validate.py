"""`surety validate`: the pre-deployment gate."""

from __future__ import annotations

from pathlib import Path

import click

from ml_core.cli.options import config_of, judged_version, wanted_version
from ml_core.cli.output import emit, output_option, refusals, refuse, rules_table


@click.command(name="validate")
@judged_version
@click.option("--dry-run", is_flag=True, help="Judge the version; keep no report.")
@output_option
def command(
    model: str | None,
    alias: str | None,
    version: str | None,
    config_path: Path | None,
    data: Path | None,
    *,
    dry_run: bool,
    output: str,
) -> None:
    """Judge a registered version on rows it never saw, rule by rule. Exit status 3 if a rule says no.

    Nothing recorded is trusted: artefact, scores and metrics are computed again.

    \b
    Example: surety validate --model readmission_risk --alias challenger
    Example: surety validate --model readmission_risk --version 3 --config configs/readmission_v1.yaml
    """
    from ml_core.base.settings import load_settings
    from ml_core.lab.judging.deployment_gate import validate_deployment
    from ml_core.lab.registry.model_registry import ModelRegistry

    config, settings = config_of(model, config_path), load_settings()
    registry = ModelRegistry(settings)
    judged = wanted_version(registry, config.model, alias, version)
    report = validate_deployment(registry, judged, config, settings, data=data, keep=not dry_run)
    emit(
        {
            "model": config.model,
            "version": judged.version,
            "model_hash": report.model_hash,
            "passed": report.passed,
            "failed_rules": list(report.failed_rules),
            "judged_on": report.judged_on,
            "rules": rules_table(report.rules),
        },
        output,
    )
    if not report.passed:
        refuse(refusals([rule for rule in report.rules if not rule.passed]))
