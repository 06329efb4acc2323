"""docs/reference/configuration.md: every field of a model's YAML, section by section."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel

from ml_core.lab.config import ModelConfig
from scripts.docs.fields import allowed, default
from scripts.docs.markdown import cell, code, prose, table

__all__ = ["render"]

_HEAD = """# Configuration of a model

Made from `ml_core/lab/config.py` by `make docs`; do not edit.

One YAML file per model, in `configs/`, decides everything about it but places and secrets, which are
[settings](settings.md). Fields that are not here are refused; a file that cannot be used ends the command and names the
field. Two files to begin from: `configs/readmission_v1.yaml` and `configs/diabetes130.yaml`.
"""


def render() -> str:
    """The whole page."""
    fields = ModelConfig.model_fields.items()
    sections = [(name, field.annotation) for name, field in fields if _is_section(field.annotation)]
    parts = [_HEAD, "## The model\n", _rows(ModelConfig)]
    for name, section in sections:
        assert isinstance(section, type)
        parts += [f"## {name}\n", f"{prose(section.__doc__ or '')}\n", _rows(section)]
        for item, kind in _items(section):
            parts += [f"### Each of {name}.{item}\n", f"{prose(inspect.getdoc(kind) or '')}\n", _rows(kind)]
    return "\n".join(parts)


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _items(section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Fields of a section that are lists of sections."""
    for name, field in section.model_fields.items():
        for kind in get_args(field.annotation):
            if _is_section(kind):
                yield name, kind


def _rows(section: type[BaseModel]) -> str:
    rows = [
        (code(name), default(name, field), allowed(name, field), cell(field.description or ""))
        for name, field in section.model_fields.items()
        if not _is_section(field.annotation)
    ]
    return table(("field", "default", "allowed", "meaning"), rows)
