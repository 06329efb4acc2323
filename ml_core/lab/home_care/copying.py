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
    check_journal,
    copy_api_keys,
    copy_documents,
    copy_journal,
    documents_in_home,
    journal_in,
)
from ml_core.lab.home_care.home_writers import writers_of
from ml_core.lab.home_care.known_models import is_untouched, known_models, of_model, schemas_of_models
from ml_core.lab.home_care.still_files import still_copy
from ml_core.lab.home_care.table_copies import TablesSeen, copy_tables, see_tables
from ml_core.lab.log_care.chain_check import verify_log
from ml_core.lab.registry.registry_tables import RegistryRows, copy_registry, has_own_registry, registry_rows
from ml_core.lab.watching.ledger import LEDGER_FORMAT, open_ledger_tables
from ml_core.serve.home.homes import HomeName, open_home
from ml_core.serve.home.table_stores import TableStore, open_tables
from ml_core.serve.home.tables import FileFormat
from ml_core.serve.log.key_register import check_outside_keys
from ml_core.serve.log.label_tables import LABEL_FORMAT, open_label_tables
from ml_core.serve.log.log_places import place_of

__all__ = ["CopiedHome", "CopiedModel", "copy_home", "key_files", "may_copy"]

_BUSY_S = 10.0
_SEAT = "home-copy"
_KEPT_HERE = {f"{_SEAT}.lock", HOME_COPY, f".{HOME_COPY}.lock"}


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
    _check_engines(source, target)
    names = known_models(source)
    _check_writers(source, names, live=live)
    with _only_one(target), TemporaryDirectory(prefix="surety-copy-") as place:
        draft = Path(place)
        mark = _begun(source, target)
        check_journal(source, target)
        _check_objects(source, target, names, is_new=mark is None)
        mark = mark or _mark(source, target)
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
    _check_engines(source, target)
    names = known_models(source)
    _check_writers(source, names, live=live)
    is_new = is_untouched(target) or not (target.database or target.home.is_dir())
    _check_objects(source, target, names, is_new=is_new or _begun(source, target) is None)
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
    for form, to in (
        (LABEL_FORMAT, open_label_tables(target, name, busy_s=_BUSY_S)),
        (LEDGER_FORMAT, open_ledger_tables(target, name)),
    ):
        before = see_tables(form, to)
        with _tables(form, source, name, draft, live=live) as from_:
            seen.append(copy_tables(form, from_, to) if from_.is_made() or before.rows else before)
        changed += seen[-1] != before
    log = copy_log(source, target, draft / name, live=live)
    return CopiedModel(seen[0], seen[1], log), changed + log.changed


@contextmanager
def _tables(form: FileFormat, settings: Settings, name: str, draft: Path, *, live: bool) -> Iterator[TableStore]:
    """Tables of the source, to be read: a copy of a file, and a database as it is."""
    database = open_home(settings).database
    path = settings.labels if form is LABEL_FORMAT else settings.monitor / f"{name}.ledger.db"
    if database is not None:
        yield open_tables(form, path, database, name, busy_s=_BUSY_S)
        return
    with still_copy(path, draft / "tables", is_live=live) as still:
        yield open_tables(form, still, None, name, busy_s=_BUSY_S)


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
        for form, seen, what in ((LABEL_FORMAT, of_it.labels, "labels"), (LEDGER_FORMAT, of_it.ledger, "ledger")):
            with _tables(form, own, name, draft, live=live) as tables:
                if see_tables(form, tables) != seen:
                    yield f"{what} of {name}"
        if not check_arrived(own, of_it.log, draft / name, live=live):
            yield f"rows of the log of {name}"


# --- what is refused --------------------------------------------------------------------------------------------------


def _check_engines(source: Settings, target: Settings) -> None:
    if bool(source.database) == bool(target.database):
        how = "pg_dump" if source.database else "cp -a"
        problem = f"is a home of the same engine as the source: use {how} (docs/runbook.md, Back up and restore)"
        raise ConfigError("--to", problem)
    if not source.database and not source.home.is_dir():
        raise ConfigError("SURETY_HOME", f"{source.home} is no folder: it names the home to copy")
    database = open_home(source).database
    if database is not None:
        from ml_core.serve.home.postgres import schema_of  # needs the extra

        known = {schema_of(name) for name in known_models(source)}
        if lost := set(schemas_of_models(database)) - known:
            raise ConfigError("SURETY_DATABASE", f"has tables of a model that no document names: {min(lost)}")


def _check_writers(source: Settings, names: list[str], *, live: bool) -> None:
    if not live and (writers := writers_of(source, names)):
        raise ConfigError(
            "SURETY_HOME" if not source.database else "SURETY_DATABASE",
            f"is being written to ({writers[0]}): stop it, or give --live and copy once more when it has stopped",
        )


@contextmanager
def _only_one(target: Settings) -> Iterator[None]:
    """One copy into a home at a time."""
    seat = open_home(target).seat(_SEAT)
    if not seat.take():
        raise ConfigError("--to", "is being copied to by another process")
    try:
        yield
    finally:
        seat.leave()


def _identity(source: Settings) -> str:
    """Names the home that is copied; one that was never given a name keeps none, since it is not to be changed."""
    found = open_home(source).documents.load("home.json", HomeName)
    database = open_home(source).database
    place = str(source.home.absolute()) if database is None else database.shown
    return place if found is None else found.name


def _begun(source: Settings, target: Settings) -> HomeCopy | None:
    """What says that this source is being, or was, copied there; None where the target is empty.

    Raises
    ------
    ConfigError
        It holds something else, or is in use.
    """
    home = open_home(target)
    mark = home.documents.load(HOME_COPY, HomeCopy)
    if mark is not None and mark.source != _identity(source):
        raise ConfigError("--to", f"holds a copy of another home ({mark.source}): name an empty one")
    if mark is None and (found := _what_is_there(target)):
        raise ConfigError("--to", f"holds something already ({found}), and no copy of this home: name an empty one")
    if writers := writers_of(target, known_models(target)):
        raise ConfigError("--to", f"is in use ({writers[0]}): what it has got since would be lost")
    return mark


def _what_is_there(target: Settings) -> str:
    home = open_home(target)
    if home.database is None:
        return next((p.name for p in sorted(target.home.glob("*")) if p.name not in _KEPT_HERE), "")
    if names := home.documents.every():
        return names[0]
    if home.journal.texts():
        return "a journal"
    if any(registry_rows(target).get(table, 0) for table in ("registered_models", "runs")):
        return "models of MLflow"
    for name in known_models(target):
        tables = (
            see_tables(LABEL_FORMAT, open_label_tables(target, name)),
            see_tables(LEDGER_FORMAT, open_ledger_tables(target, name)),
        )
        if any(each.rows for each in tables):
            return f"labels or the ledger of {name}"
        if files := place_of(of_model(target, name)).files():
            return files[0].name
    return ""


def _check_objects(source: Settings, target: Settings, names: list[str], *, is_new: bool) -> None:
    """Refuse a target that has no room for what is no row, or whose objects are those of another home."""
    if not target.database:
        return
    things = LargeThings.of(target)
    if not things.are_shared:
        from_ = LargeThings.of(source)
        large = next((name for place in file_places(names) for name in from_.names(place)), "") or next(
            (path.name for path in source.models.glob("*/*")), ""
        )
        if large or names:
            problem = "must name an object store, or a folder that all machines see: models, feature tables and files "
            raise ConfigError("--objects", f"{problem}of the log lie there")
        return
    places = ("models", "tags", *file_places(names))
    found = next((name for place in places for name in things.objects.names(place)), "")
    if is_new and found:
        raise ConfigError("--objects", f"holds something already ({found}), and no copy of this home: name another")


def _mark(source: Settings, target: Settings) -> HomeCopy:
    mark = HomeCopy(source=_identity(source), begun_at=utc_text(utc_now()))
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
