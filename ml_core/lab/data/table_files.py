"""The files of the feature store's tables, in a folder or in an object store: what Delta Lake itself does not do."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable

from ml_core.base.errors import HomeUnreachable

__all__ = ["TableFiles"]


class TableFiles:
    """Files below one place.

    Parameters
    ----------
    root : a folder, or an address such as ``s3://bucket/prefix``; credentials are those that the environment gives

    Attributes
    ----------
    address : of the place, as Delta Lake takes it

    Raises
    ------
    HomeUnreachable
        There is no such store, or it cannot be asked now.
    """

    def __init__(self, root: Path | str) -> None:
        self._root = root
        self.address = str(root)
        if isinstance(root, Path):
            self._files: pafs.FileSystem = pafs.LocalFileSystem()
            self._base = str(root.absolute())
        else:
            try:
                self._files, self._base = pafs.FileSystem.from_uri(root)
            except (OSError, pa.ArrowException, ValueError) as error:
                raise HomeUnreachable(self.address, type(error).__name__) from error

    def __truediv__(self, name: str) -> TableFiles:
        """The place below this one."""
        return TableFiles(self._root / name if isinstance(self._root, Path) else f"{self._root.rstrip('/')}/{name}")

    @property
    def folder(self) -> Path | None:
        """The folder on this machine; None in an object store."""
        return self._root if isinstance(self._root, Path) else None

    @property
    def is_there(self) -> bool:
        """Whether anything lies here."""
        return bool(self._info(self._base).type == pafs.FileType.Directory)

    @property
    def is_table(self) -> bool:
        """Whether this is a Delta table."""
        return bool(DeltaTable.is_deltatable(self.address))

    def folders(self) -> list[str]:
        """Names of the folders that lie here, in order."""
        found = self._listed(self._base, recursive=False)
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def files(self) -> list[str]:
        """Names of the files that lie here, those below other folders with their path, in order."""
        found = (info.path for info in self._listed(self._base, recursive=True) if info.type == pafs.FileType.File)
        return sorted(path.removeprefix(f"{self._base}/") for path in found)

    def remove(self, name: str) -> None:
        """Take a file away."""
        self._files.delete_file(f"{self._base}/{name}")

    def parquet_column(self, name: str, column: str) -> pa.ChunkedArray | None:
        """A column of a file; None where the file is no Parquet file to its end."""
        try:
            with self._files.open_input_file(f"{self._base}/{name}") as file:
                return pq.ParquetFile(file).read(columns=[column]).column(column)
        except pa.ArrowInvalid:
            return None

    def read_by_arrow(self) -> pafs.FileSystem:
        """The files as Arrow itself reads them; Delta Lake's own way is a file system written in Python."""
        return pafs.SubTreeFileSystem(self._base, self._files)

    def _info(self, path: str) -> pafs.FileInfo:
        try:
            return self._files.get_file_info(path)
        except OSError as error:
            raise HomeUnreachable(self.address, type(error).__name__) from error

    def _listed(self, path: str, *, recursive: bool) -> list[pafs.FileInfo]:
        try:
            found: list[pafs.FileInfo] = self._files.get_file_info(
                pafs.FileSelector(path, recursive=recursive, allow_not_found=True)
            )
        except OSError as error:
            raise HomeUnreachable(self.address, type(error).__name__) from error
        return found
