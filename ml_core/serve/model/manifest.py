"""What a model folder says about itself: typed, and refused when it says anything else."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, model_validator

from ml_core.base.errors import ArtefactError

__all__ = [
    "MANIFEST_FILE",
    "CellFacts",
    "FileEntry",
    "GroupFacts",
    "GroupingFacts",
    "LearnerFacts",
    "Manifest",
    "Recalibration",
    "Source",
    "TrainingFacts",
    "Weighting",
    "parse_manifest",
]

MANIFEST_FILE = "manifest.json"


Labels = tuple[StrictInt, ...] | tuple[StrictStr, ...]
"""Whole numbers or texts as they are: the text "30" stays one."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class FileEntry(_Part):
    """Size (bytes) and sha256 (hex) of one file of the folder."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class LearnerFacts(_Part):
    """What trained a scorer, where that was not XGBoost, and how the served form was compared with it then.

    Attributes
    ----------
    name : as configured
    estimator : import path of the class that was trained
    compared_rows, difference_below : calibration rows on which ``model.onnx`` was compared with what was trained, and a
        power of ten that no difference of a probability exceeded
    """

    name: str
    estimator: str
    compared_rows: int = Field(ge=0)
    difference_below: float = Field(ge=0)


class TrainingFacts(_Part):
    """Which rows made the model: enough to find them again, nothing about any of them.

    Attributes
    ----------
    table, table_version : Delta table of the feature store and its version; empty and -1 for a foreign model
    split_salt, split_shares : how groups were shared out (train, validation, calibration, test)
    rows : rows per part of the split
    seed : of every generator used
    params : hyper-parameters as given to the learner
    learner : what trained the scorer; None for XGBoost, and for a model that was trained elsewhere
    """

    table: str
    table_version: int
    split_salt: str
    split_shares: dict[str, float]
    rows: dict[str, int]
    seed: int
    params: dict[str, float | int | str]
    learner: LearnerFacts | None = None


class Source(_Part):
    """Where a foreign model came from (``surety import-model --calibration``)."""

    uri: str
    flavor: str
    model_class: str
    model_sha256: str


class GroupingFacts(_Part):
    """One declared grouping: the rule from a raw column to a few cells.

    Attributes
    ----------
    name, column : of the grouping, and of the raw column it looks at
    is_feature : whether the column is one of the feature version's; otherwise it is asked for because of the grouping
    cells : names of the cells in their order; rows without a value are in ``unknown``, which is not listed
    levels, level_cells : of a category, its levels and the position of each one's cell
    cuts : of a number, where one cell ends and the next begins, ascending; a value at a cut is in the upper cell
    doc : one sentence for people
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    column: str
    is_feature: bool
    cells: tuple[str, ...] = Field(min_length=1, max_length=100)
    levels: Labels = ()
    level_cells: tuple[int, ...] = ()
    cuts: tuple[float, ...] = ()
    doc: str = ""

    @model_validator(mode="after")
    def _cells_fit(self) -> GroupingFacts:
        numbers = bool(self.cuts) and not self.levels and list(self.cuts) == sorted(set(self.cuts))
        fits = (
            len(self.cells) == len(self.cuts) + 1 if numbers else set(self.level_cells) == set(range(len(self.cells)))
        )
        if not fits or len(self.levels) != len(self.level_cells) or len({*self.cells, "unknown"}) <= len(self.cells):
            raise ValueError(f"the cells of the grouping {self.name} do not fit its column")
        return self


class CellFacts(_Part):
    """One cell of the grouping by which sets are calibrated.

    Attributes
    ----------
    name : as answers name it
    of : the declared cells that are in it; more than one where cells with too few rows were pooled
    rows : calibration rows by class
    is_own : whether it is calibrated with these rows; otherwise with all calibration rows
    """

    name: str
    of: tuple[str, ...] = Field(min_length=1)
    rows: dict[str, int]
    is_own: bool


class GroupFacts(_Part):
    """The groups of patients that a model knows.

    Attributes
    ----------
    declared : every grouping; all are measured
    calibrated_by : the grouping in whose cells coverage is promised; None where no group has a promise
    min_rows : fewest calibration rows of each class for a cell of its own
    cells : the calibrated cells, which hold every declared one once; empty where no group has a promise
    """

    declared: tuple[GroupingFacts, ...] = Field(min_length=1)
    calibrated_by: str | None = None
    min_rows: int = Field(0, ge=0)
    cells: tuple[CellFacts, ...] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> GroupFacts:
        names = [grouping.name for grouping in self.declared]
        if len(set(names)) < len(names) or self.calibrated_by not in (None, *names):
            raise ValueError("groupings need names of their own, and calibrated_by is one of them")
        if (self.calibrated_by is None) != (not self.cells):
            raise ValueError("there are calibrated cells where a grouping is calibrated by, and nowhere else")
        return self


class Recalibration(_Part):
    """What calibrated a scorer anew (``surety recalibrate``). The training facts stay those of the scorer.

    Attributes
    ----------
    model_hash : of the model whose scorer it is
    table, table_version : Delta table and version of the answered records that calibrated and tested it
    """

    model_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    table: str
    table_version: int


class Weighting(_Part):
    """How calibration rows are weighted: as patients come now (``surety recalibrate --weighted``), or as a survey says.

    Attributes
    ----------
    column : that holds a survey's weights; None where patients that come now were looked at
    model_hash : then of the model whose scorer and calibration scores it has
    live_rows : then the answered records, without their outcomes, that showed who comes now
    effective_rows : equally weighted calibration rows that are worth as much, by class (Kish 1965)
    """

    column: str | None = None
    model_hash: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    live_rows: int | None = Field(None, ge=1)
    effective_rows: dict[str, float]

    @model_validator(mode="after")
    def _of_one_kind(self) -> Weighting:
        if (self.column is None) == (self.model_hash is None) or (self.model_hash is None) != (self.live_rows is None):
            raise ValueError("weights come from a column, or from live rows and a model")
        return self


class Manifest(_Part):
    """The manifest of a model folder. Its own sha256 is the ``model_hash``, so it holds no time, host or run id.

    Attributes
    ----------
    training_conditional : confidence over calibrations with which the true coverage is at least ``confidence_level``;
        None where that level is promised in the mean over calibrations
    inner_levels : then the level that each class is calibrated at inside, in class order; else None
    guarantee : what the sets promise: ``class_and_group`` where a grouping is calibrated by
    calibration_id : sha256 (hex) over all calibration scores that the model answers with
    groups : the groups of patients it knows; None for a model without any
    label_horizon_days : how long after an answer its label is certain; None for what ``SURETY_LABEL_HORIZON_DAYS`` says
    recalibration : what calibrated it, where that was not its training table
    weighting : how its calibration rows are weighted, where they are (``guarantee`` is ``weighted``)
    """

    format_version: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    feature_version: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    feature_module_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    column_table_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    n_features: int = Field(ge=1)
    classes: Labels = Field(min_length=2)
    guarantee: Literal["class_conditional", "marginal", "class_and_group", "weighted"]
    confidence_level: Decimal = Field(ge=Decimal("0.5"), le=Decimal("0.999"))
    training_conditional: Decimal | None = Field(None, ge=Decimal("0.5"), lt=1)
    inner_levels: tuple[Decimal, ...] | None = None
    calibration_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    libraries: dict[str, str]
    training: TrainingFacts
    metrics: dict[str, float]
    source: Source | None = None
    label_horizon_days: float | None = Field(None, ge=0, le=36_500)
    groups: GroupFacts | None = None
    recalibration: Recalibration | None = None
    weighting: Weighting | None = None
    files: dict[str, FileEntry]

    @model_validator(mode="after")
    def _classes_differ(self) -> Manifest:
        if len(set(map(str, self.classes))) != len(self.classes):
            raise ValueError("two classes have the same name")
        by_group = self.groups is not None and self.groups.calibrated_by is not None
        if by_group != (self.guarantee == "class_and_group"):
            raise ValueError("class_and_group is promised where a grouping is calibrated by, and nowhere else")
        return self

    @model_validator(mode="after")
    def _weights_fit(self) -> Manifest:
        if (self.weighting is None) == (self.guarantee == "weighted"):
            raise ValueError("a weighted guarantee has a weighting, and no other one has")
        return self

    def content(self) -> dict[str, Any]:
        """What is written, as JSON values."""
        content = self.model_dump(mode="json")
        later = ("label_horizon_days", "training_conditional", "inner_levels", "groups", "recalibration", "weighting")
        for name in later:  # as in manifests from before there were these fields
            if content[name] is None:
                del content[name]
        if content["training"]["learner"] is None:
            del content["training"]["learner"]
        if self.weighting is not None:
            content["weighting"] = {name: value for name, value in content["weighting"].items() if value is not None}
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
