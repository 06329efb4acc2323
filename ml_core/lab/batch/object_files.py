"""Objects of an object store, read by ranges and written whole, through obstore (extra ``cluster``)."""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ml_core.base.errors import DataError
from ml_core.serve.home.object_stores import open_bucket

__all__ = ["ObjectFile", "ObjectFolder", "object_address"]

SCHEMES = ("s3", "gs", "az")
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)  # a Path makes one slash of two
_BUFFER_BYTES = 1 << 20


def object_address(address: Path | str) -> str | None:
    """The address with both its slashes where it names an object store, None where it names a local file.

    Raises
    ------
    DataError
        It is a URL of another scheme, or names no bucket.
    """
    found = _ADDRESS.fullmatch(str(address))
    if found is None or found[1] == "file":
        return None
    if found[1] not in SCHEMES:
        raise DataError(str(address), f"is of the scheme {found[1]}; s3://, gs://, az:// and file:// are understood")
    if not found[2].strip("/"):
        raise DataError(str(address), f"names no bucket: {found[1]}://BUCKET/FOLDER")
    return f"{found[1]}://{found[2]}"


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """One object as it was when it was found; a later version of it is never read in its place.

    Attributes
    ----------
    address : ``s3://bucket/key``
    size : bytes
    tag : the store's entity tag, which changes with the content; None where the store gives none
    modified : when it was written, ISO 8601
    """

    address: str
    size: int
    tag: str | None
    modified: str

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """Last part of the address."""
        return PurePosixPath(self.address).name

    @property
    def suffix(self) -> str:
        """``.parquet`` or ``.csv``."""
        return PurePosixPath(self.address).suffix

    @property
    def digest(self) -> str:
        """What names its content without reading it: the entity tag, else size and time."""
        return f"etag:{self.tag}" if self.tag else f"modified:{self.modified}:{self.size}"

    def open(self) -> BinaryIO:
        """Its bytes, read by ranges of at least 1 MiB.

        Raises
        ------
        OSError
            While reading: the store cannot be reached, or refuses.
        DataError
            While reading: the object is no longer the one that was found.
        """
        return io.BufferedReader(_Ranges(self), _BUFFER_BYTES)


class ObjectFolder:
    """Everything in a bucket whose key begins with a prefix and a slash, or the one object of exactly that name.

    Parameters
    ----------
    address : ``s3://bucket/prefix``
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._store, self._prefix = _parts_of(self.address)

    def itself(self) -> ObjectFile | None:
        """The object of this very name, if there is one."""
        if not self._prefix:
            return None
        with _as_os_errors(self.address):
            try:
                return _file_of(self._root, _obstore().head(self._store, self._prefix))
            except FileNotFoundError:
                return None

    def files(self) -> list[tuple[str, ObjectFile]]:
        """Name below the folder and object of each, in the order of their names."""
        prefix = f"{self._prefix}/" if self._prefix else ""
        with _as_os_errors(self.address):
            listed = _obstore().list(self._store, prefix=prefix or None).collect()
        found = [(str(meta["path"]).removeprefix(prefix), _file_of(self._root, meta)) for meta in listed]
        return sorted(found, key=lambda each: each[0])

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object; it is there whole or not at all."""
        with _as_os_errors(f"{self.address}/{name}"):
            _obstore().put(self._store, self._key(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one of that name; whether it was written."""
        with _as_os_errors(f"{self.address}/{name}"):
            try:
                _obstore().put(self._store, self._key(name), content, mode="create")
            except _exceptions().AlreadyExistsError:
                return False
        return True

    def read(self, name: str) -> bytes | None:
        """The content of an object; None where there is none."""
        with _as_os_errors(f"{self.address}/{name}"):
            try:
                return bytes(_obstore().get(self._store, self._key(name)).bytes())
            except FileNotFoundError:
                return None

    def remove(self, names: list[str]) -> None:
        """Remove objects; one that is not there is no fault."""
        with _as_os_errors(self.address):
            for name in names:
                try:
                    _obstore().delete(self._store, self._key(name))
                except FileNotFoundError:
                    continue

    @property
    def _root(self) -> str:
        return self.address.removesuffix(self._prefix).rstrip("/")

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name


class _Ranges(io.RawIOBase):
    """The bytes of an object, each read a request that fails if the object has been replaced."""

    def __init__(self, file: ObjectFile) -> None:
        self._file = file
        self._store, self._key = _parts_of(file.address)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._at + len(view), self._file.size)
        if end <= self._at:
            return 0
        options: dict[str, Any] = {"range": (self._at, end)}
        if self._file.tag:
            options["if_match"] = self._file.tag
        with _as_os_errors(self._file.address):
            try:
                content = _obstore().get(self._store, self._key, options=options).bytes()
            except (_exceptions().PreconditionError, FileNotFoundError) as error:
                raise DataError(self._file.address, "was changed while it was read") from error
            read = memoryview(content)
        view[: len(read)] = read
        self._at += len(read)
        return len(read)


def _file_of(root: str, meta: Any) -> ObjectFile:
    modified = meta["last_modified"].isoformat()
    return ObjectFile(f"{root}/{meta['path']}", int(meta["size"]), meta.get("e_tag"), modified)


def _parts_of(address: str) -> tuple[Any, str]:
    """The opened bucket of an address, and the key in it."""
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    return _bucket(f"{scheme}://{bucket}"), key.strip("/")


@lru_cache(maxsize=16)
def _bucket(root: str) -> Any:
    """A bucket with the credentials and endpoint that the environment names (AWS_…, GOOGLE_…, AZURE_…)."""
    _obstore()
    return open_bucket(root)[1]


def _obstore() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise DataError("an object store", "needs the extra cluster: install surety-bundle[cluster]") from error
    return obstore


def _exceptions() -> Any:
    from obstore import exceptions

    return exceptions


@contextmanager
def _as_os_errors(address: str) -> Iterator[None]:
    """What a store refuses, as an error of a disk would be: it may go away, and what is finished stays."""
    _obstore()
    try:
        yield
    except _exceptions().BaseError as error:
        told = str(error).splitlines() or [type(error).__name__]
        raise OSError(errno.EIO, told[0][:200], address) from error
