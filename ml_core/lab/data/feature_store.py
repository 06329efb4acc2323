"""The feature store: Delta Lake tables of validated raw columns, one per model and feature version, with time travel.

Beside the table ``v2`` of raw rows, ``v2-outcomes`` holds the answered records that calibrated a model anew; both have
the columns of the feature version.

A Delta version number names one training set and never another: rows are only added or replaced by a new version.
Versions stay until somebody's rows are erased; then only the newest one is left. A commit appears by one atomic rename,
so a writer killed anywhere leaves the table as it was; files it leaves behind belong to no version and are never read.
Neither the log of a table nor its files hold statistics of columns, whose least and largest value is somebody's. The
transformed matrix beside it is a cache and may be deleted.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import ColumnProperties, CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import DeltaError

from ml_core.base.errors import DataError
from ml_core.base.files import FileLock, locked, write_whole
from ml_core.base.settings import Settings
from ml_core.features.columns import Column
from ml_core.lab.data.frames import to_arrays
from ml_core.lab.data.kept_tables import column_tables, keep_table, kept_version
from ml_core.lab.data.people import group_of
from ml_core.lab.data.stored_columns import alike, arrow_type, as_stored, beside_in
from ml_core.lab.data.table_files import TableFiles
from ml_core.serve.features.versions import FeatureVersion
from ml_core.serve.home.object_stores import open_objects
from ml_core.serve.home.stores import Objects

__all__ = ["FeatureStore", "StoredRows"]

logger = logging.getLogger(__name__)

_BY_MODEL = "models"
_DRAFT = ".copy-of-"
_ORDER = "surety_row"  # position of a row in the table; Delta itself promises no order
_BATCH = "surety_batch_sha256"  # in a commit: what was written, so that the same write is not made twice
_WRITTEN_BY = "surety_mode"
_UPTO = "surety_outcomes_upto"  # in a commit of retraining: the last matured answer that it looked at
_TABLE_PROPERTIES = {
    # Delta's own defaults drop the log of versions older than 30 days, and let a vacuum drop their files after 7.
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.dataSkippingNumIndexedCols": "0",  # no least and largest value of any column in the log
}
_PARQUET = WriterProperties(default_column_properties=ColumnProperties(statistics_enabled="NONE"))
_Mode = Literal["append", "overwrite", "erase"]


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Rows of one person in a table.

    Attributes
    ----------
    table : feature version
    model : whose table it is; empty for one that an earlier release kept for all models
    rows : in its newest version
    files : of the table that hold a row of the person, those of older versions included
    version : its newest version
    """

    table: str
    rows: int
    files: int
    version: int
    model: str = ""


class FeatureStore:
    """Validated rows of one model in one place; a table is named by its feature version, or by that and a word.

    Writers of one table wait for each other: in a folder by a lock file, which the system releases when its holder
    dies. Reading raises DataError where there is no such table or version.

    Earlier releases kept one table for all models. A model without a table of its own reads that one. Its first write
    copies it with all its versions, so that the numbers in older manifests go on naming the same rows.

    Parameters
    ----------
    root : of all models: a folder, or an address such as ``s3://bucket/prefix``
    model : name of the model; None for the tables that all models share
    kept : where the column tables are kept; below ``root`` unless told otherwise
    here : folder on this machine for locks and cached matrices of tables that are not in a folder
    """

    def __init__(
        self, root: Path | str, model: str | None = None, kept: Objects | None = None, here: Path | None = None
    ) -> None:
        self._model = model or ""
        self._kept = kept or open_objects(str(root))
        self._here = here or Path(root)
        top = TableFiles(root)
        self._root = top if model is None else top / _BY_MODEL / model
        self._shared = None if model is None else top

    @classmethod
    def of(cls, settings: Settings, model: str | None = None) -> FeatureStore:
        """The store of a home: in its folder, or among its objects."""
        return cls(feature_root(settings), model, column_tables(settings), settings.feature_store)

    @classmethod
    def every(cls, settings: Settings) -> list[FeatureStore]:
        """The store that all models share, and the store of each model."""
        own = TableFiles(feature_root(settings)) / _BY_MODEL
        return [cls.of(settings), *(cls.of(settings, name) for name in own.folders())]

    def version(self, table: str) -> FeatureVersion:
        """The feature version whose columns a table has: ``v2`` of ``v2`` and of ``v2-outcomes``."""
        return kept_version(self._kept, table.partition("-")[0])

    def table(self, version_name: str) -> TableFiles:
        """The place of a Delta table."""
        own = self._root / version_name
        if self._shared is None or own.is_there or not (self._shared / version_name).is_there:
            return own
        return self._shared / version_name

    def overwrite(self, version_name: str, rows: pd.DataFrame | pa.Table, beside: Sequence[Column] = ()) -> int:
        """Makes these rows the table's content; the Delta version.

        The same content as the latest overwrite makes no new version. The new version has the columns and types of the
        column table, whatever those of older versions are.

        Parameters
        ----------
        rows : a frame, or a table that ``as_stored`` has made
        beside : further columns to keep, which only tell groups of patients; null where the frame has none
        """
        return self._write(version_name, rows, "overwrite", beside)

    def append(self, version_name: str, frame: pd.DataFrame, beside: Sequence[Column] = ()) -> int:
        """Adds the frame's rows after the table's; the Delta version.

        Repeating the latest append adds nothing, so an append may be tried again after a crash.

        Raises
        ------
        DataError
            The table's columns or their types are not those of the column table.
        """
        return self._write(version_name, frame, "append", beside)

    def extend(self, version_name: str, frame: pd.DataFrame, upto: int, beside: Sequence[Column] = ()) -> int:
        """Adds matured answers as rows; the Delta version.

        The commit says up to which answer it goes, so that none is added twice, even after a crash.

        Parameters
        ----------
        upto : number of the last one looked at; where the table goes that far already, nothing is written
        """
        if self.extended_upto(version_name) >= upto:
            return self.latest(version_name)
        return self._write(version_name, frame, "append", beside, {_UPTO: str(upto)})

    def extended_upto(self, version_name: str) -> int:
        """Number of the last matured answer in the newest version; 0 after the table was overwritten from raw rows."""
        for commit in self._open(version_name, None).history():
            if _UPTO in commit:
                return int(commit[_UPTO])
            if commit.get(_WRITTEN_BY) == "overwrite":
                break
        return 0

    def type_changes(self, version_name: str, beside: Sequence[Column] = ()) -> tuple[str, ...]:
        """How the column table differs from the newest version, one sentence a column; none where there is no table.

        Parameters
        ----------
        beside : further columns that are to be kept
        """
        if not self.table(version_name).is_table:
            return ()
        stored = pa.schema(self._open(version_name, None).schema().to_arrow())
        before = {field.name: field.type for field in stored if field.name != _ORDER}
        now = {column.name: arrow_type(column) for column in (*self.version(version_name).columns, *beside)}
        return (
            *(f"column {name} is new" for name in now if name not in before),
            *(f"column {name} is gone" for name in before if name not in now),
            *(
                f"column {name} was {before[name]} and is {kind} now"
                for name, kind in now.items()
                if name in before and not alike(before[name], kind)
            ),
        )

    def latest(self, version_name: str) -> int:
        """The newest Delta version."""
        return int(self._open(version_name, None).version())

    def read(self, version_name: str, delta_version: int | None = None) -> pd.DataFrame:
        """The rows of one Delta version (the latest if None), in the order they were written."""
        place = self.table(version_name)
        delta = self._open(version_name, delta_version)
        try:
            table = delta.to_pyarrow_table(filesystem=place.read_by_arrow())
            table = table.sort_by(_ORDER).drop_columns([_ORDER])
        except (DeltaError, OSError, pa.ArrowException) as error:
            where = f"{place.address} version {delta.version()}"
            raise DataError(where, f"cannot be read: {type(error).__name__}") from error
        return pd.DataFrame({name: _frame_column(table.column(name)) for name in table.column_names})

    def matrix(self, version_name: str, delta_version: int | None = None) -> npt.NDArray[np.float32]:
        """The transformed rows of one Delta version, float32 ``(n, d)``; computed once and kept.

        The copy on disk is named by table, Delta version and the sha256 of the feature module, so a changed transform
        never meets an old matrix.
        """
        version = self.version(version_name)
        delta = self._open(version_name, delta_version)
        name = f"{delta.metadata().id}-{delta.version()}-{version.module_hash[:16]}.npy"
        cached = self._cache(version_name) / name
        with suppress(OSError, ValueError, EOFError):  # absent, or cut short by a crash: computed again below
            matrix: npt.NDArray[np.float32] = np.load(cached, allow_pickle=False)
            return matrix
        matrix = version.transform(to_arrays(self.read(version_name, delta.version()), version))
        try:
            _save(matrix, cached)
        except OSError as error:  # a full disk costs time, not the answer
            logger.warning("feature_store.matrix_not_cached", extra={"table": version_name, "problem": error.strerror})
        return matrix

    def tables(self) -> list[str]:
        """Names of the tables that are here."""
        names = (name for name in self._root.folders() if not name.startswith(_DRAFT) and name != _BY_MODEL)
        return [name for name in names if (self._root / name / "_delta_log").is_there]

    def find_people(self, version_name: str, names: Collection[str]) -> StoredRows:
        """What the table, with all its versions, holds of the people of these names (as texts)."""
        delta, group = self._open(version_name, None), group_of(self.version(version_name)).name
        place = self.table(version_name)
        files = [name for name in _data_files(place) if _holds(place, name, group, names)]
        rows = sum(self._is_one_of(version_name, names)) if files else 0
        return StoredRows(version_name, int(rows), len(files), int(delta.version()), self._model)

    def erase_people(self, version_name: str, names: Collection[str]) -> StoredRows:
        """Makes a version without the people of these names, and removes all versions before it; what was found.

        Where no version of the table holds a row of them, nothing is changed. Afterwards no file of the table, its log
        included, and no cached matrix says anything of them. Killed anywhere, it ends its work when it is run again.
        """
        group = group_of(self.version(version_name)).name
        with self._only_writer(version_name):
            place = self.table(version_name)
            for name in _data_files(place):
                if place.parquet_column(name, group) is None:  # left behind by a writer that was killed
                    place.remove(name)
            found = self.find_people(version_name, names)
            if not found.files:
                return found
            frame = self.read(version_name)
            kept = frame[~self._is_one_of(version_name, names)]
            facts = {_UPTO: str(upto)} if (upto := self.extended_upto(version_name)) else {}
            version = self.version(version_name)
            self._commit(version_name, as_stored(kept, version, beside_in(kept, version)), "erase", 0, facts)
            self._forget_older_versions(version_name)
            return found

    def forget_copies(self) -> None:
        """Remove what is left of a copy of the shared table that was killed."""
        for draft in self._root.folder.glob(f"{_DRAFT}*") if self._root.folder is not None else ():
            shutil.rmtree(draft)

    def _cache(self, version_name: str) -> Path:
        """Where matrices of the table lie: beside it, whichever model asks; on this machine where it is far away."""
        folder = self.table(version_name).folder
        if folder is None:
            return self._here / "cache" / self._model / version_name
        return folder.parent / "cache" / version_name

    def _is_one_of(self, version_name: str, names: Collection[str]) -> npt.NDArray[np.bool_]:
        group = group_of(self.version(version_name)).name
        found: npt.NDArray[np.bool_] = self.read(version_name)[group].astype(str).isin(list(names)).to_numpy()
        return found

    def _forget_older_versions(self, version_name: str) -> None:
        """Remove every file that the newest version does not need: of data, of the log, of cached matrices."""
        place = self.table(version_name)
        delta = DeltaTable(place.address)
        delta.create_checkpoint()
        newest = f"{delta.version():020d}"
        log = place / "_delta_log"
        for name in log.files():
            if "/" not in name and not name.startswith((newest, "_last_checkpoint")):
                log.remove(name)
        shutil.rmtree(self._cache(version_name), ignore_errors=True)
        needed = {uri.rpartition("/")[2] for uri in delta.file_uris()}
        for name in _data_files(place):
            if name.rpartition("/")[2] not in needed:
                place.remove(name)

    def _open(self, version_name: str, delta_version: int | None) -> DeltaTable:
        place = self.table(version_name)
        if not place.is_table:
            problem = "there is no such table in the feature store: `surety features run` makes it"
            raise DataError(place.address, problem)
        try:
            return DeltaTable(place.address, version=delta_version)
        except DeltaError as error:
            problem = "cannot be opened" if delta_version is None else self._why_not(place, delta_version)
            raise DataError(place.address, problem) from error

    def _why_not(self, place: TableFiles, delta_version: int) -> str:
        with suppress(DeltaError):
            delta = DeltaTable(place.address)
            oldest = min(commit["version"] for commit in delta.history())
            if delta_version < oldest:
                return (
                    f"no longer has version {delta_version}: somebody's rows were erased, and with them every version "
                    f"before {oldest} (the journal says when)"
                )
        return f"has no version {delta_version}"

    def _write(
        self,
        version_name: str,
        frame: pd.DataFrame | pa.Table,
        mode: _Mode,
        beside: Sequence[Column],
        more: Mapping[str, str] | None = None,
    ) -> int:
        version = self.version(version_name)
        keep_table(self._kept, version)
        rows = frame if isinstance(frame, pa.Table) else as_stored(frame, version, beside)
        batch = _sha256(rows)
        with self._only_writer(version_name):
            place = self.table(version_name)
            start = 0
            if place.is_table:
                delta = DeltaTable(place.address)
                last = delta.history(1)[0]
                if (last.get(_BATCH), last.get(_WRITTEN_BY), last.get(_UPTO)) == (batch, mode, (more or {}).get(_UPTO)):
                    return int(delta.version())
                start = delta.count() if mode == "append" else 0
                if mode == "append" and (changes := self.type_changes(version_name, beside)):
                    raise DataError(
                        f"the table {version_name}",
                        f"has other columns than the column table ({'; '.join(changes)}): "
                        "make it anew with `surety features run`",
                    )
            return self._commit(version_name, rows, mode, start, {_BATCH: batch, **(more or {})})

    def _commit(self, version_name: str, rows: pa.Table, mode: _Mode, first_row: int, facts: Mapping[str, str]) -> int:
        place = self.table(version_name)
        rows = rows.append_column(_ORDER, pa.array(np.arange(first_row, first_row + len(rows)), pa.int64()))
        try:
            if place.is_table:
                _keep_properties(DeltaTable(place.address))
            write_deltalake(
                place.address,
                _without_python(rows),
                mode="append" if mode == "append" else "overwrite",
                schema_mode=None if mode == "append" else "overwrite",
                commit_properties=CommitProperties(custom_metadata={_WRITTEN_BY: mode, **facts}),
                configuration=_TABLE_PROPERTIES,
                writer_properties=_PARQUET,
            )
        except (DeltaError, OSError) as error:
            raise DataError(place.address, f"cannot be written: {type(error).__name__}") from error
        return int(DeltaTable(place.address).version())

    @contextmanager
    def _only_writer(self, version_name: str) -> Iterator[None]:
        folder = self._root.folder
        if folder is None:
            with locked(self._here / f"{self._model}-{version_name}.lock"):
                yield
            return
        try:
            lock = FileLock(folder / f"{version_name}.lock", wait=True)
        except OSError as error:
            raise DataError(self._root.address, f"cannot be written: {error.strerror}") from error
        try:
            self._take_over(folder, version_name)
            yield
        finally:
            lock.release()

    def _take_over(self, folder: Path, version_name: str) -> None:
        """Copy the table that all models shared, where this model has none of its own yet."""
        own, found = folder / version_name, self.table(version_name).folder
        if found is None or found == own:
            return
        self.forget_copies()
        draft = folder / f"{_DRAFT}{version_name}"
        shutil.copytree(found, draft)
        draft.rename(own)


def feature_root(settings: Settings) -> Path | str:
    """Where the tables lie: in the home, or among the objects of a home on many machines."""
    if not settings.objects:
        return settings.feature_store
    parts = urlsplit(settings.objects)
    if parts.scheme in {"", "file"}:
        return Path(url2pathname(parts.path)) / "features"
    return f"{settings.objects.rstrip('/')}/features"


def _keep_properties(delta: DeltaTable) -> None:
    """Give a table that older software made the properties of a new one."""
    has = delta.metadata().configuration
    lacking = {name: value for name, value in _TABLE_PROPERTIES.items() if has.get(name) != value}
    if lacking:
        delta.alter.set_table_properties(lacking)


def _data_files(table: TableFiles) -> list[str]:
    """Every file of a table but its log's, whether a version needs it or not."""
    return [name for name in table.files() if not name.startswith("_delta_log/")]


def _holds(table: TableFiles, name: str, group: str, names: Collection[str]) -> bool:
    """Whether a file has a row of one of these people."""
    stored = table.parquet_column(name, group)
    wanted = pa.array(sorted(names), pa.string())
    return stored is not None and bool(pc.any(pc.is_in(stored.cast(pa.string()), wanted)).as_py())


# Threads of Arrow and Delta Lake may give up what they hold after a command has done its work. A thread that must take
# Python's lock for that while Python is ending is ended by Python, and the process with it ("terminate called without
# an active exception"). So these threads hold no Python object.


def _without_python(rows: pa.Table) -> pa.Table:
    """The same rows in memory of Arrow's own; that of a numpy array is a Python object's."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def _frame_column(values: pa.ChunkedArray) -> pd.Series[Any]:
    if pa.types.is_integer(values.type) and values.null_count:
        return pd.Series(values.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get))
    return pd.Series(values.to_pandas())


def _sha256(rows: pa.Table) -> str:
    digest = hashlib.sha256()
    for name in rows.column_names:
        column = rows.column(name).combine_chunks()
        digest.update(f"{name}:{column.type}:{len(column)}\n".encode())
        for part in _parts(column):
            digest.update(part)
    return digest.hexdigest()


def _parts(column: Any) -> Sequence[bytes]:
    """Null mask and content of an Arrow array, independent of how it is laid out in memory."""
    null = np.packbits(column.is_null().to_numpy(zero_copy_only=False)).tobytes()
    if pa.types.is_string(column.type):
        texts = column.fill_null("").to_pylist()
        return (null, "\x00".join(texts).encode())
    zero = pa.scalar(0, pa.int64()).cast(column.type)  # false, of booleans
    return (null, column.fill_null(zero).to_numpy(zero_copy_only=False).tobytes())


def _save(matrix: npt.NDArray[np.float32], path: Path) -> None:
    with write_whole(path) as draft, draft.open("wb") as file:
        np.save(file, matrix, allow_pickle=False)
