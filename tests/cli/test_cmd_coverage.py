"""coverage check as a person types it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from ml_core.base.clock import utc_now
from ml_core.serve.rollout import changes
from tests.lab.watching.ward import HORIZON_DAYS, Ward, patients, unforeseen
from tests.toy_models import grouped_toy


def matured(ward: Ward, rows) -> None:
    ward.answer(rows)
    ward.pass_days(HORIZON_DAYS + 1)
    ward.look()


def test_coverage_of_a_valid_model_lies_in_its_bands_and_exits_with_zero(run, ward):
    rows = patients(300, seed=1)
    matured(ward, rows)
    told = run("coverage", "check")
    assert (told.code, told.err) == (0, "")
    positive = int(rows["readmission_30d"].sum())
    bands = {band["label"]: band for band in told.result["bands"]}
    assert {label: band["n"] for label, band in bands.items()} == {None: 300, 0: 300 - positive, 1: positive}
    assert all(band["lower"] <= band["observed"] <= band["upper"] and band["inside"] for band in bands.values())
    assert {d["alarm"]: (d["labels"], d["on"]) for d in told.result["detectors"]} == {
        "coverage:0": (300 - positive, False),
        "coverage:1": (positive, False),
    }
    assert {d["needed"] for d in told.result["detectors"]} == {50_000.0}
    facts = ("model", "slot", "matured", "waiting", "unknown")
    assert [told.result[name] for name in facts] == [ward.home.v1, "champion", 300, 0, 0]


def test_lost_coverage_exits_with_three_and_names_the_class(run, ward):
    matured(ward, unforeseen(450, seed=1))
    told = run("coverage", "check")
    lost = next(d for d in told.result["detectors"] if d["on"])
    assert (told.code, lost["alarm"], lost["misses"] == lost["labels"]) == (3, "coverage:1", True)
    assert lost["evidence"] >= lost["needed"]
    assert next(band for band in told.result["bands"] if band["label"] == 1)["inside"] is False


def test_missing_outcomes_are_counted_and_exit_with_three_where_they_leave_coverage_open(run, ward):
    rows = patients(400, seed=10)
    has_one = {answer.request_id: 1 in answer.prediction_set for answer in ward.answer(rows)}
    ward.due = [each for n, each in enumerate(ward.due) if (n % 5 != 0 if has_one[each[1]] else n % 5 == 1)]
    returned = len(ward.due)
    ward.pass_days(HORIZON_DAYS + 1)
    ward.look()
    told = run("coverage", "check")
    assert (told.code, told.result["due"], told.result["missing"]) == (3, 400, 400 - returned)
    assert [each["reason"] for each in told.result["unverified"]] == ["outcomes:0", "outcomes:1"]
    assert "outcomes:1: outcomes came back for" in told.err
    assert [band["inside"] for band in told.result["bands"]] == [None, None, None]
    assert sum(each["due"] for each in told.result["sets"]) == 400
    for each in told.result["bounds"]:
        assert each["lowest"] <= each["weighted"] <= each["highest"]
        assert each["lowest"] <= each["observed"] <= each["highest"]


def test_a_window_of_answers_does_not_switch_an_alarm_off(run, ward):
    matured(ward, unforeseen(450, seed=1))
    told = run("coverage", "check", "--since", "1h")
    assert (told.code, told.result["matured"], told.result["bands"]) == (3, 0, [])
    assert "no label" in told.err
    age_days = (utc_now() - ward.now).days + 40
    assert run("coverage", "check", "--since", f"{age_days}d").result["matured"] == 450


def test_labels_that_wait_for_their_horizon_are_counted_and_not_judged(run, ward):
    ward.answer(patients(200, seed=2))
    ward.pass_days(6)
    ward.look()
    told = run("coverage", "check")
    assert (told.code, told.result["matured"], told.result["detectors"]) == (0, 0, [])
    assert told.result["waiting"] > 0
    assert f"{told.result['waiting']} wait for their horizon" in told.err


def test_a_table_shows_bands_and_detectors(run, ward, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    matured(ward, unforeseen(450, seed=1))
    told = run("coverage", "check", "--output", "table")
    assert (told.code, "coverage:1" in told.out, "observed" in told.out) == (3, True, True)


def test_another_slot_is_judged_by_its_own_answers(run, ward):
    matured(ward, unforeseen(450, seed=1))
    ward.home.change(changes.full(ward.home.v2))
    ward.look()
    assert run("coverage", "check").code == 0
    told = run("coverage", "check", "--slot", "previous")
    assert (told.code, told.result["model"]) == (3, ward.home.v1)
    assert run("coverage", "check", "--slot", "challenger").code == 1


def test_where_nothing_is_live_or_no_monitor_has_run_the_command_is_broken(run, tmp_path):
    told = run("coverage", "check")
    assert (told.code, told.out, "start the service" in told.err) == (1, "", True)
    ward = Ward(tmp_path)
    told = run("coverage", "check")
    assert (told.code, told.out, "surety monitor" in told.err) == (1, "", True)
    ward.close()


def test_a_ledger_that_cannot_be_read_is_one_line(run, ward):
    matured(ward, patients(30, seed=1))
    (ledger,) = ward.home.settings.monitor.glob("*.ledger.db")
    ledger.write_bytes(b"no database " * 100)
    told = run("coverage", "check")
    assert (told.code, told.out, told.err.count("\n"), ledger.name in told.err) == (1, "", 1, True)


@pytest.fixture
def grouped(run, tmp_path):
    """A ward whose model promises its coverage by sex, and measures it by age band; run first says where it is."""
    place = Ward(tmp_path, champion=grouped_toy().folder)
    yield place
    place.close()


def test_coverage_by_group_names_the_promise_of_each(run, grouped, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = patients(400, seed=5)
    matured(grouped, rows.assign(sex=np.random.default_rng(5).choice(["female", "male"], len(rows))))
    told = run("coverage", "check", "--by", "sex")
    assert (told.code, told.err) == (0, "")
    assert [(g["group"], g["label"], g["promise"]) for g in told.result["groups"]] == [
        ("sex=female", 0, "class_and_group"), ("sex=female", 1, "class_and_group"),
        ("sex=male", 0, "class_and_group"), ("sex=male", 1, "class_and_group"),
        ("sex=unknown", 0, "measured only"), ("sex=unknown", 1, "measured only"),
    ]  # fmt: skip
    women, _, men, _, unknown, _ = told.result["groups"]
    by_class = {band["label"]: band for band in told.result["bands"]}
    assert women["n"] + men["n"] == by_class[0]["n"]
    assert women["covered"] + men["covered"] == by_class[0]["covered"]
    assert women["promised"] >= 0.9
    assert unknown == {**dict.fromkeys(unknown), "group": "sex=unknown", "label": 0, "promise": "measured only"}
    by_age = run("coverage", "check", "--by", "age_band").result["groups"]
    assert {g["promise"] for g in by_age} == {"measured only"}
    assert sum(g["n"] or 0 for g in by_age) <= 400
    assert "groups" not in run("coverage", "check").result
    table = run("coverage", "check", "--by", "sex", "--output", "table")
    assert (table.code, "sex=female" in table.out) == (0, True)


def test_outcomes_that_are_missing_in_one_group_are_told_of_it(run, grouped, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    rows = patients(400, seed=7)
    sexes = np.random.default_rng(7).choice(["female", "male"], len(rows))
    of_men = {
        a.request_id for a, sex in zip(grouped.answer(rows.assign(sex=sexes)), sexes, strict=True) if sex == "male"
    }
    grouped.due = [each for n, each in enumerate(grouped.due) if each[1] not in of_men or n % 2]
    grouped.pass_days(HORIZON_DAYS + 2)
    grouped.look()
    told = run("coverage", "check", "--by", "sex")
    women, _, men, _, unknown, _ = told.result["group_outcomes"]
    assert (women["group"], women["label"], women["missing"], women["returned"]) == ("sex=female", 0, 0, 1.0)
    assert women["due"] + men["due"] == told.result["due"] == 400
    assert men["missing"] == told.result["missing"] > 50
    assert women["lowest"] == women["observed"] == women["highest"]
    assert men["lowest"] < men["observed"] <= men["highest"]
    assert men["lowest"] <= men["weighted"] <= men["highest"]
    assert told.result["group_outcomes_p_value"] < 1e-9
    assert unknown == {**dict.fromkeys(unknown), "group": "sex=unknown", "label": 0}
    assert "group_outcomes" not in run("coverage", "check").result
    assert "returned" in run("coverage", "check", "--by", "sex", "--output", "table").out


def test_answers_that_matured_without_a_group_are_counted_on_the_side(run, grouped):
    matured(grouped, patients(120, seed=6).assign(sex="male"))
    (ledger,) = grouped.home.settings.monitor.glob("*.ledger.db")
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("UPDATE matured SET groups = NULL WHERE n <= 50")
    told = run("coverage", "check", "--by", "sex")
    assert (told.code, "50 answers matured under a release that did not keep their group" in told.err) == (0, True)
    assert sum(g["n"] or 0 for g in told.result["groups"]) <= 70
    assert told.result["matured"] == 120


def test_a_grouping_that_the_model_does_not_know_is_wrong_usage(run, grouped):
    matured(grouped, patients(30, seed=1).assign(sex="male"))
    for verb in ("coverage", "performance"):
        told = run(verb, "check", "--by", "shoe_size")
        assert (told.code, told.out, "it declares sex, age_band" in told.err) == (2, "", True)


def test_a_model_without_groups_says_where_they_are_declared(run, ward):
    matured(ward, patients(30, seed=1))
    told = run("coverage", "check", "--by", "sex")
    assert (told.code, "conformal.groups" in told.err) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [(), ("check", "now"), ("check", "--since", "30"), ("check", "--slot", "loser"), ("check", "--output", "csv")],
)
def test_wrong_usage_exits_with_two(run, arguments):
    assert run("coverage", *arguments).code == 2


@pytest.mark.parametrize("arguments", [(), ("check",)])
def test_help_has_an_example(run, arguments):
    told = run("coverage", *arguments, "--help")
    assert (told.code, "Example: surety coverage check" in told.out) == (0, True)
