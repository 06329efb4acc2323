"""What decides which model may answer: gate reports by model hash, and one promotion record per model name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ml_core.errors import ArtefactError

__all__ = [
    "GateReport",
    "PromotionRecord",
    "RuleVerdict",
    "bento_tag",
    "gate_path",
    "promotion_path",
    "read_document",
    "write_document",
]


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class RuleVerdict(_Document):
    """One rule of a gate: what was found, what was allowed, and whether it passed.

    Attributes
    ----------
    rule : its name, e.g. ``roc_auc`` or ``coverage_class_1``
    value, limit : in the unit of the rule; None where it has no number
    passed : False also where the value could not be had
    note : one sentence for people
    """

    rule: str
    value: float | None
    limit: float | None
    passed: bool
    note: str = ""


class GateReport(_Document):
    """Verdict of the pre-deployment gate on one model hash."""

    model_name: str
    model_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    passed: bool
    rules: tuple[RuleVerdict, ...]
    judged_at: str
    judged_on: str = Field(description="Which rows it was judged on, e.g. 'table v2 version 0, test patients'.")

    @property
    def failed_rules(self) -> tuple[str, ...]:
        """Names of the rules that said no."""
        return tuple(r.rule for r in self.rules if not r.passed)


class PromotionRecord(_Document):
    """The model that holds the place of the champion, and the gate it passed. The service serves what this names."""

    model_name: str
    model_version: str
    model_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    bento_tag: str
    run_id: str = ""
    promoted_at: str
    promoted_by: str = ""
    replaced_version: str | None = None
    gate: GateReport


def bento_tag(name: str, version: str, model_hash: str) -> str:
    """The one Bento tag of a registered version: ``name:v3-<hash8>``, lower case as Bento tags are."""
    return f"{name.lower()}:v{version}-{model_hash[:8]}"


def promotion_path(folder: Path, model_name: str) -> Path:
    """Where the promotion record of that model lies."""
    return folder / f"{model_name}.json"


def gate_path(folder: Path, model_hash: str) -> Path:
    """Where the gate report of that hash lies."""
    return folder / f"{model_hash}.json"


_D = TypeVar("_D", PromotionRecord, GateReport)


def read_document(path: Path, kind: type[_D]) -> _D | None:
    """The document in that file, or None where there is no file.

    Raises
    ------
    ArtefactError
        There is one, but it is not what it should be.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtefactError(path.name, "cannot be read") from error
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise ArtefactError(path.name, f"is no {kind.__name__}") from error


def write_document(path: Path, document: PromotionRecord | GateReport) -> None:
    """Write it whole or not at all: beside the place, flushed, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(document.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
