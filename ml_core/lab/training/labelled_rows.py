"""Labelled rows with the part of the split each belongs to: what training, gate and promotion look at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml_core.base.arrays import BoolArray, FloatArray, IntArray, Label
from ml_core.base.errors import ConfigError, DataError
from ml_core.base.settings import Settings
from ml_core.features.columns import Column, ColumnArrays, with_role
from ml_core.lab.config import ModelConfig, SplitConfig
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.frames import columns_of, to_arrays
from ml_core.lab.data.raw_tables import columns_beside, read_source
from ml_core.lab.data.table_frames import column_names
from ml_core.serve.features.versions import FeatureVersion, get_feature_version
from ml_core.serve.model.manifest import TrainingFacts

__all__ = [
    "PARTS",
    "LabelledRows",
    "label_rows",
    "outcome_rows",
    "outcome_rows_from_store",
    "outcome_table",
    "place_of",
    "rows_from_file",
    "rows_from_store",
    "split_of",
    "split_in_time",
]

PARTS = ("train", "validation", "calibration", "test")
"""Parts of a split, in the order of their stretches of [0, 1), and in time."""

_NO_TIME = np.iinfo(np.int64).max  # of a row without a value in the column that orders the rows: it is the newest


@dataclass(frozen=True)
class LabelledRows:
    """n rows of a feature version's raw columns with label, group and part.

    Attributes
    ----------
    frame : the raw columns, validated
    features : the feature version they belong to
    y_index : shape (n,), position of the label in ``classes``
    groups : shape (n,), the patient of each row
    parts : shape (n,), one of train, validation, calibration, test; ``left_out`` for older rows of the last two, where
        the configuration calibrates and tests on the newest rows only
    newest : shape (n,), whether a row is one of these
    returning : shape (n,), whether an earlier part has a row of the same patient; never in a split by patient
    times : shape (n,), the value that orders the rows of a split in time, datetimes in microseconds since 1970; the
        largest int64 where it is missing; None for a split by patient
    positions : shape (n,), number of each row in its table or file, from 0
    classes : the K labels, in order
    origin : where they came from, for people
    weights : shape (n,), for how many each row stands (the column with the role weight), as a share of what the
        heaviest row of the whole table or file stands for; None where there is no such column, or the rows are answers,
        which come as people do
    table, table_version : Delta table and version; empty and -1 when they came from a file
    subjects : what the groups are, in the plural, for messages
    """

    frame: pd.DataFrame
    features: FeatureVersion
    y_index: npt.NDArray[np.int64]
    groups: npt.NDArray[np.generic]
    parts: npt.NDArray[np.str_]
    classes: tuple[Label, ...]
    origin: str
    newest: BoolArray
    returning: BoolArray
    times: IntArray | None
    positions: IntArray
    table: str = ""
    table_version: int = -1
    weights: FloatArray | None = None
    subjects: str = "subjects"

    def part(self, *names: str) -> LabelledRows:
        """The rows of these parts."""
        return self.only(np.isin(self.parts, names))

    def recent(self) -> LabelledRows:
        """The newest rows, which say what is normal today."""
        return self.only(self.newest)

    def seen_until(self) -> tuple[int, int] | None:
        """Time and position of the newest row that trains, validates or calibrates; None for a split by patient."""
        if self.times is None:
            return None
        seen = ~np.isin(self.parts, ("test", "left_out"))
        return max(zip(self.times[seen].tolist(), self.positions[seen].tolist(), strict=True), default=(-1, -1))

    def unseen_by(self, training: TrainingFacts) -> BoolArray:
        """Which rows a model had not seen when its test began, shape (n,).

        After a split by patient those of its test patients, wherever they come from; after a split in time those newer
        than its newest row of training, validation and calibration.

        Raises
        ------
        DataError, ConfigError
            The column of its split in time is not there.
        """
        facts = training.params
        if facts.get("split_by") != "time":
            shares = SplitConfig(salt=training.split_salt, **training.split_shares)
            unseen: BoolArray = split_of(self.groups, shares) == "test"
            return unseen
        name = facts.get("split_order_by")
        split = SplitConfig(by="time", order_by=None if name is None else str(name))
        times, until = _times(self.frame, self.features, split, self.origin), int(facts["split_seen_until"])
        newer: BoolArray = times > until
        if training.table != self.table:  # positions in another table say nothing
            newer &= times != _NO_TIME
        else:
            newer |= (times == until) & (self.positions > int(facts["split_seen_position"]))
        return newer

    def only(self, kept: BoolArray) -> LabelledRows:
        """The rows where ``kept``, shape (n,), is True."""
        return replace(
            self,
            frame=self.frame[kept],
            y_index=self.y_index[kept],
            groups=self.groups[kept],
            parts=self.parts[kept],
            newest=self.newest[kept],
            returning=self.returning[kept],
            times=None if self.times is None else self.times[kept],
            positions=self.positions[kept],
            weights=None if self.weights is None else self.weights[kept],
        )

    @cached_property
    def columns(self) -> ColumnArrays:
        """The feature columns as a transform takes them."""
        return to_arrays(self.frame, self.features)

    def columns_with(self, beside: Sequence[Column]) -> ColumnArrays:
        """The same with columns that only tell groups of patients.

        Raises
        ------
        DataError
            The rows have no such column.
        InvalidRows
            A value is none of its column.
        """
        missing = [column.name for column in beside if column.name not in self.frame.columns]
        if missing:
            raise DataError(
                self.origin,
                f"has no column {', '.join(missing)}, which conformal.groups looks at: run `surety features run` again",
            )
        return {**self.columns, **columns_of(self.frame, beside)} if beside else self.columns

    @cached_property
    def matrix(self) -> npt.NDArray[np.float32]:
        """The transformed rows, float32 (n, d)."""
        return self.features.transform(self.columns)

    @property
    def counts(self) -> dict[str, int]:
        """Rows per part."""
        names, counts = np.unique(self.parts, return_counts=True)
        return {str(n): int(c) for n, c in zip(names, counts, strict=True)}

    def __len__(self) -> int:
        return len(self.y_index)


def rows_from_store(config: ModelConfig, settings: Settings, table_version: int | None = None) -> LabelledRows:
    """The rows of the feature store, split as the configuration says.

    Parameters
    ----------
    table_version : Delta version; the latest if None

    Raises
    ------
    DataError
        The store has no such table or version; the message says how to make it.
    """
    store = FeatureStore.of(settings, config.model)
    try:
        version = store.latest(config.feature_version) if table_version is None else table_version
        frame = store.read(config.feature_version, version)
    except DataError as error:
        raise DataError(
            f"no training rows: {error}", "run `surety features run --config ...`, or train on the newest version"
        ) from error
    rows = label_rows(frame, config.feature_version, config.split, f"table {config.feature_version} version {version}")
    return replace(rows, table=config.feature_version, table_version=version, subjects=config.subjects)


def rows_from_file(path: Path, config: ModelConfig) -> LabelledRows:
    """The rows of a file, split as the configuration says.

    The file has the feature version's columns, or is of the kind the configuration's adapter reads.
    """
    adapter = config.data.adapter
    if _has_label(path, config):
        adapter = "columns"
    beside = columns_beside(config.conformal.groups, get_feature_version(config.feature_version).columns)
    frame = read_source(path, adapter, config.feature_version, beside, config.data).frame
    rows = label_rows(frame, config.feature_version, config.split, f"file {path.name}")
    return replace(rows, subjects=config.subjects)


def outcome_table(feature_version: str) -> str:
    """Table of the feature store with the answered records that calibrate a model of that feature version anew."""
    return f"{feature_version}-outcomes"


def outcome_rows_from_store(config: ModelConfig, settings: Settings, table_version: int) -> LabelledRows:
    """The :func:`outcome_rows` of a version of their table; DataError where the store has no such version."""
    table = outcome_table(config.feature_version)
    frame = FeatureStore.of(settings, config.model).read(table, table_version)
    return outcome_rows(frame, config, table_version)


def outcome_rows(frame: pd.DataFrame, config: ModelConfig, table_version: int = -1) -> LabelledRows:
    """Answered records of known outcome, which calibrate and test a scorer that was trained on other patients.

    Who is a test patient by the configured split is one here, and never calibrates. All others calibrate, since the
    scorer knows none of them. Where the configuration splits in time, the newest answers test, as large a share as it
    says, and the older ones calibrate.

    Parameters
    ----------
    frame : the oldest answer first

    Raises
    ------
    DataError
        There is one class only.
    """
    table = outcome_table(config.feature_version)
    split = config.split.model_copy(update={"newest_rows": None, "by": "group", "order_by": None})
    rows = label_rows(frame, config.feature_version, split, f"matured answers, table {table} version {table_version}")
    is_test = rows.parts == "test"
    if config.split.by == "time":
        is_test = rows.positions >= len(rows) - round(len(rows) * config.split.test)
    parts = np.where(is_test, "test", "calibration")
    return replace(rows, parts=parts, table=table, table_version=table_version, subjects=config.subjects)


def label_rows(frame: pd.DataFrame, version_name: str, split: SplitConfig, origin: str) -> LabelledRows:
    """Rows of a frame that has label and group.

    Raises
    ------
    DataError
        There is no label or group column, one of them has nulls, or there is only one class; or no column that could
        order a split in time.
    ConfigError
        ``split.order_by`` is no whole-number or datetime column of the feature version.
    """
    version = get_feature_version(version_name)
    label, group = with_role(version.columns, "label"), with_role(version.columns, "group")
    if label is None or group is None:
        raise DataError(f"feature version {version_name}", "has no label or no group column")
    for column in (label.name, group.name):
        if column not in frame.columns:
            raise DataError(origin, f"has no column {column}")
        if frame[column].isna().any():
            raise DataError(origin, f"column {column} has nulls")
    classes, y_index = _classes(frame[label.name], label.levels, origin)
    groups = frame[group.name].to_numpy()
    groups = groups.astype(np.int64 if group.dtype == "int" else np.str_)
    positions = np.arange(len(frame))
    times = _times(frame, version, split, origin) if split.by == "time" else None
    newest, parts = positions >= len(frame) - (split.newest_rows or len(frame)), split_of(groups, split)
    if times is not None:
        if (times == _NO_TIME).all():
            raise DataError(origin, "the column that orders the rows of a split in time is empty")
        order = np.lexsort((positions, times))
        newest, parts = newest[np.argsort(order)], split_in_time(times, split)
    parts = np.where(~newest & np.isin(parts, ("calibration", "test")), "left_out", parts)
    return LabelledRows(
        frame=frame.reset_index(drop=True),
        features=version,
        y_index=y_index,
        groups=groups,
        parts=parts,
        classes=classes,
        origin=origin,
        newest=newest,
        returning=_returning(groups, parts),
        times=times,
        positions=positions,
        weights=_weights(frame, version, origin),
    )


def place_of(group: str | int, salt: str) -> float:
    """Where a group lies in [0, 1): the first 53 bits of sha256 over ``salt:group``.

    Depends on the group's name and the salt alone, so a patient stays where they are when rows, versions or models
    change. An integral number and its text are the same group.
    """
    digest = hashlib.sha256(f"{salt}:{group}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def split_of(groups: Sequence[str | int] | npt.NDArray[np.generic], split: SplitConfig) -> npt.NDArray[np.str_]:
    """The part of every row, by its group.

    Parameters
    ----------
    groups : shape (n,)
        Text or whole number naming the patient of each row.
    split : SplitConfig
        Salt and shares. A part's rows are those whose place lies in its stretch of [0, 1), in the order of ``PARTS``.

    Returns
    -------
    str array, shape (n,)
        Each one of ``PARTS``.
    """
    ids = np.asarray(groups)
    if ids.dtype.kind == "f":  # whole numbers in a column that once held a null; 7.0 is still patient 7
        ids = ids.astype(np.int64)
    names, inverse = np.unique(ids, return_inverse=True)
    places = np.array([place_of(name, split.salt) for name in names.tolist()])
    ends = np.array(list(accumulate((split.train, split.validation, split.calibration))))
    parts: npt.NDArray[np.str_] = np.array(PARTS)[np.searchsorted(ends, places, side="right")]
    return parts[inverse.reshape(-1)]


def split_in_time(times: IntArray, split: SplitConfig) -> npt.NDArray[np.str_]:
    """The part of every row by its time: the oldest train, then validation, calibration, and the newest test.

    Parameters
    ----------
    times : shape (n,)
        What orders the rows. Rows of one time are in one part, the earlier of two; those without a time (the largest
        int64) are the newest, in the order they come.
    split : SplitConfig
        Shares of the rows.

    Returns
    -------
    str array, shape (n,)
        Each one of ``PARTS``.
    """
    n, order = times.size, np.argsort(times, kind="stable")
    ascending = times[order]
    known = int(np.searchsorted(ascending, _NO_TIME))
    ends = []
    for share in accumulate((split.train, split.validation, split.calibration)):
        end = round(share * n)
        if 0 < end <= known:
            end = int(np.searchsorted(ascending, ascending[end - 1], side="right"))
        ends.append(end)
    parts = np.empty(n, dtype=np.array(PARTS).dtype)
    parts[order] = np.array(PARTS)[np.searchsorted(np.maximum.accumulate(ends), np.arange(n), side="right")]
    return parts


def _times(frame: pd.DataFrame, version: FeatureVersion, split: SplitConfig, origin: str) -> IntArray:
    """The value that orders each row, int64, shape (n,)."""
    column = _order_column(version, split)
    if column.name not in frame.columns:
        raise DataError(origin, f"has no column {column.name}, which orders the rows of a split in time")
    values = frame[column.name]
    known = values.notna().to_numpy()
    times = np.full(len(frame), _NO_TIME)
    if column.dtype == "datetime":
        moments = pd.to_datetime(values[known], utc=True).dt.tz_localize(None)
        times[known] = moments.to_numpy().astype("datetime64[us]").astype(np.int64)
    else:
        times[known] = values[known].to_numpy().astype(np.int64)
    return times


def _order_column(version: FeatureVersion, split: SplitConfig) -> Column:
    if split.order_by is None:
        column = with_role(version.columns, "time")
        if column is None:
            raise ConfigError("split.order_by", f"{version.name} has no column with the role time: name one here")
        return column
    column = next((c for c in version.columns if c.name == split.order_by), None)
    if column is None or column.dtype not in ("int", "datetime"):
        problem = "is no whole-number or datetime column"
        raise ConfigError("split.order_by", f"{split.order_by[:60]} {problem} of {version.name}")
    return column


def _weights(frame: pd.DataFrame, version: FeatureVersion, origin: str) -> FloatArray | None:
    """The weight of each row. One without it, such as an answer whose outcome came, counts like the mean row."""
    column = with_role(version.columns, "weight")
    if column is None or column.name not in frame.columns or frame[column.name].isna().all():
        return None
    weights = frame[column.name].to_numpy(dtype=np.float64, na_value=np.nan)
    known = weights[~np.isnan(weights)]
    if not (np.isfinite(known).all() and (known > 0).all()):
        raise DataError(origin, f"column {column.name} has weights that are not above 0")
    whole: FloatArray = np.where(np.isnan(weights), known.mean(), weights) / known.max()
    return whole


def _returning(groups: npt.NDArray[np.generic], parts: npt.NDArray[np.str_]) -> BoolArray:
    """Whether an earlier part holds a row of the same patient, shape (n,); rows that are left out are in no part."""
    place = np.full(parts.shape, len(PARTS))
    for number, part in enumerate(PARTS):
        place[parts == part] = number
    _, who = np.unique(groups, return_inverse=True)
    first = np.full(int(who.max(initial=-1)) + 1, len(PARTS))
    np.minimum.at(first, who, place)
    returning: BoolArray = (place < len(PARTS)) & (place > first[who])
    return returning


def _classes(
    values: pd.Series,
    levels: Sequence[Label],
    origin: str,
) -> tuple[tuple[Label, ...], npt.NDArray[np.int64]]:
    """The labels that occur, in the column table's order, and each row's position among them."""
    found = {value.item() if isinstance(value, np.generic) else value for value in values.unique()}
    classes = tuple(level for level in levels if level in found)
    if found - set(classes):
        raise DataError(origin, f"column {values.name} has {len(found - set(classes))} labels that are no level of it")
    if len(classes) < 2:
        raise DataError(origin, "has rows of one class only")
    position = {label: k for k, label in enumerate(classes)}
    return classes, values.map(position).to_numpy().astype(np.int64)


def _has_label(path: Path, config: ModelConfig) -> bool:
    label = with_role(get_feature_version(config.feature_version).columns, "label")
    return label is not None and label.name in column_names(path, config.data.csv)
