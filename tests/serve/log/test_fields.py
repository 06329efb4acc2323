"""One list says what is stored of an answer: a field that is added to it is stored, hashed, erased, read and sealed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields as fields_of
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_core.base.settings import Settings
from ml_core.lab.log_care import sealed_copy
from ml_core.lab.past_answers.audit import audit
from ml_core.serve.log import fields, logged_answers
from ml_core.serve.log.database import OpenLog, erase_subjects, open_for_change, open_for_reading, rows_of_subjects
from ml_core.serve.log.entries import ERASED, Lineage, Row, row_digest, stored_digest
from ml_core.serve.log.fields import FIELDS, LogLayout, StoredField
from ml_core.serve.log.log_files import log_files
from ml_core.serve.log.logged_answers import LoggedAnswer
from ml_core.serve.log.reader import PredictionLog
from tests.serve.log.builders import DAY, LINEAGE, bulk_row, entries, id_text, rid, row

SITE = StoredField("site", "text", is_by_caller=True, index="entry_site", since=5)


AUDITED = {
    "model_hash": "a" * 64,
    "bento_tag": "toy:1",
    "feature_version": "v1",
    "slot": "champion",
    "guarantee": "marginal",
}


class RowWithSite(Row):
    """A row that also says where it was asked."""

    site: str | None = None


def at_site(site: str | None, n: int = 0, **changes: Any) -> RowWithSite:
    found = RowWithSite(*row(n, **changes))
    found.site = site
    return found


@pytest.fixture
def with_site(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Adds the field ``site``, as the next release might."""

    def add() -> None:
        wider = make_dataclass("Wider", [("site", "str | None")], bases=(LoggedAnswer,), frozen=True)
        monkeypatch.setattr(fields, "LAYOUT", LogLayout((*FIELDS, SITE)))
        monkeypatch.setattr(logged_answers, "LoggedAnswer", wider)
        monkeypatch.setattr("ml_core.serve.log.reader.LoggedAnswer", wider)

    return add


def fill(folder: Path, *rows: Row) -> Path:
    log = OpenLog.of_day(folder, DAY)
    log.commit(rows, durable=False)
    log.close()
    return log.file.path


def test_an_added_field_is_in_table_index_insert_and_digest(tmp_path: Path, with_site: Callable[[], None]) -> None:
    with_site()
    path = fill(tmp_path, at_site("ward-7"), at_site(None, 1), at_site("ward-8", 2))
    stored = entries(path)  # which checks digests and chain
    assert [each["site"] for each in stored] == ["ward-7", None, "ward-8"]
    assert row_digest(at_site("ward-7"), bytes(16)) != row_digest(at_site("ward-8"), bytes(16))
    moved = {**dict(stored[0]), "site": "ward-8"}
    assert stored_digest(moved, LINEAGE.digest) != stored[0]["digest"]
    with closing(open_for_reading(path)) as connection:
        plan = connection.execute("EXPLAIN QUERY PLAN SELECT * FROM entry WHERE site = 'ward-7'").fetchone()
        assert "entry_site" in plan["detail"]


def test_an_added_field_without_a_value_changes_no_digest(with_site: Callable[[], None]) -> None:
    usual = {"subject": bytes(32), "batch_index": 3}
    before = row_digest(row(1, **usual), bytes(16)), row_digest(row(1), bytes(16))
    with_site()
    assert before == (row_digest(at_site(None, 1, **usual), bytes(16)), row_digest(at_site(None, 1), bytes(16)))


def test_an_added_field_is_erased_with_its_row(tmp_path: Path, with_site: Callable[[], None]) -> None:
    with_site()
    path = fill(tmp_path, at_site("ward-7", subject=b"s" * 32), at_site("ward-8", 1, subject=b"t" * 32))
    with closing(open_for_change(path)) as connection:
        assert erase_subjects(connection, [b"s" * 32]) == 1
        assert fields.LAYOUT.not_erased(connection.execute("SELECT * FROM entry").fetchone()) == []
        connection.execute("VACUUM")
    assert [each["site"] for each in entries(path)] == [None, "ward-8"]
    assert b"ward-7" not in path.read_bytes()


def test_a_field_that_was_not_erased_with_its_row_is_seen(tmp_path: Path, with_site: Callable[[], None]) -> None:
    with_site()
    path = fill(tmp_path, at_site("ward-7"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE entry SET answer=?, input=NULL, salt=x''", (ERASED,))
    with closing(open_for_reading(path)) as connection:
        assert fields.LAYOUT.not_erased(connection.execute("SELECT * FROM entry").fetchone()) == ["site"]


def test_an_added_field_is_read_and_sealed(tmp_path: Path, with_site: Callable[[], None]) -> None:
    with_site()
    fill(tmp_path, at_site("ward-7"), at_site(None, 1))
    log = PredictionLog(tmp_path)
    (file,) = log.files()
    assert [found.site for found in log.rows()] == ["ward-7", None]  # type: ignore[attr-defined]
    assert log.find(id_text(rid(0))).site == "ward-7"  # type: ignore[union-attr]
    sealed_copy.write_copy(
        tmp_path / "copy.parquet",
        ((found, digest) for found, digest in log.of_file(file)),
        [],
        labels_are_whole=True,
        step=lambda _: None,
    )
    copy = pq.read_table(tmp_path / "copy.parquet")
    assert copy.schema.field("site").type == pa.string()
    assert copy["site"].to_pylist() == ["ward-7", None]


def test_an_audit_shows_an_added_field(tmp_path: Path, with_site: Callable[[], None]) -> None:
    with_site()
    settings = Settings(home=tmp_path, model_name="toy")
    fill(settings.log, at_site("ward-7", lineage=Lineage.of({**LINEAGE.facts, **AUDITED})))
    found = audit(settings, id_text(rid(0)))
    assert found is not None
    assert found.answer is not None
    assert found.answer["site"] == "ward-7"


def test_what_a_caller_sends_with_a_bulk_call_holds_for_all_its_rows(
    tmp_path: Path, with_site: Callable[[], None]
) -> None:
    with_site()
    found, _ = bulk_row(tmp_path, 3, 10)
    call = RowWithSite(*found)
    call.site = "ward-7"
    fill(tmp_path, call)
    assert [answer.site for answer in PredictionLog(tmp_path).rows()] == ["ward-7"] * 3  # type: ignore[attr-defined]


def test_a_file_from_before_the_field_is_read_and_then_brought_up_to_date(
    tmp_path: Path, with_site: Callable[[], None]
) -> None:
    path = fill(tmp_path, row(0, subject=b"s" * 32), row(1))
    before = path.read_bytes()
    with_site()
    assert [found.site for found in PredictionLog(tmp_path).rows()] == [None, None]  # type: ignore[attr-defined]
    with closing(open_for_reading(path)) as connection:
        assert rows_of_subjects(connection, [b"s" * 32]) == [1]
    assert path.read_bytes() == before
    assert fill(tmp_path, at_site("ward-7", 2)) == path
    assert [each["site"] for each in entries(path)] == [None, None, "ward-7"]


def test_a_file_that_only_a_later_release_knows_is_left_alone(
    tmp_path: Path, with_site: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        later.setattr(fields, "LAYOUT", LogLayout((*FIELDS, SITE)))
        newer = fill(tmp_path, at_site("ward-7"))
    before = newer.read_bytes()
    mine = fill(tmp_path, row(1))
    assert [file.path for file in log_files(tmp_path)] == [newer, mine]
    assert newer.read_bytes() == before


# --- nothing forgotten ------------------------------------------------------------------------------------------------


def test_a_writers_row_brings_every_field_and_no_other() -> None:
    brought = {each.name for each in FIELDS if each.place == "column" and each.is_written_by == "row"}
    assert set(Row._fields) - {"lineage", "answers"} == brought
    assert set(Row._field_defaults) == {"kind", "answers"}, "a default hides that nobody fills the field"


def test_a_logged_answer_has_every_field_and_no_other() -> None:
    shown = {each.shown_as for each in (*fields.LAYOUT.shown_columns, *fields.LAYOUT.shown_keys)}
    assert {each.name for each in fields_of(LoggedAnswer)} - {"lineage", "file"} == shown


def test_every_kind_of_field_can_be_read_and_sealed(tmp_path: Path) -> None:
    shown = (*fields.LAYOUT.shown_columns, *fields.LAYOUT.shown_keys)
    assert {each.kind for each in shown} <= logged_answers._READ.keys()
    assert len(sealed_copy._schema(pa.int64())) == len(fields.LAYOUT.sealed) + 2


def test_only_what_names_nobody_stays_of_an_erased_row() -> None:
    kept = {each.name for each in FIELDS if each.place == "column" and each.left == "keep"}
    assert kept == {"seq", "kind", "request_id", "at_us", "lineage", "digest", "head"}


def test_the_digest_covers_every_field_but_the_chains_own() -> None:
    left_out = {each.name for each in FIELDS if not each.in_digest}
    assert left_out == {"seq", "kind", "salt", "digest", "head"}
