"""Gate and promotion in one call: the way a challenger takes the champion's place."""

from __future__ import annotations

from pathlib import Path

from ml_core.base.settings import Settings
from ml_core.lab.config import ModelConfig
from ml_core.lab.judging.deployment_gate import rows_of, validate_deployment
from ml_core.lab.judging.promoter import ModelPromoter, Promotion
from ml_core.lab.registry.model_registry import CHAMPION, ModelRegistry, RegisteredVersion
from ml_core.serve.model.bundle import verify_folder
from ml_core.serve.rollout.monitor_state import MonitorView

__all__ = ["promote_version"]


def promote_version(
    registry: ModelRegistry,
    version: RegisteredVersion,
    config: ModelConfig,
    settings: Settings,
    *,
    data: Path | None = None,
    dry_run: bool = False,
) -> Promotion:
    """Gate the version afresh, compare it with the champion, and promote it if every rule passes.

    Parameters
    ----------
    data : rows to judge a foreign model on
    dry_run : change and keep nothing

    Raises
    ------
    DataError, ArtefactError, ConfigError
        As ``validate_deployment``.
    RegistryError
        Somebody else moved the alias meanwhile.
    """
    gate = validate_deployment(registry, version, config, settings, data=data, keep=not dry_run)
    rows = None
    if all(rule.passed for rule in gate.rules if rule.rule == "artefact"):
        with registry.bundle_folder(version) as folder:
            manifest, _, _ = verify_folder(folder, gate.model_hash)
        rows = rows_of(manifest, config, settings, data)
    promoter = ModelPromoter(registry, settings, config, _broken_promises(registry, version.name, settings))
    return promoter.promote(version, gate, rows, dry_run=dry_run)


def _broken_promises(registry: ModelRegistry, name: str, settings: Settings) -> tuple[str, ...]:
    """Coverage alarms that the monitor has on for the registered champion."""
    champion = registry.find_alias(name, CHAMPION)
    view = MonitorView(settings.model_copy(update={"model_name": name}))
    view.look()
    if champion is None or view.state is None:
        return ()
    health = view.state.models.get(champion.model_hash)
    alarms = () if health is None else health.alarms
    return tuple(alarm.reason for alarm in alarms if alarm.reason.startswith("coverage:"))
