"""docs/reference/settings.md: every environment variable, with its default, its range and its meaning."""

from __future__ import annotations

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from ml_core.base.settings import Settings
from scripts.docs.fields import allowed, default
from scripts.docs.markdown import cell, code, table

__all__ = ["render"]

_HEAD = """# Settings

Made from `ml_core/base/settings.py` by `make docs`; do not edit.

Every setting is an environment variable, read once when a process starts. A value that cannot be used ends the start
and names its variable. Commands read the same variables as the service: give both the same ones.
"""

_OTHERS = """## Variables of others

| variable | meaning |
| --- | --- |
| `MLFLOW_TRACKING_URI` | where MLflow's registry is; without it, a database in `SURETY_HOME`. Serving never reads it |
| `BENTOML_HOME` | where the Bento store is; `~/bentoml` without it |
| `SURETY_LOG_LEVEL` | how much commands tell on stderr: `DEBUG`, `INFO`, `WARNING`, `ERROR` |
"""


def render() -> str:
    """The whole page."""
    rows = [_row(name, field) for name, field in Settings.model_fields.items()]
    return "\n".join((_HEAD, table(("variable", "default", "allowed", "meaning"), rows), _OTHERS))


def _row(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    return _variable(name, field), default(name, field), allowed(name, field), cell(field.description or "")


def _variable(name: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        first, *older = map(str, alias.choices)
        return f"{code(first)} ({', '.join(map(code, older))})"
    return code(f"{Settings.model_config.get('env_prefix', '')}{name}".upper())
