"""`surety data make` and `surety data fetch`, as a person types them."""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from ml_core.base.errors import DataError
from ml_core.cli.cmd_data import command
from ml_core.lab.data.diabetes130 import PUBLISHED_COLUMNS, PUBLISHED_CSV_SHA256

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "diabetes130.parquet"


def run(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_make_writes_the_cohort_and_its_law(tmp_path):
    out = tmp_path / "data" / "cohort.parquet"
    result = run("make", "--rows", 500, "--seed", 7, "--out", out)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    cohort, law = pd.read_parquet(out), pd.read_parquet(told["law"])
    assert len(cohort) == len(law) == told["rows"] == 500
    assert law["true_probability"].between(0, 1).all()
    assert told["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert "synthetic" in result.stderr


def test_make_twice_writes_the_same_bytes(tmp_path):
    told = [json.loads(run("make", "--rows", 300, "--out", tmp_path / f"{i}.csv").stdout) for i in range(2)]
    assert told[0]["sha256"] == told[1]["sha256"]


def test_make_understands_every_knob(tmp_path):
    result = run(
        "make", "--rows", 400, "--out", tmp_path / "c.csv", "--shift-age", 5, "--shift-glucose", -10, "--missing", 0.2,
        "--prevalence", 0.5, "--signal", 0.7, "--unit-error", 0.05, "--start", "2027-06-01", "--days", 10,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    frame = pd.read_csv(tmp_path / "c.csv")
    assert (frame["encounter_date"].min(), frame["encounter_date"].max()) == ("2027-06-01", "2027-06-10")
    assert 0.4 < frame["readmission_30d"].mean() < 0.6
    assert (frame["glucose"] < 35).any()


@pytest.mark.parametrize(
    "arguments",
    [("--rows", 0), ("--missing", 1.5), ("--prevalence", 1), ("--start", "June"), ("--rows", "many"), ("--seed", -1)],
)
def test_make_refuses_impossible_knobs_as_wrong_usage(tmp_path, arguments):
    assert run("make", "--out", tmp_path / "c.csv", *arguments).exit_code == 2


def test_fetch_refuses_a_file_of_other_rows_unless_told_not_to_verify(tmp_path):
    cells = dict.fromkeys(PUBLISHED_COLUMNS, 1)
    pd.DataFrame([cells]).to_csv(tmp_path / "other.csv", index=False)
    arguments = ("fetch", "--path", tmp_path / "other.csv", "--out", tmp_path / "d.parquet")
    refused = run(*arguments)
    assert isinstance(refused.exception, DataError)
    assert not (tmp_path / "d.parquet").exists()
    assert json.loads(run(*arguments, "--unverified").stdout)["verified"] is False
    assert len(pd.read_parquet(tmp_path / "d.parquet")) == 1


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the published table is not on this machine")
def test_fetch_takes_a_file_and_verifies_it(tmp_path):
    result = run("fetch", "--path", REAL, "--out", tmp_path / "d.parquet")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["verified"], told["csv_sha256"], told["rows"]) == (True, PUBLISHED_CSV_SHA256, 101_766)
    assert pd.read_parquet(tmp_path / "d.parquet").equals(pd.read_parquet(REAL))
    assert "CC BY 4.0" in result.stderr


@pytest.mark.parametrize("verb", ["make", "fetch"])
def test_help_has_an_example(verb):
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert f"Example: surety data {verb}" in result.output
