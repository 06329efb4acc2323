"""report as a person types it."""

from __future__ import annotations

import json

import pytest

from tests.cli.typing_surety import report
from tests.folder_files import rollout_file
from tests.lab.report.outline import Outline
from tests.lab.watching.ward import Ward, patients
from tests.serve.answering.builders import slot_report
from tests.serve.answering.stored import Home, Worker
from tests.serve.log.filled import tampering
from tests.toy_models import NAME


@pytest.fixture
def home(tmp_path, run) -> Home:
    """v1 is live, and one process says so."""
    found = Home(tmp_path / "home")
    found.promote(found.v1)
    Worker(found)
    report(found, slots=[slot_report("champion")])
    return found


def test_a_page_and_its_json_are_written_side_by_side(run, home, tmp_path):
    told = run("report")
    assert told.code == 0
    page, facts = Outline((tmp_path / "report.html").read_text()), json.loads((tmp_path / "report.json").read_text())
    assert page.problems == []
    assert told.result["status"] == facts["status"]["overall"]
    assert told.result["headline"] in page.text
    assert (told.result["model"], facts["facts"]["model_name"]) == (NAME, NAME)
    assert (told.result["report"], told.result["json"]) == ("report.html", "report.json")
    assert told.result["bytes"] == (tmp_path / "report.html").stat().st_size


def test_places_can_be_named(run, home, tmp_path):
    assert run("report", "--out", "new/ward.html").code == 0
    assert run("report", "--out", "new/ward.html", "--json", "elsewhere/x.json").code == 0
    assert {path.name for path in tmp_path.rglob("*.html")} == {"ward.html"}
    assert (tmp_path / "new" / "ward.json").read_bytes()
    assert (tmp_path / "elsewhere" / "x.json").read_bytes()


def test_a_report_of_a_broken_service_is_written_and_exits_with_zero(run, home):
    for path in home.settings.worker_reports.glob("*"):
        path.unlink()
    told = run("report")
    assert (told.code, told.result["status"]) == (0, "broken")


def test_what_cannot_be_read_is_named(run, home):
    rollout_file(home.settings).write_bytes(b"{")
    told = run("report")
    assert told.code == 0
    assert told.result["gaps"] == [f"{NAME}.json: is no RolloutState."]


def test_a_name_nothing_is_known_of_is_broken_and_writes_nothing(run, home, tmp_path):
    told = run("report", "--model", "typo")
    assert (told.code, told.out) == (1, "")
    assert f"knows nothing of it, there is {NAME}: give another --model" in told.err
    assert not list(tmp_path.glob("report.*"))


def test_a_place_that_cannot_be_written_is_broken(run, home, tmp_path):
    (tmp_path / "file").write_text("")
    told = run("report", "--out", "file/report.html")
    assert (told.code, "cannot be written" in told.err) == (1, True)


@pytest.mark.parametrize("arguments", [("--since", "soon"), ("--open", "maybe"), ("--out", "."), ("--json", ".")])
def test_wrong_usage_is_refused(run, home, arguments):
    assert run("report", *arguments).code == 2


@pytest.mark.parametrize(("answer", "opened"), [("yes", 1), ("no", 0)])
def test_a_browser_is_opened_only_when_asked_for(run, home, tmp_path, monkeypatch, answer, opened):
    places = []
    monkeypatch.setattr("click.launch", places.append)
    assert run("report", "--open", answer).code == 0
    assert places == [str(tmp_path / "report.html")] * opened


def test_verify_finds_a_changed_row(run, tmp_path):
    ward = Ward(tmp_path)
    ward.answer(patients(20, seed=1))
    ward.close()
    assert run("report", "--since", "900d").code == 0
    assert "not walked for this report" in Outline((tmp_path / "report.html").read_text()).text
    (file,) = ward.answered_files()
    with tampering(file) as connection:
        connection.execute("UPDATE entry SET at_us = at_us + 1 WHERE seq = 3")
    told = run("report", "--verify", "--since", "900d")
    assert (told.code, told.result["status"]) == (0, "broken")
    assert f"the hash chain of {file.path.name} does not hold" in Outline((tmp_path / "report.html").read_text()).text
