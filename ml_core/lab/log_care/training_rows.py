"""Erases a person from the feature store: from every table, every version, and every file that is left of one."""

from __future__ import annotations

from collections.abc import Sequence

from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.lab.data.feature_store import FeatureStore, StoredRows
from ml_core.lab.data.people import names_of

__all__ = ["erase_training_rows", "find_training_rows"]

TRAINING_ROWS_ERASED = "training_rows.erased"


def find_training_rows(settings: Settings, name: str, pseudonyms: Sequence[bytes]) -> list[StoredRows]:
    """What each table of the store has of a person; changes nothing.

    Parameters
    ----------
    name : of the person in raw rows
    pseudonyms : of the person under every key; answers that became training rows may have their names from these
    """
    found = [
        store.find_people(table, names_of(table, name, pseudonyms))
        for store in FeatureStore.every(settings.feature_store)
        for table in store.tables()
    ]
    return [rows for rows in found if rows.files]


def erase_training_rows(settings: Settings, name: str, pseudonyms: Sequence[bytes]) -> list[StoredRows]:
    """Erase a person from every table that has rows of them, write it into the journal, and say what there was.

    A model keeps the version number of its training rows. After this the number names rows that are gone, and asking
    for them says so. Killed anywhere, it ends its work when it is run again.

    Raises
    ------
    DataError
        A table cannot be read or written.
    """
    journal = Journal(settings.journal)
    for store in FeatureStore.every(settings.feature_store):
        store.forget_copies()
    erased = []
    for found in find_training_rows(settings, name, pseudonyms):
        names = names_of(found.table, name, pseudonyms)
        # before the files go, since afterwards nobody could tell why these versions are missing
        facts = {"table": found.table, "of_model": found.model, "rows": found.rows, "versions_up_to": found.version}
        journal.append(TRAINING_ROWS_ERASED, facts)
        store = FeatureStore(settings.feature_store, found.model or None)
        erased.append(store.erase_people(found.table, names))
    return erased
