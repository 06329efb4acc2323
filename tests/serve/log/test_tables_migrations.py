"""Files of earlier versions are used on, whole homes as well; files of newer ones are refused in one line.

``old_home.tar.gz`` holds a home and a Bento store that the release before the two wings (7ca963d) has written: 30 single
requests, a JSON batch of 20, an Arrow call of 40, 53 labels and one look of the monitor, with a horizon of 0 days. Model
and requests are made up.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ml_core.base.errors import LogDamaged
from ml_core.base.settings import Settings
from ml_core.cli.main import main
from ml_core.cli.main import surety as command_line
from ml_core.lab.log_care.log_days import log_days
from ml_core.lab.log_care.sealed_copy import shown_by
from ml_core.lab.log_care.sealing import seal_day
from ml_core.lab.watching.health_monitor import HealthMonitor
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.serve.home.tables import FileFormat, StoredTable, TableField, Transaction
from ml_core.serve.log import fields
from ml_core.serve.log.database import OpenLog, open_for_reading
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.fields import FIELDS, LogLayout, StoredField
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelStore
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.reader import PredictionLog
from tests.homes import bento_store
from tests.serve.log.builders import row

OLD_HOME = Path(__file__).with_name("old_home.tar.gz")
PERSON, ANSWERS, OF_PERSON = "person-a", 90, 4
NEWER = 99
AN_ID = "01942000-0000-7000-8000-000000000002"


# --- steps ------------------------------------------------------------------------------------------------------------

FIRST = TableField("name", "TEXT NOT NULL")
LATER = TableField("size", "INTEGER", since=2, index="thing_size")
LAST = TableField("colour", "TEXT", since=3)


def format_of(*fields_: TableField, more: dict[int, Sequence[str]] | None = None) -> FileFormat:
    return FileFormat("box", 7, [StoredTable("thing", fields_)], more or {})


def connected(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(path, isolation_level=None))


def made(path: Path, form: FileFormat) -> list[tuple[Any, ...]]:
    """Bring a file up to date; its columns and indexes afterwards."""
    with connected(path) as connection:
        with Transaction(connection):
            form.bring_up_to_date(connection, path.name)
        assert connection.execute("PRAGMA user_version").fetchone()[0] == form.version
        return [
            *connection.execute("SELECT name, type, \"notnull\" FROM pragma_table_info('thing')"),
            *connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' ORDER BY name"),
        ]


def test_a_file_that_went_through_the_steps_is_as_a_new_one(tmp_path: Path) -> None:
    last = format_of(FIRST, LATER, LAST, more={3: ["CREATE INDEX by_both ON thing(name, colour)"]})
    for form in (format_of(FIRST), format_of(FIRST, LATER), last):
        found = made(tmp_path / "old.db", form)
    assert last.version == 3
    assert found == made(tmp_path / "new.db", last) == made(tmp_path / "old.db", last)


def test_what_lay_in_a_file_stays_and_later_fields_are_empty(tmp_path: Path) -> None:
    made(tmp_path / "old.db", format_of(FIRST))
    with connected(tmp_path / "old.db") as connection:
        connection.execute("INSERT INTO thing VALUES('a')")
    made(tmp_path / "old.db", format_of(FIRST, LATER))
    with connected(tmp_path / "old.db") as connection:
        assert connection.execute("SELECT name, size FROM thing").fetchall() == [("a", None)]


def test_who_only_reads_sees_later_fields_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    made(path, format_of(FIRST))
    with connected(path) as connection:
        connection.execute("INSERT INTO thing VALUES('a')")
    before = path.read_bytes()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        assert format_of(FIRST, LATER).open(connection, path.name, may_write=False)
        assert connection.execute("SELECT name, size FROM thing").fetchall() == [("a", None)]
    assert path.read_bytes() == before


def test_a_later_table_is_made_by_its_step_and_empty_for_who_only_reads(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    made(path, format_of(FIRST))
    box = StoredTable("lid", (FIRST, LAST), key="name", since=2)
    form = FileFormat("box", 7, [StoredTable("thing", (FIRST,)), box])
    assert form.version == 3
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        assert form.open(connection, path.name, may_write=False)
        assert connection.execute("SELECT name, colour FROM lid").fetchall() == []
    made(path, form)
    with connected(path) as connection:
        connection.execute("INSERT INTO lid VALUES('a', 'red')")
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT INTO lid VALUES('a', 'blue')")


def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    made(path, format_of(FIRST))
    before = path.read_bytes()
    with pytest.raises(sqlite3.OperationalError):
        made(path, format_of(FIRST, LATER, more={2: ["CREATE INDEX broken ON nothing(x)"]}))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "marks", [(), ("PRAGMA user_version=1",), ("PRAGMA user_version=1", "PRAGMA application_id=8")]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, marks: Sequence[str]) -> None:
    path = tmp_path / "other.db"
    with connected(path) as connection:
        for statement in ("CREATE TABLE other(x)", *marks):
            connection.execute(statement)
        with pytest.raises(LogDamaged, match="a database of something else, and no box: move it away"):
            format_of(FIRST).open(connection, path.name, may_write=True)


# --- a home of the release before -------------------------------------------------------------------------------------


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    with tarfile.open(OLD_HOME) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("SURETY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SURETY_LABEL_HORIZON_DAYS", "0")
    with bento_store(tmp_path / "bentoml" / "models"):
        yield Settings(home=tmp_path / "home", model_name="readmission_risk")


def surety(*arguments: str, status: int = 0) -> Any:
    """What the command gives as JSON."""
    done = CliRunner().invoke(command_line, [*arguments, "--output", "json"])
    assert done.exit_code == status, done.output
    return json.loads(done.stdout)


def test_an_old_log_verifies(old: Settings) -> None:
    told = surety("log", "verify")
    (file,) = told["files"]
    assert (told["ok"], file["answers"], file["rows"]) == (True, ANSWERS, 51)
    assert (told["missing"], told["orphans"]) == ([], [])


def test_an_old_log_is_pinned_down_when_the_key_comes(old: Settings) -> None:
    """It verifies as a file without a key, is told so, and cannot be changed unnoticed from then on."""
    assert surety("log", "verify")["files"][0]["key"] is None
    LogRecords(old).key()
    told = surety("log", "verify")
    assert (told["ok"], told["files"][0]["key"], told["findings"]) == (True, None, [])
    (file,) = PredictionLog(old.log).files()
    log = OpenLog.of_day(old.log, file.day)
    log.commit([row(1)], durable=False)
    log.close()
    (found,) = surety("log", "verify", status=3)["findings"]
    assert (found["kind"], found["where"]) == ("unkeyed", file.path.name)


def test_with_a_key_from_outside_an_old_log_is_adopted_by_hand(
    old: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside.key").write_text("1f" * 32, encoding="ascii")
    monkeypatch.setenv("SURETY_LOG_KEY_FILE", str(tmp_path / "outside.key"))
    assert {found["kind"] for found in surety("log", "verify", status=3)["findings"]} == {"unkeyed", "labels"}
    told = surety("log", "adopt")
    assert (len(told["files"]), told["labels"]) == (1, 53)
    assert surety("log", "verify")["ok"]


def test_old_answers_are_given_again_and_audited(old: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [answer.request_id for answer in PredictionLog(old.log).rows()]
    told = surety("replay", *ids[:20], *ids[-20:])
    assert (told["states"]["equal"], told["max_difference"]) == (40, 0.0)
    found = surety("audit", ids[5])
    assert (found["log_entry"]["digest_holds"], found["log_entry"]["chain_holds"]) == (True, True)
    assert [label["outcome"] for label in found["labels"]["history"]] == ["accepted", "conflict"]


def test_an_old_day_is_sealed(old: Settings) -> None:
    (day,) = log_days(old.log)
    assert (seal_day(old, day).outcome, seal_day(old, day).outcome) == ("sealed", "unchanged")
    state = shown_by(day.sealed)
    assert state is not None
    assert state[0]["rows"] == 51
    assert surety("log", "verify")["ok"]


def test_a_person_is_erased_from_an_old_home(old: Settings) -> None:
    (day,) = log_days(old.log)
    seal_day(old, day)
    told = surety("log", "erase-subject", PERSON, "--yes")
    assert (told["erased"], told["labels"], told["matured"]) == (OF_PERSON, OF_PERSON, OF_PERSON)
    verified = surety("log", "verify")
    assert (verified["ok"], verified["files"][0]["erased"]) == (True, OF_PERSON)
    assert surety("log", "erase-subject", PERSON, "--yes", status=3)["erased"] == 0


def test_old_labels_and_the_old_ledger_are_used_on(old: Settings) -> None:
    log = PredictionLog(old.log)
    store = LabelStore(open_label_tables(old, old.model_name), log.known)
    assert store.counts() == {"accepted": 51, "conflict": 1, "unknown": 1}
    stored = store.since(0, 100)
    assert [label.seq for label in stored] == list(range(1, 54))
    corrected = stored[0].request_id
    assert store.add([AnswerLabel(corrected, 1 - int(stored[0].label))], "test").conflict == 1
    with Ledger.changing(open_ledger_tables(old, old.model_name)) as ledger:
        assert ledger.count_matured() == (51, 51)
        (model_hash,) = {found.model_hash for _, found in ledger.matured_after(0)}
        assert list(ledger.detectors(model_hash)) == ["coverage:0", "coverage:1"]
        assert ledger.fact("labels_seen") == 53
        ledger.remember("labels_seen", 54)
        no_cells = ledger.outcomes.cells(model_hash, (0, 1), 0, 1 << 40)
        assert no_cells == ()
    with Ledger.reading(open_ledger_tables(old, old.model_name)) as again:
        assert again is not None
        assert again.fact("labels_seen") == 54


def test_due_answers_of_an_old_home_are_counted_at_the_first_look(old: Settings) -> None:
    """Single answers and those of an Arrow call, with the outcomes that had matured before."""
    HealthMonitor(old).look()
    with Ledger.reading(open_ledger_tables(old, old.model_name)) as ledger:
        assert ledger is not None
        (model_hash,) = {found.model_hash for _, found in ledger.matured_after(0)}
        cells = ledger.outcomes.cells(model_hash, (0, 1), 0, 1 << 40)
    assert sum(cell.came for cell in cells) == 51
    assert sum(cell.due for cell in cells) == ANSWERS


def test_new_answers_are_appended_to_an_old_file(old: Settings) -> None:
    (file,) = PredictionLog(old.log).files()
    log = OpenLog.of_day(old.log, file.day)
    log.commit([row(1)], durable=False)
    log.close()
    assert (log.file, log.seq) == (file, 52)
    assert surety("log", "verify")["ok"]


def test_an_old_home_lives_on_with_a_field_more(old: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same once the next field has come: verified before anything is changed, erased and verified afterwards."""
    monkeypatch.setattr(fields, "LAYOUT", LogLayout((*FIELDS, StoredField("site", "text", attribute=None, since=4))))
    monkeypatch.setattr(fields.LAYOUT, "sealed", [each for each in fields.LAYOUT.sealed if each.name != "site"])
    assert surety("log", "verify")["ok"]
    assert surety("log", "erase-subject", PERSON, "--yes")["erased"] == OF_PERSON
    (file,) = PredictionLog(old.log).files()
    with closing(open_for_reading(file.path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 4
    assert surety("log", "verify")["files"][0]["erased"] == OF_PERSON
    (day,) = log_days(old.log)
    assert seal_day(old, day).outcome == "sealed"


# --- a home of a later release ----------------------------------------------------------------------------------------


def newer(path: Path) -> bytes:
    """Make the file one that a later release wrote."""
    with connected(path) as connection:
        connection.execute(f"PRAGMA user_version={NEWER}")
    return path.read_bytes()


def read_log(settings: Settings) -> None:
    PredictionLog(settings.log).last(1)


def read_labels(settings: Settings) -> None:
    LabelStore(open_label_tables(settings, settings.model_name), lambda _: set()).since(0, 1)


def write_labels(settings: Settings) -> None:
    LabelStore(open_label_tables(settings, settings.model_name), lambda _: set()).add(
        [AnswerLabel(id_bytes(AN_ID), 1)], "x"
    )


def read_ledger(settings: Settings) -> None:
    with Ledger.reading(open_ledger_tables(settings, settings.model_name)):
        pass


def write_ledger(settings: Settings) -> None:
    with Ledger.changing(open_ledger_tables(settings, settings.model_name)):
        pass


def ledger_file(settings: Settings) -> Path:
    return settings.monitor / f"{settings.model_name}.ledger.db"


VERSIONS = {"prediction log": 4, "label store": 2, "monitor's ledger": 4}


@pytest.mark.parametrize(
    ("use", "path_of", "kind"),
    [
        (read_log, lambda s: PredictionLog(s.log).files()[0].path, "prediction log"),
        (read_labels, lambda s: s.labels, "label store"),
        (write_labels, lambda s: s.labels, "label store"),
        (read_ledger, ledger_file, "monitor's ledger"),
        (write_ledger, ledger_file, "monitor's ledger"),
    ],
)
def test_a_newer_file_is_refused_in_one_line_and_left_as_it_is(
    old: Settings, use: Callable[[Settings], None], path_of: Callable[[Settings], Path], kind: str
) -> None:
    path = path_of(old)
    before = newer(path)
    with pytest.raises(LogDamaged) as refused:
        use(old)
    said = str(refused.value)
    assert said.startswith(
        f"{path.name}: is a {kind} of version {NEWER}, and this release knows versions up to {VERSIONS[kind]}: use"
    )
    assert "\n" not in said
    assert path.read_bytes() == before


@pytest.mark.parametrize("arguments", [("log", "verify"), ("labels", "show", AN_ID), ("replay", AN_ID)])
def test_commands_say_so_in_one_line(
    old: Settings, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    newer(PredictionLog(old.log).files()[0].path)
    newer(old.labels)
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if f"version {NEWER}" in line]
    assert len(lines) == (2 if arguments[0] == "log" else 1)  # verify names each of the two files
    assert all("use the release that wrote it" in line for line in lines)
