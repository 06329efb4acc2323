"""What a scoring run has finished so far, kept beside its output until that is whole; killed anywhere, it goes on."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from ml_core.base.documents import Document, read_document, write_document
from ml_core.base.errors import ArtefactError, DataError
from ml_core.base.files import FileLock, write_whole

__all__ = ["RowCounts", "Parts", "Plan", "flush"]


class Plan(Document):
    """What decides the content of the output; parts made by another plan are never mixed in.

    Attributes
    ----------
    source_size, source_hash : bytes of the input, and what is told as its ``input_hash``
    model_tag, model_hash : what scores it
    confidence_level : of the prediction sets
    on_error : what becomes of bad rows
    columns : of the output
    block_rows : rows of one part of a file, or of one row group of a part of a folder
    piece_rows : row groups of the input are taken together until they have so many rows
    read_as : how the input is written and what its values mean
    """

    source_size: int
    source_hash: str
    model_tag: str
    model_hash: str
    confidence_level: str
    on_error: str
    columns: tuple[str, ...]
    block_rows: int
    piece_rows: int
    read_as: str

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that differ between plans."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def check_same(self, begun: Plan, out: str) -> None:
        """Raise DataError unless a run that was begun has this very plan."""
        ours, theirs = self.model_dump(), begun.model_dump()
        other = dict.fromkeys(_IN_WORDS[name] for name in ours if ours[name] != theirs[name])
        if other:
            raise DataError(
                out,
                f"was begun with another {', '.join(other)}, and answers are never mixed: "
                "finish that run, or begin anew with --restart",
            )


class RowCounts(Document):
    """How many rows the whole output has, and how many of them were refused; it exists once the output is whole."""

    rows: int
    refused: int


_IN_WORDS = {
    "source_size": "input",
    "source_hash": "input",
    "model_tag": "model",
    "model_hash": "model",
    "confidence_level": "confidence level",
    "on_error": "--on-error",
    "columns": "columns",
    "block_rows": "--block-rows",
    "piece_rows": "release of this program",
    "read_as": "--config",
}


class Parts:
    """The folder ``OUT.parts``: plan, finished parts, and the output itself before it is put in its place.

    The order of the steps is what makes it resumable: parts appear whole and in order; the counts are written when the
    output is whole; only then is it renamed; then the parts go, and last the plan, which ends the run.

    Parameters
    ----------
    out : where the output will be
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out.with_name(f"{out.name}.parts")
        self.whole = self.folder / f"whole{out.suffix}"
        self.spool = self.folder / "stdin.csv"
        self._lock = self.folder / "lock"
        self._plan = self.folder / "plan.json"
        self._counts = self.folder / "outcome.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs on the same output away; afterwards nothing is left of a run that is over or never began.

        Raises
        ------
        DataError
            Another run holds it, or the folder is not one of ours.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._lock.exists() and any(self.folder.iterdir()):
            raise DataError(str(self.folder), "is in the way: it holds something else than the parts of a scoring run")
        try:
            lock = FileLock(self._lock)
        except BlockingIOError as error:
            raise DataError(str(self.out), "another run is writing it: wait until that has ended") from error
        try:
            if not self._plan.exists():
                self.clear()
            yield
        finally:
            if not self._plan.exists():
                self.clear()
                self._lock.unlink()
                with suppress(OSError):  # somebody may have come for the lock just now
                    self.folder.rmdir()
            lock.release()

    def check_free(self, *, force: bool) -> None:
        """Raise unless a run that begins now would replace nothing, or may; one that goes on has asked before."""
        if not self._plan.exists():
            self._check_free(force=force)

    def begin(self, plan: Plan) -> None:
        """Begin a run of that plan, or go on with it.

        Raises
        ------
        DataError
            A run of another plan was begun.
        """
        try:
            begun = read_document(self._plan, Plan)
        except ArtefactError as error:
            raise DataError(str(self.folder), "cannot be gone on with: begin anew with --restart") from error
        if begun is None:
            write_document(self._plan, plan)
        else:
            plan.check_same(begun, str(self.out))

    def finished(self) -> set[int]:
        """Numbers of the parts that there are."""
        return {int(path.stem.removeprefix("part-")) for path in self.folder.glob("part-*.arrow")}

    def add(self, number: int, table: pa.Table) -> None:
        """Keep a finished part; it is there whole or not at all, whatever happens."""
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            write_whole(self._part(number), durable=True) as draft,
            pa.OSFile(str(draft), "wb") as sink,
            pa.ipc.new_file(sink, table.schema, options=options) as writer,
        ):
            writer.write_table(table)

    def tables(self) -> Iterator[pa.Table]:
        """All parts, one after another.

        Raises
        ------
        DataError
            One is damaged.
        """
        for number in sorted(self.finished()):
            try:
                with pa.OSFile(str(self._part(number))) as source, pa.ipc.open_file(source) as reader:
                    table = reader.read_all()
            except (pa.ArrowException, OSError) as error:
                raise DataError(str(self._part(number)), "is damaged: begin anew with --restart") from error
            yield table

    def counts(self) -> RowCounts | None:
        """How many rows the output has, once it is whole, here or in its place."""
        is_made = self.whole.exists() or self.out.exists()
        return read_document(self._counts, RowCounts) if is_made else None

    def finish(self, make: Callable[[Path], RowCounts]) -> RowCounts:
        """Make the whole output of the parts, and know that it is whole."""
        counts = make(self.whole)
        flush(self.whole)
        write_document(self._counts, counts)
        return counts

    def publish(self, *, force: bool) -> None:
        """Put the output in its place and end the run.

        Raises
        ------
        DataError
            Somebody else has put something there meanwhile.
        """
        if self.whole.exists():
            self._check_free(force=force)
            self.whole.replace(self.out)
        for path in (*self.folder.glob("part-*"), self.spool):
            path.unlink(missing_ok=True)
        self.clear()

    def clear(self) -> None:
        """Forget the run: first the plan, so that what a kill leaves is never gone on with."""
        self._plan.unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path != self._lock:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.arrow"

    def _check_free(self, *, force: bool) -> None:
        if self.out.exists() and not force:
            raise DataError(str(self.out), "is there already: name another file, or replace it with --force")


def flush(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
