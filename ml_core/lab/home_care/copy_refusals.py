"""What a copy of a home refuses: a place that is not empty or was used since, a source that is being written to.

Whatever the target has beyond what was copied there would be lost, since a copy makes it what the source is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ml_core.base.errors import ConfigError
from ml_core.base.settings import Settings
from ml_core.lab.home_care.copied_files import LargeThings, file_places, names_there
from ml_core.lab.home_care.copied_papers import COPIED_FILES, HOME_COPY, CopiedFiles, HomeCopy, check_journal
from ml_core.lab.home_care.home_writers import writers_of
from ml_core.lab.home_care.known_models import known_models, of_model, schemas_of_models
from ml_core.lab.home_care.model_tables import MODEL_TABLES, tables_to_read
from ml_core.lab.home_care.table_copies import see_tables
from ml_core.lab.registry.registry_tables import registry_rows
from ml_core.serve.home.homes import HomeName, open_home
from ml_core.serve.log.label_tables import LABEL_FORMAT, open_label_tables
from ml_core.serve.log.log_files import log_files
from ml_core.serve.log.log_places import place_of

__all__ = ["SEAT", "begun_copy", "check_engines", "check_not_used", "check_objects", "check_writers", "home_identity"]

SEAT = "home-copy"
"""Place of the one process that copies into a home."""
_KEPT_HERE = {f"{SEAT}.lock", HOME_COPY, COPIED_FILES}
_MADE_BY_TRAINING = ("experiments", "runs", "logged_models", "model_versions")


def check_engines(source: Settings, target: Settings) -> None:
    """Refuse two homes of one engine, a source that is not there, and one with a model that cannot be named.

    Raises
    ------
    ConfigError
        Says which.
    """
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


def check_writers(source: Settings, names: list[str], *, live: bool) -> None:
    """Refuse a source that somebody writes to, unless that was said.

    Raises
    ------
    ConfigError
        Says who.
    """
    if not live and (writers := writers_of(source, names)):
        raise ConfigError(
            "SURETY_HOME" if not source.database else "SURETY_DATABASE",
            f"is being written to ({writers[0]}): stop it, or give --live and copy once more when it has stopped",
        )


def home_identity(source: Settings) -> str:
    """Names the home that is copied; one that was never given a name keeps none, since it is not to be changed."""
    found = open_home(source).documents.load("home.json", HomeName)
    database = open_home(source).database
    place = str(source.home.absolute()) if database is None else database.shown
    return place if found is None else found.name


def begun_copy(source: Settings, target: Settings) -> HomeCopy | None:
    """What says that this source is being, or was, copied there; None where the target is empty.

    Raises
    ------
    ConfigError
        It holds something else, or is in use.
    """
    home = open_home(target)
    mark = home.documents.load(HOME_COPY, HomeCopy)
    if mark is not None and mark.source != home_identity(source):
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
        if any(see_tables(form, opened(target, name)).rows for form, opened in MODEL_TABLES):
            return f"labels or the ledger of {name}"
        if files := place_of(of_model(target, name)).files():
            return files[0].name
    return ""


def check_objects(source: Settings, target: Settings, names: list[str], *, is_new: bool) -> None:
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


def check_not_used(source: Settings, target: Settings, names: Sequence[str], draft: Path, *, live: bool) -> None:
    """Refuse a target that has something which was not copied there; what it was to get is noted before it gets it.

    Raises
    ------
    ConfigError
        It was used since it was copied to.
    """
    check_journal(source, target)
    for name in names:
        own, other = of_model(source, name), of_model(target, name)
        if open_home(target).heartbeats(name).reports():
            _refuse(f"a service of {name} has run there")
        there = dict(see_tables(LABEL_FORMAT, open_label_tables(other, name)).last_numbers)
        with tables_to_read(LABEL_FORMAT, own, name, draft, live=live) as tables:
            here = dict(see_tables(LABEL_FORMAT, tables).last_numbers)
        if any(last > here.get(table, 0) for table, last in there.items()):
            _refuse(f"it has newer labels of {name}")
        known = {file.path.name for file in (log_files(own.log) if not source.database else place_of(own).files())}
        files = (file.path.name for file in (place_of(other).files() if target.database else log_files(other.log)))
        if strange := next((file for file in files if file not in known), ""):
            _refuse(f"its log of {name} has {strange}")
    here_, there_ = registry_rows(source), registry_rows(target)
    for table in _MADE_BY_TRAINING:
        if there_.get(table, 0) > here_.get(table, 0):
            _refuse(f"MLflow has more {table} there")
    _check_files(source, target, names)


def _check_files(source: Settings, target: Settings, names: Sequence[str]) -> None:
    home, from_, to = open_home(target), LargeThings.of(source), LargeThings.of(target)
    before = home.documents.load(COPIED_FILES, CopiedFiles) or CopiedFiles()
    known = {*before.names, *(name for place in file_places(names) for name in names_there(from_, to, place))}
    strange = next((n for place in file_places(names) for n in to.names(place) if n not in known), "")
    if strange:
        _refuse(f"it has {strange}")
    if known != set(before.names):
        home.documents.save(COPIED_FILES, CopiedFiles(names=tuple(sorted(known))))


def _refuse(found: str) -> None:
    raise ConfigError("--to", f"was used since it was copied to ({found}): copying once more would lose that")
