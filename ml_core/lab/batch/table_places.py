"""Where tables lie: a file, a folder of files or an object store, by one address."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TextIO

from ml_core.base.errors import DataError
from ml_core.lab.batch.object_files import ObjectFile, ObjectFolder, object_address

__all__ = [
    "Place",
    "TableSet",
    "arrow_source",
    "beside",
    "check_is_file",
    "find_tables",
    "is_address",
    "local_path",
    "open_bytes",
    "open_text",
    "size_of",
    "stamp_of",
]

Place = Path | ObjectFile
"""One table: a local file, or an object of a store."""

_TABLES = (".parquet", ".csv", ".tsv")
_HIDDEN = ("_", ".")
_DELTA = "_delta_log"


@dataclass(frozen=True, slots=True)
class TableSet:
    """The tables under one address, in the order of their names.

    Attributes
    ----------
    address : as it was given
    places : one for each table
    names : of each below the address, with ``/`` between folders; of a single file its own name
    is_folder : whether the address is one of a folder, be there one table in it or many
    others : names in the folder that are no tables, and not looked at
    """

    address: str
    places: tuple[Place, ...]
    names: tuple[str, ...]
    is_folder: bool
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.address


def find_tables(address: Path | str) -> TableSet:
    """The table of that address, or all tables of that folder and the folders in it.

    Names that begin with ``_`` or ``.`` are left out, as other programs do; others that are no tables are named.

    Raises
    ------
    DataError
        The address cannot be used, or its folder holds no table, or a Delta table, whose files are not all its rows.
    """
    stored = object_address(address)
    try:
        return _local_tables(local_path(address)) if stored is None else _stored_tables(stored)
    except OSError as error:
        told = (error.strerror or str(error)).splitlines()[0]
        raise DataError(stored or str(address), f"cannot be read: {told}") from error


def local_path(address: Path | str) -> Path:
    """The path of a local address, ``file://`` taken away."""
    text = str(address)
    return Path("/" + text.removeprefix("file:").lstrip("/")) if text.startswith("file:/") else Path(address)


def beside(folder: Path, source: Path) -> Path:
    """A path that a file in that folder names; an address with a scheme stays as it is."""
    return source if is_address(source) else folder / source


def is_address(path: Path) -> bool:
    """Whether a path is an address with a scheme, which a Path has taken a slash of."""
    return path.parts[:1] != () and path.parts[0].endswith(":")


def arrow_source(place: Place) -> Path | BinaryIO:
    """The table as Arrow's readers take it."""
    return place if isinstance(place, Path) else place.open()


def open_bytes(place: Place) -> BinaryIO:
    """The table's bytes."""
    return place.open("rb") if isinstance(place, Path) else place.open()


def open_text(place: Place, encoding: str) -> TextIO:
    """The table as text, line ends as they are."""
    return io.TextIOWrapper(open_bytes(place), encoding=encoding, newline="")


def stamp_of(place: Place) -> tuple[int | str, ...]:
    """Changes when a local file does; an object is asked for by its tag with every read."""
    if not isinstance(place, Path):
        return (place.digest,)
    status = place.stat()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def size_of(place: Place) -> int:
    """Bytes of the table."""
    return place.stat().st_size if isinstance(place, Path) else place.size


def check_is_file(place: Place) -> None:
    """Check that there is something to read.

    Raises
    ------
    DataError
        There is no such file, or it is a folder, or it is empty.
    """
    if isinstance(place, Path) and not place.is_file():
        raise DataError(str(place), "is a folder" if place.is_dir() else "there is no such file")
    if size_of(place) == 0:
        raise DataError(str(place), "is empty")


def _local_tables(path: Path) -> TableSet:
    if not path.is_dir():
        return TableSet(str(path), (path,), (path.name,), is_folder=False)
    found = {file.relative_to(path).as_posix(): file for file in _walked(path)}
    return _of_folder(str(path), sorted(found.items()))


def _walked(folder: Path) -> Iterator[Path]:
    """Every file of a folder and of those in it, linked ones too, each folder once."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if os.path.realpath(Path(root, name)) not in seen]
        seen.update(os.path.realpath(Path(root, name)) for name in folders)
        yield from (Path(root, name) for name in files)


def _stored_tables(address: str) -> TableSet:
    folder = ObjectFolder(address)
    itself = None if address.endswith("/") else folder.itself()
    if itself is not None:
        return TableSet(address, (itself,), (itself.name,), is_folder=False)
    found = folder.files()
    if not found:
        raise DataError(address, "there is no such object, and none below that name")
    return _of_folder(address, found)


def _of_folder(address: str, found: Sequence[tuple[str, Place]]) -> TableSet:
    if any(_DELTA in PurePosixPath(name).parts for name, _ in found):
        problem = "is a Delta table, whose files may hold rows that are no longer in it: write the rows out as Parquet"
        raise DataError(address, problem)
    shown = [(n, p) for n, p in found if not any(part.startswith(_HIDDEN) for part in PurePosixPath(n).parts)]
    tables = [(name, place) for name, place in shown if place.suffix.lower() in _TABLES]
    if not tables:
        raise DataError(address, "holds no .parquet and no .csv file")
    others = tuple(name for name, place in shown if place.suffix.lower() not in _TABLES)
    return TableSet(address, tuple(p for _, p in tables), tuple(n for n, _ in tables), is_folder=True, others=others)
