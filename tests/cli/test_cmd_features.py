"""`surety features run`, as a person types it."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ml_core.cli.cmd_features import command
from ml_core.cli.main import main
from ml_core.lab.config import load_config
from ml_core.lab.data.cohort import CohortKnobs, make_cohort
from ml_core.lab.data.table_frames import write_table

CONFIGS = Path(__file__).parents[2] / "configs"
CONFIG = CONFIGS / "readmission_v1.yaml"


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.setenv("SURETY_HOME", str(tmp_path / "home"))
    write_table(make_cohort(200, seed=1)[0], tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


@pytest.fixture
def bad_rows(tmp_path, rows):
    write_table(make_cohort(200, seed=1, knobs=CohortKnobs(unit_error=0.2))[0], tmp_path / "bad.csv")
    return tmp_path / "bad.csv"


def run(*arguments):
    return CliRunner().invoke(command, ["run", "--config", *(str(a) for a in arguments)])


def test_the_version_and_the_counts_are_told_and_a_second_run_changes_nothing(rows, tmp_path):
    told = [json.loads(run(CONFIG, "--data", rows).stdout) for _ in range(2)]
    assert told[0] == told[1]
    assert (told[0]["rows_in"], told[0]["rows_kept"], told[0]["version"], told[0]["problems"]) == (200, 200, 0, [])
    assert told[0]["table"] == str(tmp_path / "home" / "features" / "models" / "readmission_risk" / "v1")


def test_a_dry_run_writes_nothing(rows, tmp_path):
    result = run(CONFIG, "--data", rows, "--dry-run")
    assert json.loads(result.stdout)["version"] is None
    assert not (tmp_path / "home").exists()


def test_quarantine_is_reported_by_column_check_and_count(bad_rows, tmp_path):
    told = json.loads(run(CONFIG, "--data", bad_rows, "--quarantine", tmp_path / "aside.csv").stdout)
    assert told["quarantined"] == told["problems"][0]["rows"] > 0
    assert told["problems"][0]["column"] == "glucose"
    assert told["quarantine"] == str(tmp_path / "aside.csv")
    assert told["rows_kept"] + told["quarantined"] == 200


def test_a_quarantine_nobody_needed_is_not_written(rows, tmp_path):
    told = json.loads(run(CONFIG, "--data", rows, "--quarantine", tmp_path / "aside.csv").stdout)
    assert told["quarantine"] is None
    assert not (tmp_path / "aside.csv").exists()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.xlsx", b"x", "is of the format .xlsx; .parquet and .csv are understood"),
        ("gone.csv", None, "there is no such file"),
        ("rows.csv", b"", "is empty"),
        ("rows.csv", b"age,glucose\n1,2\n", "has no column patient_id, bmi, bp_systolic, readmission_30d"),
        ("rows2.parquet", b"PAR1 no", "is not a readable Parquet file"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_on_stderr_and_exit_1(rows, tmp_path, capsys, name, content, problem):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        main(["features", "run", "--config", str(CONFIG), "--data", str(path)])
    out, err = capsys.readouterr()
    assert stopped.value.code == 1
    assert out == ""
    assert err == f"surety: {path}: {problem}\n"


def test_bad_rows_without_quarantine_are_one_line_that_names_the_way_out(bad_rows, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["features", "run", "--config", str(CONFIG), "--data", str(bad_rows)])
    err = capsys.readouterr().err
    assert stopped.value.code == 1
    assert err.count("\n") == 1
    assert "glucose: too low" in err
    assert "--quarantine" in err


def test_help_has_an_example_and_a_missing_config_is_wrong_usage():
    result = CliRunner().invoke(command, ["run", "--help"])
    assert "Example: surety features run --config" in result.output
    assert CliRunner().invoke(command, ["run"]).exit_code == 2


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_of_the_project_can_be_loaded(path):
    config = load_config(path)
    assert str(config.conformal.confidence_level) == "0.90"
    assert config.gate.min_roc_auc == 0.75 or "Kansagara" in config.gate.roc_auc_note


def test_importing_the_command_does_not_import_what_only_its_run_needs():
    import subprocess

    code = "import sys, ml_core.cli.cmd_features, ml_core.cli.cmd_data; print([m for m in ('pandas','pandera','pyarrow','deltalake') if m in sys.modules])"
    root = CONFIGS.parent
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_a_folder_of_rows_becomes_the_version_of_one_file_with_them(rows, tmp_path):
    frame = make_cohort(200, seed=1)[0]
    for month, part in enumerate((slice(0, 80), slice(80, 200))):
        (tmp_path / "months").mkdir(exist_ok=True)
        write_table(frame[part], tmp_path / "months" / f"{month}.parquet")
    told = [json.loads(run(CONFIG, "--data", data).stdout) for data in (rows, tmp_path / "months")]
    assert told[0] == told[1]
    assert told[0]["version"] == 0
