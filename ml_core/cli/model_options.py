"""What the verbs about models share: finding the configuration of a model, and a version in the registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ml_core.lab.config import ModelConfig
    from ml_core.lab.registry.model_registry import ModelRegistry, RegisteredVersion
    from ml_core.serve.model.promotion_record import RuleVerdict

CONFIGS = Path("configs")
F = TypeVar("F", bound=Callable[..., Any])


def judged_version(command: F) -> F:
    """The options of the verbs that judge a registered version: which one, and on what."""
    file = click.Path(path_type=Path)
    options = (
        click.option("--model", default=None, help="Name of the registered model."),
        click.option("--alias", default=None, help="The version with this alias (challenger if nothing is named)."),
        click.option("--version", default=None, help="This version."),
        click.option(
            "--config",
            "config_path",
            type=file,
            default=None,
            help="The model's YAML; by default the one in configs/ that is of this model.",
        ),
        click.option(
            "--data",
            type=file,
            default=None,
            help="Labelled rows to judge on, instead of the training table (a foreign model has none).",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def config_of(model: str | None, path: Path | None) -> ModelConfig:
    """The configuration in that file, or the one in ``configs/`` that is of that model.

    Raises
    ------
    ConfigError
        The file is of another model, or no file, or more than one, is of it.
    """
    from ml_core.base.errors import ConfigError
    from ml_core.lab.config import load_config

    if path is not None:
        config = load_config(path)
        if model is not None and config.model != model:
            raise ConfigError(str(path), f"is of the model {config.model}, not of {model}")
        return config
    if model is None:
        raise click.UsageError("Give --model or --config.")
    found = [(p, c) for p in sorted(CONFIGS.glob("*.yaml")) if (c := load_config(p)).model == model]
    if len(found) != 1:
        names = ", ".join(str(p) for p, _ in found) or "no file"
        raise ConfigError(str(CONFIGS), f"{names} here is of the model {model}: name one with --config")
    return found[0][1]


def version_of(
    registry: ModelRegistry, name: str, alias: str | None, version: str | None, run_id: str | None = None
) -> RegisteredVersion:
    """The version that was asked for by number, run or alias; one of them at most is given."""
    if sum(x is not None for x in (alias, version, run_id)) > 1:
        raise click.UsageError("Give only one way to name the version.")
    if version is not None:
        return registry.by_version(name, version)
    if run_id is not None:
        return registry.by_run(name, run_id)
    return registry.by_alias(name, alias or "challenger")


def rules_table(rules: tuple[RuleVerdict, ...]) -> list[dict[str, Any]]:
    """Rules as rows of a result."""
    return [
        {"rule": r.rule, "value": r.value, "limit": r.limit, "verdict": "pass" if r.passed else "FAIL", "note": r.note}
        for r in rules
    ]
