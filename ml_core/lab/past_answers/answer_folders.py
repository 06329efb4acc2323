"""A folder of answers while it comes to be, on a disk or in an object store: a Parquet part for each piece of work."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, Protocol

from pydantic import ValidationError

from ml_core.base.documents import Document
from ml_core.base.errors import DataError
from ml_core.base.files import write_whole
from ml_core.lab.batch.object_files import ObjectFolder, object_address
from ml_core.lab.batch.table_places import local_path
from ml_core.lab.past_answers.scoring_parts import Parts, Plan, RowCounts, flush

__all__ = [
    "SUMMARY_FILE",
    "AnswerFolder",
    "FolderSummary",
    "InputFacts",
    "PartFacts",
    "TakenOver",
    "answer_folder",
    "part_name",
]

SUMMARY_FILE = "_summary.json"
"""It is written last: a folder that has one is whole."""
_PLAN_FILE = "_plan.json"
_PART = re.compile(r"part-(\d{6,})-([0-9a-f]{16})\.parquet")


class InputFacts(Document):
    """One table of the input: its name below the folder, and the sha256 (hex) or entity tag of its content."""

    name: str
    digest: str


class PartFacts(Document):
    """One file of answers, the input table that it is about, and its rows."""

    name: str
    input: str
    first_row: int
    rows: int
    refused: int


class FolderSummary(Document):
    """What a whole folder of answers holds; ``facts`` are level, guarantee and lineage."""

    rows: int
    refused: int
    facts: dict[str, str]
    inputs: tuple[InputFacts, ...]
    parts: tuple[PartFacts, ...]


class AnswerFolder(Protocol):
    """Where parts are kept until the folder is whole. A part is there whole or not at all."""

    @property
    def out(self) -> Path | str:
        """Where the answers will be."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Keep other runs on the same folder away, as far as the place allows; see :meth:`Parts.held`."""
        ...

    def check_free(self, *, force: bool) -> None:
        """Raise DataError unless a run that begins now would replace nothing, or may."""
        ...

    def begin(self, plan: Plan) -> None:
        """Begin a run, or go on with it; DataError where a run of another plan was begun."""
        ...

    def counts(self) -> RowCounts | None:
        """The rows of a folder that is whole and only has to be put in its place."""
        ...

    def finished(self, plan: Plan) -> set[int]:
        """Numbers of the parts of that plan."""
        ...

    def add(self, plan: Plan, number: int, write: Callable[[Path], None]) -> None:
        """Keep a part, written by ``write`` to the path that it is given."""
        ...

    def opened(self, plan: Plan, number: int) -> BinaryIO:
        """The bytes of a part."""
        ...

    def finish(self, plan: Plan, summary: FolderSummary) -> None:
        """Know that every part is there."""
        ...

    def publish(self, *, force: bool) -> None:
        """Put the folder in its place and end the run."""
        ...

    def clear(self) -> None:
        """Forget the run and what it has finished."""
        ...


class TakenOver(DataError):
    """Raised when what was begun here has been begun anew elsewhere; nothing there is ours any more."""


def answer_folder(out: Path | str) -> AnswerFolder:
    """The folder of that address.

    Raises
    ------
    DataError
        The address cannot be used.
    """
    address = object_address(out)
    return _OnDisk(local_path(out).absolute()) if address is None else _InStore(address)


def part_name(plan: Plan, number: int) -> str:
    """Name of a part; that of another plan is another, so that a process which outlives its run does no harm."""
    return f"part-{number:06d}-{plan.digest}.parquet"


def _numbers(names: Iterator[str], plan: Plan) -> set[int]:
    found = (_PART.fullmatch(name) for name in names)
    return {int(match[1]) for match in found if match is not None and match[2] == plan.digest}


class _OnDisk(Parts):
    """The parts lie in ``OUT.parts/whole``, which is renamed to ``OUT`` when all are there."""

    def __init__(self, out: Path) -> None:
        if not out.name:
            raise DataError(str(out), "is no name for a new folder")
        super().__init__(out)
        self.whole = self.folder / "whole"
        self._replaced = self.folder / "replaced"

    def finished(self, plan: Plan) -> set[int]:  # type: ignore[override]  # parts of a folder carry their plan
        return _numbers((path.name for path in self.whole.glob("part-*")), plan)

    def add(self, plan: Plan, number: int, write: Callable[[Path], None]) -> None:  # type: ignore[override]  # likewise
        with write_whole(self.whole / part_name(plan, number), durable=True) as draft:
            write(draft)

    def opened(self, plan: Plan, number: int) -> BinaryIO:
        return (self.whole / part_name(plan, number)).open("rb")

    def finish(self, plan: Plan, summary: FolderSummary) -> None:  # type: ignore[override]  # likewise
        for path in list(self.whole.iterdir()):
            if not _numbers(iter([path.name]), plan):
                path.unlink()  # drafts of processes that were killed

        def make(whole: Path) -> RowCounts:
            (whole / SUMMARY_FILE).write_text(summary.model_dump_json(indent=2) + "\n", encoding="utf-8")
            flush(whole / SUMMARY_FILE)
            return RowCounts(rows=summary.rows, refused=summary.refused)

        super().finish(make)

    def publish(self, *, force: bool) -> None:
        if self.whole.exists() and self.out.is_dir() and force:
            shutil.rmtree(self._replaced, ignore_errors=True)
            self.out.rename(self._replaced)
        super().publish(force=force)

    def _check_free(self, *, force: bool) -> None:
        if not (self.out.is_dir() and not any(self.out.iterdir())):
            super()._check_free(force=force)


class _InStore:
    """The parts lie where they will be: an object appears whole, and no folder of a store can be renamed.

    The plan keeps runs of another plan away; two runs of one plan write the same.
    """

    def __init__(self, address: str) -> None:
        self.out = address.rstrip("/")

    @property
    def _folder(self) -> ObjectFolder:
        return ObjectFolder(self.out)  # which a process opens for itself

    def held(self) -> AbstractContextManager[None]:
        return nullcontext()

    def check_free(self, *, force: bool) -> None:
        names = [name for name, _ in self._folder.files()]
        foreign = [name for name in names if not (_PART.fullmatch(name) or name in (SUMMARY_FILE, _PLAN_FILE))]
        if foreign:
            raise DataError(self.out, f"holds something else than answers ({foreign[0]}): name another folder")
        if SUMMARY_FILE in names or (names and _PLAN_FILE not in names):
            if not force:
                raise DataError(self.out, "is there already: name another folder, or replace it with --force")
            self.clear()

    def begin(self, plan: Plan) -> None:
        content = plan.model_dump_json(indent=2).encode()
        if self._folder.create(_PLAN_FILE, content):
            return
        begun = self._plan()
        if begun is not None:
            plan.check_same(begun, self.out)

    def counts(self) -> RowCounts | None:
        return None  # there is no step between a folder's last part and its place

    def finished(self, plan: Plan) -> set[int]:
        return _numbers((name for name, _ in self._folder.files()), plan)

    def add(self, plan: Plan, number: int, write: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="surety-part-") as place:
            draft = Path(place, "part.parquet")
            write(draft)
            begun = self._plan()
            if begun is None or begun.digest != plan.digest:
                raise TakenOver(self.out, "was taken over by another run")
            self._folder.put(part_name(plan, number), draft)

    def opened(self, plan: Plan, number: int) -> BinaryIO:
        found = ObjectFolder(f"{self.out}/{part_name(plan, number)}").itself()
        if found is None:
            raise FileNotFoundError(2, "is no longer there", f"{self.out}/{part_name(plan, number)}")
        return found.open()

    def finish(self, plan: Plan, summary: FolderSummary) -> None:
        ours = {part_name(plan, number) for number in self.finished(plan)}
        self._folder.remove([name for name, _ in self._folder.files() if _PART.fullmatch(name) and name not in ours])
        self._folder.put(SUMMARY_FILE, summary.model_dump_json(indent=2).encode() + b"\n")

    def publish(self, *, force: bool) -> None:  # noqa: ARG002 - see AnswerFolder
        self._folder.remove([_PLAN_FILE])

    def clear(self) -> None:
        names = [name for name, _ in self._folder.files()]
        self._folder.remove([name for name in (SUMMARY_FILE, _PLAN_FILE) if name in names])
        self._folder.remove([name for name in names if _PART.fullmatch(name)])

    def _plan(self) -> Plan | None:
        content = self._folder.read(_PLAN_FILE)
        try:
            return None if content is None else Plan.model_validate_json(content)
        except ValidationError as error:
            raise DataError(self.out, "cannot be gone on with: begin anew with --restart") from error
