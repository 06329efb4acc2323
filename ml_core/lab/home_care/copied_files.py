"""Large things of a home as names with contents: in the folders of a home on one machine, or among its objects.

Each file is copied whole and read back. One that is there already is compared, so a copy that was broken off goes on,
and one that is whole changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ml_core.base.errors import ArtefactError, ChecksumMismatch
from ml_core.base.settings import Settings
from ml_core.serve.home.object_stores import FolderObjects, objects_of
from ml_core.serve.home.stores import Objects

__all__ = ["FilesSeen", "LargeThings", "copy_files", "file_places", "names_there"]

_MOST_BYTES = 1 << 32
_NOT_KEPT = ("features/cache/", "/cache/", ".lock", "/.copy-of-")


@dataclass(frozen=True, slots=True)
class FilesSeen:
    """How much was copied, or found.

    Attributes
    ----------
    changed : how many files were written or removed, since they were not there as they are in the source
    """

    files: int = 0
    bytes: int = 0
    changed: int = 0

    def __add__(self, other: FilesSeen) -> FilesSeen:
        return FilesSeen(self.files + other.files, self.bytes + other.bytes, self.changed + other.changed)


@dataclass(frozen=True, slots=True)
class LargeThings:
    """Where the large things of a home lie.

    Attributes
    ----------
    objects : by name
    are_shared : whether it is an object store that several machines have, or the home's own folder
    """

    objects: Objects
    are_shared: bool

    @classmethod
    def of(cls, settings: Settings) -> LargeThings:
        """Those of a home."""
        shared = objects_of(settings)
        return cls(FolderObjects(settings.home), False) if shared is None else cls(shared, True)

    def names(self, place: str) -> list[str]:
        """Names below a place of :func:`file_places`, without what is no part of a home: caches, locks, drafts.

        The log of a table comes after the files that it names.
        """
        found = (name for name in self.objects.names(self.prefix(place)) if not any(no in name for no in _NOT_KEPT))
        inner = self.prefix("columns") if place == "features" and not self.are_shared else None
        kept = [name for name in found if inner is None or not name.startswith(f"{inner}/")]
        return sorted(kept, key=lambda name: ("/_delta_log/" in name, name))

    def prefix(self, place: str) -> str:
        """Where such things lie here."""
        return "features/columns" if place == "columns" and not self.are_shared else place


def file_places(models: Iterable[str]) -> Iterator[str]:
    """What is copied file by file: tables of columns and features, MLflow's artefacts, what lies beside log rows."""
    yield from ("columns", "features", "mlartifacts")
    for name in models:
        yield from (f"log/{name}/bulk", f"log/{name}/sealed")


def names_there(source: LargeThings, target: LargeThings, place: str) -> Iterator[str]:
    """Names that what lies in one place of the source has in the target."""
    there, here = source.prefix(place), target.prefix(place)
    return (_renamed(name, there, here) for name in source.names(place))


def copy_files(source: LargeThings, target: LargeThings, place: str) -> FilesSeen:
    """Make what lies in one place of the target what lies there in the source; what that is.

    Raises
    ------
    HomeUnreachable, OSError
        One of the two cannot be used now.
    ChecksumMismatch
        What was written is not what is there.
    """
    there, here = source.prefix(place), target.prefix(place)
    total, wanted = FilesSeen(), set()
    for name in source.names(place):
        content = source.objects.get(name, _MOST_BYTES)
        if content is None:  # it was removed since it was listed
            continue
        to = _renamed(name, there, here)
        wanted.add(to)
        total += FilesSeen(1, len(content), int(_put(target.objects, to, content)))
    for name in target.names(place):
        if name not in wanted:  # it was removed from the source since it was copied
            target.objects.remove(name)
            total += FilesSeen(changed=1)
    return total


def _renamed(name: str, there: str, here: str) -> str:
    return f"{here}/{name.removeprefix(f'{there}/')}"


def _put(objects: Objects, name: str, content: bytes) -> bool:
    """Have this content under that name; whether it had to be written."""
    if _is(objects, name, content):
        return False
    objects.put(name, content, replace=True)
    if not _is(objects, name, content):
        raise ChecksumMismatch(name, "is another file than the one that was written")
    return True


def _is(objects: Objects, name: str, content: bytes) -> bool:
    try:
        found = objects.get(name, len(content))
    except ArtefactError:  # it is larger
        return False
    return found is not None and hashlib.sha256(found).digest() == hashlib.sha256(content).digest()
