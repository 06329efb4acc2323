"""drift check as a person types it."""

from __future__ import annotations

import json

import pytest
import yaml

from ml_core.lab.data.cohort import make_cohort
from ml_core.serve.model.bundle import REFERENCE_FILE
from tests.lab.watching.ward import patients
from tests.toy_models import toy_config, toy_model


@pytest.fixture
def files(tmp_path, run):
    """A cohort, another one of the same law, and one of older and heavier patients."""
    for name, seed in (("before", 1), ("same", 2)):
        make_cohort(1_500, seed)[0].to_parquet(tmp_path / f"{name}.parquet", index=False)
    older = make_cohort(1_500, 3)[0]
    older["age"] = (older["age"] + 12).clip(upper=120)
    older["bmi"] += 3
    older.to_parquet(tmp_path / "older.parquet", index=False)
    return tmp_path


BEFORE = ("--reference", "before.parquet")


def test_rows_of_the_same_law_exit_with_zero(run, files):
    told = run("drift", "check", *BEFORE, "--current", "same.parquet", "--feature-version", "v1")
    assert told.code == 0
    assert (told.result["retrain_advised"], told.result["features_tested"]) == (False, 4)
    assert [f["feature"] for f in told.result["features"]] == ["age", "glucose", "bmi", "bp_systolic"]


def test_advice_to_retrain_exits_with_three(run, files):
    told = run("drift", "check", *BEFORE, "--current", "older.parquet", "--feature-version", "v1")
    assert (told.code, told.result["features_drifted"]) == (3, 2)
    assert "2 of 4" in told.err


def test_one_feature_that_the_model_hangs_on_is_enough(run, files):
    older = make_cohort(1_500, 3)[0]
    older.assign(age=(older["age"] + 12).clip(upper=120)).to_parquet(files / "age.parquet", index=False)
    config = toy_config(drift={"threshold_fraction": 0.9}).model_dump(mode="json")
    (files / "model.yaml").write_text(yaml.safe_dump(config))
    reference = str(toy_model().folder / REFERENCE_FILE)
    told = run("drift", "check", "--reference", reference, "--current", "age.parquet", "--config", "model.yaml")
    assert (told.code, told.result["features_drifted"]) == (3, 1)
    assert "of the model's importance: age" in told.err


def test_a_patients_rows_count_once_by_the_column_of_the_feature_version_or_a_named_one(run, files):
    same = make_cohort(300, 6)[0]
    twice = same.loc[same.index.repeat(2)].reset_index(drop=True)
    twice.to_parquet(files / "twice.parquet", index=False)
    told = run("drift", "check", *BEFORE, "--current", "twice.parquet", "--feature-version", "v1")
    assert told.result["notes"][-1].startswith("subjects repeat: 600 rows were tested as")
    told = run("drift", "check", *BEFORE, "--current", "twice.parquet", "--subject", "patient_id")
    assert told.result["notes"][-1].startswith("subjects repeat: 600 rows were tested as")
    told = run("drift", "check", *BEFORE, "--current", "twice.parquet", "--patient", "nobody")
    assert (told.code, "no column nobody" in told.err) == (1, True)
    assert run("drift", "check", "--patient", "patient_id").code == 2


@pytest.mark.parametrize("option", ["--output", "--output-file"])
def test_a_path_gets_the_json_report_and_the_screen_the_result(run, files, option):
    told = run("drift", "check", *BEFORE, "--current", "older.parquet", option, "reports/drift.json")
    report = json.loads((files / "reports" / "drift.json").read_text())
    assert (told.code, report, "reports/drift.json" in told.err) == (3, told.result, True)
    assert sorted(p.name for p in (files / "reports").iterdir()) == ["drift.json"]


def test_a_table_has_a_row_for_each_feature_with_its_state(run, files):
    told = run("drift", "check", *BEFORE, "--current", "older.parquet", "--output", "table", "--domain")
    rows = {line.split("│")[1].strip(): line for line in told.out.splitlines() if "│" in line}
    assert "drifted" in rows["age"]
    assert "ok" in rows["glucose"]
    assert "AUC" in rows["domain"]


def test_limits_and_feature_version_come_from_the_configuration(run, files):
    config = toy_config(drift={"rule": "extended", "threshold_fraction": 0.9}).model_dump(mode="json")
    (files / "model.yaml").write_text(yaml.safe_dump(config))
    told = run("drift", "check", *BEFORE, "--current", "older.parquet", "--config", "model.yaml")
    assert (told.code, told.result["rule"], told.result["threshold_fraction"]) == (0, "extended", 0.9)
    assert len(told.result["features"]) == 4
    told = run(
        "drift", "check", *BEFORE, "--current", "older.parquet", "--config", "model.yaml", "--rule", "ks_mean_shift"
    )
    assert told.result["rule"] == "ks_mean_shift"


def test_a_models_own_reference_serves_as_well(run, files):
    reference = ("--reference", str(toy_model().folder / REFERENCE_FILE), "--feature-version", "v1")
    assert run("drift", "check", *reference, "--current", "same.parquet").code == 0
    assert run("drift", "check", *reference, "--current", "older.parquet").code == 3


def test_a_check_that_could_test_nothing_is_no_success(run, files):
    make_cohort(20, 5)[0].to_parquet(files / "few.parquet", index=False)
    told = run("drift", "check", *BEFORE, "--current", "few.parquet", "--feature-version", "v1")
    assert (told.code, "cannot be judged" in told.err) == (1, True)
    assert {f["state"] for f in told.result["features"]} == {"too_few"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--current", "same.parquet"),
        ("--domain",),
        (*BEFORE, "--current", "same.parquet", "--output", "report.txt"),
        (*BEFORE, "--current", "same.parquet", "--rule", "psi"),
        ("--rows", "0"),
    ],
)
def test_wrong_usage_exits_with_two(run, files, arguments):
    assert run("drift", "check", *arguments).code == 2


def test_what_cannot_be_read_or_written_is_broken(run, files):
    assert run("drift", "check", *BEFORE, "--current", "nowhere.parquet").code == 1
    (files / "taken").write_text("a file")
    told = run("drift", "check", *BEFORE, "--current", "same.parquet", "--output", "taken/drift.json")
    assert (told.code, "cannot be written" in told.err) == (1, True)


# --- the live log -------------------------------------------------------------------------------------------------


def test_by_default_the_newest_answers_are_held_against_the_live_models_reference(run, ward):
    ward.answer(patients(400, seed=21))
    told = run("drift", "check", "--rows", "300")
    assert (told.code, told.result["rows_current"]) == (0, 300)
    assert [s["feature"] for s in told.result["scores"]] == ["0", "1"]
    assert told.result["notes"][0].startswith("300 answers of")


def test_live_answers_about_other_patients_advise_to_retrain(run, ward):
    rows = patients(300, seed=22)
    rows["age"] = (rows["age"] + 15).clip(upper=120)
    ward.answer(rows)
    told = run("drift", "check")
    assert (told.code, told.result["features"][0]["state"]) == (3, "drifted")


def test_live_answers_can_be_held_against_a_file(run, ward, files):
    ward.answer(patients(300, seed=23))
    told = run("drift", "check", "--reference", "older.parquet")
    assert (told.code, told.result["rows_reference"], told.result["rows_current"]) == (3, 1_500, 300)


def test_where_nothing_is_live_there_is_nothing_to_check(run):
    told = run("drift", "check")
    assert (told.code, "nothing" in told.err) == (1, True)


def test_files_are_read_as_the_configuration_says_that_they_are_written(run, files):
    for name, seed in (("before", 1), ("same", 2)):
        frame = make_cohort(1_500, seed)[0]
        frame.to_csv(files / f"{name}.csv", sep=";", decimal=",", na_rep="k.A.", index=False, encoding="cp1252")
    told = run("drift", "check", "--reference", "before.csv", "--current", "same.csv", "--feature-version", "v1")
    assert (told.code, 'set data.csv.separator: ";"' in told.err) == (1, True)
    form = {"separator": ";", "decimal": ",", "encoding": "cp1252", "null_words": ["k.A."]}
    config = toy_config(data={"source": "cohort.parquet", "csv": form}).model_dump(mode="json")
    (files / "model.yaml").write_text(yaml.safe_dump(config))
    told = run("drift", "check", "--reference", "before.csv", "--current", "same.csv", "--config", "model.yaml")
    plain = run("drift", "check", *BEFORE, "--current", "same.parquet", "--feature-version", "v1")
    assert (told.code, told.result["features_tested"]) == (0, 4)
    assert told.result["features"] == plain.result["features"]


def test_a_folder_of_rows_is_judged_as_one_file_with_them(run, files):
    older = make_cohort(1_500, 3)[0]
    (files / "weeks").mkdir()
    for week, rows in enumerate((slice(0, 700), slice(700, 1_500))):
        older[rows].to_parquet(files / "weeks" / f"{week}.parquet", index=False)
    older.to_parquet(files / "all.parquet", index=False)
    told = [
        run("drift", "check", *BEFORE, "--current", current, "--feature-version", "v1", "--processes", "2").result
        for current in ("all.parquet", "weeks")
    ]
    assert told[0] == told[1]
