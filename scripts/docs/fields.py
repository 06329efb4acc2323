"""A pydantic field in words: what it may be, and what it is where nothing is said."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from scripts.docs.markdown import code

__all__ = ["allowed", "default"]

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def default(name: str, field: FieldInfo) -> str:
    """The default as it would be written, with its unit where it is a number of bytes."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", (), {}):
        return "none"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, tuple):
        return code(f"[{', '.join(map(str, value))}]")
    if not isinstance(value, int | float):
        return code(value)
    size = _size(name, value)
    return code(f"{value:.16g}") + (f" ({size})" if size else "")


def allowed(name: str, field: FieldInfo) -> str:
    """Choices, a pattern or a range; nothing where any value of the type will do."""
    if field.annotation is bool:
        return "`true`, `false`"
    if get_origin(field.annotation) is Literal:
        return ", ".join(map(code, get_args(field.annotation)))
    words = [code(rule.pattern) for rule in field.metadata if getattr(rule, "pattern", None)]
    for rule in field.metadata:
        if isinstance(rule, Ge):
            words.append(_bound(name, rule.ge) if _has_top(field) else f"{_bound(name, rule.ge)} or more")
        elif isinstance(rule, Gt):
            words.append(f"above {_bound(name, rule.gt)}")
        elif isinstance(rule, Le):
            words.append(f"to {_bound(name, rule.le)}")
        elif isinstance(rule, Lt):
            words.append(f"to below {_bound(name, rule.lt)}")
    return " ".join(words)


def _has_top(field: FieldInfo) -> bool:
    return any(isinstance(rule, Le | Lt) for rule in field.metadata)


def _bound(name: str, value: object) -> str:
    if not isinstance(value, int | float | Decimal):
        return str(value)
    return _size(name, value) or f"{float(value):,.16g}"


def _size(name: str, value: float | Decimal) -> str:
    """A number of bytes in the unit that it is whole in; nothing for what is none."""
    if not name.endswith("_bytes"):
        return ""
    return next((f"{value // size:g} {unit}" for unit, size in _UNITS if value % size == 0), "")
