"""Copies a home: from a folder to a database with its objects, or back. The source stays as it is.

Every step compares what is there and copies what is not, each thing whole or not at all. So a copy that was killed
anywhere goes on when it is asked for again, and ends the same. The documents come last, the rollout among them: a
service that starts on half a copy finds that nothing is live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.errors import ConfigError
from ml_core.base.settings import Settings
from ml_core.lab.home_care.copied_files import FilesSeen, LargeThings, copy_files, file_places
from ml_core.lab.home_care.copied_log import LogSeen, check_arrived, copy_log
from ml_core.lab.home_care.copied_models import ModelsSeen, copy_models
from ml_core.lab.home_care.copied_papers import (
    COPIED,
    HOME_COPY,
    HomeCopy,
    PapersSeen,
    copy_api_keys,
    copy_documents,
    copy_journal,
    documents_in_home,
    journal_in,
)
from ml_core.lab.home_care.copy_refusals import (
    SEAT,
    begun_copy,
    check_engines,
    check_not_used,
    check_objects,
    check_writers,
    home_identity,
)
from ml_core.lab.home_care.home_writers import writers_of
from ml_core.lab.home_care.known_models import is_untouched, known_models, of_model
from ml_core.lab.home_care.model_tables import MODEL_TABLES, tables_to_read
from ml_core.lab.home_care.table_copies import TablesSeen, copy_tables, see_tables
from ml_core.lab.log_care.chain_check import verify_log
from ml_core.lab.registry.registry_tables import RegistryRows, copy_registry, has_own_registry, registry_rows
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.key_register import check_outside_keys

__all__ = ["CopiedHome", "CopiedModel", "copy_home", "key_files", "may_copy"]


@dataclass(frozen=True, slots=True)
class CopiedModel:
    """What a home has of one model.

    Attributes
    ----------
    problems : what verifying its log and labels found in the target; a damaged log is copied as it is
    """

    labels: TablesSeen
    ledger: TablesSeen
    log: LogSeen
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CopiedHome:
    """What is in the target now.

    Attributes
    ----------
    is_final : whether nobody wrote to the source meanwhile, so that all of it is there
    changed : how many things had to be copied; 0 where all was there before
    missing : what the source has and the target has not, in words; only where somebody wrote to the source meanwhile
    keys : files that each machine must be given, since secrets are never copied: setting and file
    keys_file : of API keys in a folder; None where there are none, or the database has them
    """

    is_final: bool
    changed: int
    documents: PapersSeen
    journal: PapersSeen
    files: FilesSeen
    models: ModelsSeen
    registry: RegistryRows
    of_models: Mapping[str, CopiedModel] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    keys_file: Path | None = None

    @property
    def is_sound(self) -> bool:
        """Whether log and labels of every model verify in the target."""
        return not any(each.problems for each in self.of_models.values())


def copy_home(
    source: Settings, target: Settings, *, live: bool = False, step: Callable[[str], None] = lambda _: None
) -> CopiedHome:
    """Copy everything that a home remembers, but its secrets, to a home of the other engine.

    Parameters
    ----------
    target : its key files are those of the source, to verify with
    live : copy while the source is being written to; what comes meanwhile is copied when this is asked for again
    step : told what begins

    Raises
    ------
    ConfigError
        The target holds something else, was used since, or has no room for objects; or the source is being written to.
    SuretyError, OSError
        One of the two homes cannot be used now, or a part of the source is damaged. To try again is safe.
    """
    check_engines(source, target)
    names = known_models(source)
    check_writers(source, names, live=live)
    with _only_one(target), TemporaryDirectory(prefix="surety-copy-") as place:
        draft = Path(place)
        mark = begun_copy(source, target)
        check_objects(source, target, names, is_new=mark is None)
        mark = mark or _mark(source, target)  # first of all: what a killed copy leaves is known by it
        check_not_used(source, target, names, draft, live=live)
        done = _copied(source, target, names, draft, live=live, step=step)
        done = replace(done, missing=tuple(_missing(source, done, names, draft, live=live)), keys=key_files(source))
        writers = writers_of(source, names)
        if done.missing and not (live or writers):
            raise ConfigError("SURETY_HOME", f"was written to meanwhile ({done.missing[0]}): copy once more")
        done = replace(done, is_final=not done.missing and not writers)
        _end(target, mark, done)
    return done


def may_copy(source: Settings, target: Settings, *, live: bool = False) -> Mapping[str, Any]:
    """What there is to copy, ready to be shown; raises as :func:`copy_home`, and changes nothing."""
    check_engines(source, target)
    names = known_models(source)
    check_writers(source, names, live=live)
    is_new = is_untouched(target) or not (target.database or target.home.is_dir())
    check_objects(source, target, names, is_new=is_new or begun_copy(source, target) is None)
    from_ = LargeThings.of(source)
    return {
        "models": names,
        "documents": documents_in_home(source).count,
        "journal_entries": journal_in(source).count,
        "files": sum(len(from_.names(place)) for place in file_places(names)),
        "registry_rows": sum(registry_rows(source).values()),
        "keys": dict(key_files(source)),
    }


def key_files(source: Settings) -> Mapping[str, str]:
    """Files with secrets that a home has, by the setting or the place that names them on each machine."""
    found = {
        "SURETY_LOG_KEY_FILE": source.log_key,
        "SURETY_SUBJECT_KEY_FILE": source.subject_key,
        "SURETY_HOME/trust/signing.key": source.trust / "signing.key",
    }
    return {name: str(path) for name, path in found.items() if path.is_file()}


def _copied(
    source: Settings, target: Settings, names: list[str], draft: Path, *, live: bool, step: Callable[[str], None]
) -> CopiedHome:
    step("the journal")
    journal = copy_journal(source, target)
    step("files beside tables")
    from_, to = LargeThings.of(source), LargeThings.of(target)
    files = sum((copy_files(from_, to, where) for where in file_places(names)), FilesSeen())
    step("models")
    models = copy_models(source, target, names)
    of_models, changed = {}, 0
    for name in names:
        step(f"labels, ledger and log of {name}")
        of_models[name], some = _of_model(of_model(source, name), of_model(target, name), name, draft, live=live)
        changed += some
    registry: RegistryRows = {}
    if has_own_registry(source):
        step("MLflow's tables")
        before = registry_rows(target)
        registry = copy_registry(source, target, draft)
        changed += registry != before
    step("documents and API keys")
    keys_file = copy_api_keys(source, target)
    documents = copy_documents(source, target)
    if all(path is not None and path.is_file() for path in (target.log_key_file, target.subject_key_file)):
        check_outside_keys(target)
    step("verifying")
    for name in names:
        report = verify_log(of_model(target, name))
        of_models[name] = replace(of_models[name], problems=tuple(map(str, report.findings)))
    changed += journal.changed + files.changed + models.changed + documents.changed
    return CopiedHome(
        False, changed, documents, journal, files, models, registry, of_models, keys_file=keys_file
    )  # fmt: skip


def _of_model(source: Settings, target: Settings, name: str, draft: Path, *, live: bool) -> tuple[CopiedModel, int]:
    """What the target has of a model now, and how many of its parts had to be copied."""
    seen, changed = [], 0
    for form, opened in MODEL_TABLES:
        to = opened(target, name)
        before = see_tables(form, to)
        with tables_to_read(form, source, name, draft, live=live) as from_:
            seen.append(copy_tables(form, from_, to) if from_.is_made() or before.rows else before)
        changed += seen[-1] != before
    log = copy_log(source, target, draft / name, live=live)
    return CopiedModel(seen[0], seen[1], log), changed + log.changed


def _missing(source: Settings, done: CopiedHome, names: list[str], draft: Path, *, live: bool) -> Iterator[str]:
    """What the source has now and the target has not, part by part."""
    if documents_in_home(source).sha256 != done.documents.sha256:
        yield "documents"
    if journal_in(source).sha256 != done.journal.sha256:
        yield "entries of the journal"
    if has_own_registry(source) and registry_rows(source) != done.registry:
        yield "rows of MLflow's tables"
    for name in names:
        own, of_it = of_model(source, name), done.of_models[name]
        for (form, _), seen in zip(MODEL_TABLES, (of_it.labels, of_it.ledger), strict=True):
            with tables_to_read(form, own, name, draft, live=live) as tables:
                if see_tables(form, tables) != seen:
                    yield f"{form.kind} of {name}"
        if not check_arrived(own, of_it.log, draft / name, live=live):
            yield f"rows of the log of {name}"


@contextmanager
def _only_one(target: Settings) -> Iterator[None]:
    """One copy into a home at a time."""
    seat = open_home(target).seat(SEAT)
    if not seat.take():
        raise ConfigError("--to", "is being copied to by another process")
    try:
        yield
    finally:
        seat.leave()


def _mark(source: Settings, target: Settings) -> HomeCopy:
    mark = HomeCopy(source=home_identity(source), begun_at=utc_text(utc_now()))
    open_home(target).documents.save(HOME_COPY, mark)
    return mark


def _end(target: Settings, mark: HomeCopy, done: CopiedHome) -> None:
    """Say in the target that it is whole, and in its journal where it came from, where this changed anything."""
    if not done.is_final or (mark.ended_at and not done.changed):
        return
    home = open_home(target)
    facts: dict[str, Any] = {
        "source": mark.source,
        "documents": done.documents.count,
        "entries": done.journal.count,
        "files": done.files.files,
        "rows": {name: each.log.rows for name, each in done.of_models.items()},
    }
    with home.together():
        home.journal.append(COPIED, facts)
        home.documents.save(HOME_COPY, mark.model_copy(update={"ended_at": utc_text(utc_now())}))
