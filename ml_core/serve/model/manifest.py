"""What a model folder says about itself: typed, and refused when it says anything else."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ml_core.base.errors import ArtefactError

__all__ = ["MANIFEST_FILE", "FileEntry", "Manifest", "Source", "TrainingFacts", "parse_manifest"]

MANIFEST_FILE = "manifest.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class FileEntry(_Part):
    """Size (bytes) and sha256 (hex) of one file of the folder."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class TrainingFacts(_Part):
    """Which rows made the model: enough to find them again, nothing about any of them.

    Attributes
    ----------
    table, table_version : Delta table of the feature store and its version; empty and -1 for a foreign model
    split_salt, split_shares : how groups were shared out (train, validation, calibration, test)
    rows : rows per part of the split
    seed : of every generator used
    params : hyper-parameters as given to the learner
    """

    table: str
    table_version: int
    split_salt: str
    split_shares: dict[str, float]
    rows: dict[str, int]
    seed: int
    params: dict[str, float | int | str]


class Source(_Part):
    """Where a foreign model came from (``surety import-model --calibration``)."""

    uri: str
    flavor: str
    model_class: str
    model_sha256: str


class Manifest(_Part):
    """The manifest of a model folder. Its own sha256 is the ``model_hash``, so it holds no time, host or run id.

    Attributes
    ----------
    training_conditional : confidence over calibrations with which the true coverage is at least ``confidence_level``;
        None where that level is promised in the mean over calibrations
    inner_levels : then the level that each class is calibrated at inside, in class order; else None
    label_horizon_days : how long after an answer its label is certain; None for what ``SURETY_LABEL_HORIZON_DAYS`` says
    """

    format_version: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    feature_version: str = Field(pattern=r"^v[0-9]+$")
    feature_module_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    column_table_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    n_features: int = Field(ge=1)
    classes: tuple[int, ...] | tuple[str, ...] = Field(min_length=2)
    guarantee: Literal["class_conditional", "marginal"]
    confidence_level: Decimal = Field(ge=Decimal("0.5"), le=Decimal("0.999"))
    training_conditional: Decimal | None = Field(None, ge=Decimal("0.5"), lt=1)
    inner_levels: tuple[Decimal, ...] | None = None
    calibration_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    libraries: dict[str, str]
    training: TrainingFacts
    metrics: dict[str, float]
    source: Source | None = None
    label_horizon_days: float | None = Field(None, ge=0, le=36_500)
    files: dict[str, FileEntry]

    @model_validator(mode="after")
    def _classes_differ(self) -> Manifest:
        if len(set(map(str, self.classes))) != len(self.classes):
            raise ValueError("two classes have the same name")
        return self

    def content(self) -> dict[str, Any]:
        """What is written, as JSON values."""
        content = self.model_dump(mode="json")
        for name in ("label_horizon_days", "training_conditional", "inner_levels"):
            if content[name] is None:  # as in manifests from before there was this field
                del content[name]
        return content

    def to_bytes(self) -> bytes:
        """Canonical JSON: the bytes that are hashed and written."""
        options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        return orjson.dumps(self.content(), option=options)


def parse_manifest(raw: bytes) -> Manifest:
    """The manifest in these bytes.

    Raises
    ------
    ArtefactError
        No JSON, a missing, extra or wrong field, or bytes that are not in canonical form.
    """
    try:
        manifest = Manifest.model_validate(orjson.loads(raw))
    except orjson.JSONDecodeError as error:
        raise ArtefactError(MANIFEST_FILE, "is not JSON") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(p) for p in first["loc"]) or "manifest"
        raise ArtefactError(MANIFEST_FILE, f"{where}: {first['msg']}") from error
    if manifest.to_bytes() != raw:
        raise ArtefactError(MANIFEST_FILE, "is not in the form it was written in (edited by hand?)")
    return manifest
