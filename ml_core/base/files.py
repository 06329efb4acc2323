"""The one way to write a file whole, and the one way to lock a file."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ml_core.base.errors import ArtefactError, ChecksumMismatch, DataError

__all__ = [
    "FileLock",
    "clear_drafts",
    "drafts_of",
    "locked",
    "read_plain_file",
    "write_whole",
    "written_for_user",
]

_STALE_S = 60.0
"""A draft that nobody has touched for this long belongs to a process that was killed."""


@contextmanager
def write_whole(path: Path, *, durable: bool = False, exclusive: bool = False, mode: int = 0o644) -> Iterator[Path]:
    """A draft beside ``path`` to write to; it becomes ``path`` when the block ends, and goes away when the block fails.

    Readers see the old file or the whole new one, whenever a process is killed. The folder is made where it is missing.

    Parameters
    ----------
    durable : wait until content and name are on the disk
    exclusive : raise ``FileExistsError`` where ``path`` is there by the end of the block, instead of replacing it
    mode : permissions of the new file, less the umask

    Raises
    ------
    OSError
        The place cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.draft")
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    try:
        yield draft
        if durable:
            _sync(draft)
        if exclusive:
            os.link(draft, path)
        else:
            draft.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def written_for_user(path: Path) -> Iterator[Path]:
    """As ``write_whole``, for a file that the user named.

    Raises
    ------
    DataError
        The file cannot be written; the message says why.
    """
    try:
        with write_whole(path) as draft:
            yield draft
    except OSError as error:
        raise DataError(str(path), f"cannot be written: {error.strerror or type(error).__name__}") from error


def drafts_of(path: Path) -> list[Path]:
    """Drafts of that file: being written now, or left by a process that was killed."""
    return sorted(p for p in path.parent.glob(f".{path.name}.*") if p.suffix != ".lock")


def clear_drafts(folder: Path, pattern: str) -> None:
    """Remove those drafts of the folder that nobody has touched for a minute."""
    for draft in folder.glob(pattern):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > _STALE_S:
                draft.unlink()


def read_plain_file(path: Path, limit: int, size: int | None = None) -> bytes:
    """Content of a plain file, opened without following a link, or waiting for a pipe, that has appeared meanwhile.

    Parameters
    ----------
    limit : most bytes it may have
    size : bytes it must have, where that is known; another size is refused before a byte is read

    Raises
    ------
    ArtefactError
        It is no plain file, too large, or cannot be opened; ``ChecksumMismatch`` where it has another size.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise ArtefactError(path.name, "cannot be opened") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ArtefactError(path.name, "is no plain file")
        if status.st_size > limit:
            raise ArtefactError(path.name, f"has {status.st_size} bytes, more than the {limit} allowed")
        if size is not None and status.st_size != size:
            raise ChecksumMismatch(path.name, f"has {status.st_size} bytes, the manifest says {size}")
        return file.read(status.st_size + 1)


class FileLock:
    """A lock on a file, which the system gives up when the process dies.

    Parameters
    ----------
    path : made with its folder where it is missing
    wait : wait until the lock is free; otherwise raise ``BlockingIOError``
    mode : permissions of a new file
    shared : several may hold it so at a time, and nobody otherwise meanwhile

    Attributes
    ----------
    descriptor : of the open file, for reading and appending
    """

    def __init__(self, path: Path, *, wait: bool = False, mode: int = 0o600, shared: bool = False) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.descriptor = _open_locked(path, wait, mode, shared)
        while not self.is_there():  # its holder has removed the file since we opened it
            os.close(self.descriptor)
            self.descriptor = _open_locked(path, wait, mode, shared)

    def again(self) -> FileLock:
        """A second holder of the same lock; the lock is free once both have released it."""
        twin = object.__new__(FileLock)
        twin._path = self._path
        twin.descriptor = os.dup(self.descriptor)
        return twin

    def is_there(self) -> bool:
        """Whether the locked file still lies at its path."""
        try:
            found, held = self._path.stat(), os.fstat(self.descriptor)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)

    def release(self) -> None:
        """Give the lock up."""
        os.close(self.descriptor)


@contextmanager
def locked(path: Path, *, wait: bool = True, mode: int = 0o600, shared: bool = False) -> Iterator[FileLock]:
    """Hold the lock on that file inside the block.

    Raises
    ------
    BlockingIOError
        Another process has the lock, and ``wait`` is off.
    """
    lock = FileLock(path, wait=wait, mode=mode, shared=shared)
    try:
        yield lock
    finally:
        lock.release()


def _open_locked(path: Path, wait: bool, mode: int, shared: bool) -> int:  # noqa: FBT001 - private
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
