"""The two engines of a home's objects: a folder, and an object store in a network (S3, Google Cloud, Azure)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ml_core.base.errors import ArtefactError, ConfigError, HomeUnreachable
from ml_core.base.files import write_whole
from ml_core.base.settings import Settings

if TYPE_CHECKING:
    from ml_core.serve.home.stores import Objects

__all__ = ["FolderObjects", "NetworkObjects", "objects_of", "open_bucket", "open_objects"]

_RETRY: dict[str, Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=10)}
_CLIENT: dict[str, Any] = {"connect_timeout": "3s", "timeout": "60s"}
_PAGE = 1_000


def objects_of(settings: Settings) -> Objects | None:
    """The objects that ``SURETY_OBJECTS`` names, None where it names none; opened once a process.

    Raises
    ------
    ConfigError
        As :func:`open_objects`.
    """
    return _opened(settings.objects) if settings.objects else None


@lru_cache(maxsize=8)
def _opened(address: str) -> Objects:
    return open_objects(address)


def open_objects(address: str) -> Objects:
    """The objects at ``s3://…``, ``gs://…``, ``az://…``, ``file://…`` or in a folder.

    Credentials are those that the environment gives, as ``AWS_ACCESS_KEY_ID`` and its like.

    Raises
    ------
    ConfigError
        The address names no store, or the extra ``cluster`` is not installed.
    """
    parts = urlsplit(address)
    if parts.scheme in {"", "file"}:
        return FolderObjects(Path(url2pathname(parts.path)))
    return NetworkObjects(address)


def open_bucket(address: str) -> tuple[Any, Any]:
    """The library ``obstore``, and the store of an address: the one place that says how stores in a network are asked.

    Raises
    ------
    ImportError
        The extra ``cluster`` is not installed.
    OSError, ValueError
        The address names no store that is known.
    """
    import obstore  # only who has objects in a network loads it

    try:
        return obstore, obstore.store.from_url(address, retry_config=_RETRY, client_options={**_CLIENT, **_allowed()})
    except obstore.exceptions.BaseError as error:
        raise OSError(errno.EINVAL, _first_words(error), address) from error


class FolderObjects:
    """Objects as files below a folder; each appears whole.

    Parameters
    ----------
    root : made with the first object
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, content: bytes, *, replace: bool = False) -> bool:
        """Store an object; False where one of that name is there and ``replace`` is off.

        Raises
        ------
        OSError
            It was not stored.
        """
        path = self._path(name)
        try:
            with write_whole(path, durable=True, exclusive=not replace, mode=0o600) as draft:
                draft.write_bytes(content)
        except FileExistsError:
            return False
        return True

    def get(self, name: str, limit: int) -> bytes | None:
        """An object's content, None where there is none.

        Raises
        ------
        ArtefactError
            It has more than ``limit`` bytes.
        OSError
            It cannot be read.
        """
        path = self._path(name)
        try:
            with path.open("rb") as file:
                content = file.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _within(name, content, limit)

    def names(self, prefix: str) -> Iterator[str]:
        """Names of the objects below a prefix, in order."""
        folder = self._path(prefix)
        files = (path for path in folder.rglob("*") if path.is_file() and not _is_draft(path))
        yield from sorted(path.relative_to(self._root).as_posix() for path in files)

    def remove(self, name: str) -> None:
        """Take an object away, where it is there."""
        with suppress(FileNotFoundError, NotADirectoryError):
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self._root / _plain(name)


class NetworkObjects:
    """Objects in a bucket, below a prefix.

    Parameters
    ----------
    address : as ``s3://bucket/prefix``

    Raises
    ------
    ConfigError
        As :func:`open_objects`.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        try:
            self._api, self._store = open_bucket(address)
        except ImportError as error:
            problem = "needs the extra `cluster`: pip install 'surety-bundle[cluster]'"
            raise ConfigError("SURETY_OBJECTS", problem) from error
        except (OSError, ValueError) as error:
            raise ConfigError("SURETY_OBJECTS", f"{self.shown} names no object store that is known") from error

    def put(self, name: str, content: bytes, *, replace: bool = False) -> bool:
        """Store an object; False where one of that name is there and ``replace`` is off.

        Raises
        ------
        HomeUnreachable
            It was not stored.
        """
        with self._our_errors():
            try:
                self._api.put(self._store, _plain(name), content, mode="overwrite" if replace else "create")
            except self._api.exceptions.AlreadyExistsError:
                return False
            return True

    def get(self, name: str, limit: int) -> bytes | None:
        """An object's content, None where there is none.

        Raises
        ------
        ArtefactError
            It has more than ``limit`` bytes.
        HomeUnreachable
            It cannot be read now.
        """
        with self._our_errors():
            try:
                found = self._api.get(self._store, _plain(name))
            except FileNotFoundError:
                return None
            if found.meta["size"] > limit:
                raise ArtefactError(name, f"has {found.meta['size']} bytes, more than the {limit} allowed")
            return _within(name, bytes(found.bytes()), limit)

    def names(self, prefix: str) -> Iterator[str]:
        """Names of the objects below a prefix, in order.

        Raises
        ------
        HomeUnreachable
            They cannot be listed now.
        """
        for name, _ in self.sizes(prefix):
            yield name

    def sizes(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Names of the objects below a prefix and their bytes, in order; of all objects below "".

        Raises
        ------
        HomeUnreachable
            They cannot be listed now.
        """
        below = f"{_plain(prefix)}/" if prefix else None
        with self._our_errors():
            pages = self._api.list(self._store, prefix=below, chunk_size=_PAGE)
            found = sorted((meta["path"], meta["size"]) for page in pages for meta in page)
        yield from found

    def remove(self, name: str) -> None:
        """Take an object away, where it is there.

        Raises
        ------
        HomeUnreachable
            It was not removed.
        """
        with self._our_errors(), suppress(FileNotFoundError):
            self._api.delete(self._store, _plain(name))

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
        except (self._api.exceptions.BaseError, OSError) as error:
            raise HomeUnreachable(self.shown, _first_words(error)) from error


def _allowed() -> dict[str, Any]:
    """Plain HTTP where the store's own address asks for it, as a store in the same house does."""
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    return {"allow_http": True} if address.startswith("http://") else {}


def _plain(name: str) -> str:
    """The name, which must stay below the root."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or any(part in {"..", "."} for part in parts):
        raise ValueError(f"{name!r} is no name of an object")
    return "/".join(parts)


def _is_draft(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == ".draft"


def _within(name: str, content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise ArtefactError(name, f"has more than the {limit} bytes allowed")
    return content


def _first_words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
