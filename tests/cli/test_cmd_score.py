"""score as a person types it, and as a machine kills it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from ml_core.cli.main import main
from ml_core.serve.rollout import changes
from tests.homes import bento_store
from tests.lab.past_answers.scoring import answers_of_service, cohort_records, loaded, scored_rows, written
from tests.serve.answering.stored import Home
from tests.test_import_rule import ROOT
from tests.toy_models import NAME, toy_config


class Told:
    """What a command said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def result(self):
        return json.loads(self.out)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SURETY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SURETY_MODEL_NAME", NAME)
    monkeypatch.chdir(tmp_path)
    home = Home(tmp_path / "home")
    home.promote(home.v1)
    written(tmp_path / "in.csv", cohort_records(100))
    with bento_store(tmp_path / "bento"):
        yield home


@pytest.fixture
def run(home, capsys):
    def typed(*arguments: str) -> Told:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["score", *arguments])
        said = capsys.readouterr()
        return Told(int(caught.value.code or 0), said.out, said.err)

    return typed


def test_the_promoted_model_scores_and_the_result_says_all(tmp_path, run, home):
    told = run("in.csv", "out.parquet")
    assert (told.code, told.err) == (0, "")
    assert (told.result["out"], told.result["rows"], told.result["refused"]) == ("out.parquet", 100, 0)
    assert (told.result["model_name"], told.result["model_version"]) == (NAME, "1")
    assert told.result["model_hash"] == home.hash_of(home.v1)
    assert (told.result["confidence_level"], told.result["guarantee"]) == ("0.9", "class_conditional")
    expected = answers_of_service(loaded(), cohort_records(100))
    assert scored_rows(tmp_path / "out.parquet") == [{"row": i, **answer} for i, answer in enumerate(expected)]


@pytest.mark.parametrize("named", ["v2", "2", "whole"])
def test_another_gated_version_scores_when_it_is_named(run, home, named):
    told = run("in.csv", "out.csv", "--tag", home.v2 if named == "whole" else named, "--level", "0.95")
    assert (told.code, told.result["model_version"], told.result["confidence_level"]) == (0, "2", "0.95")
    assert told.result["model_hash"] == home.hash_of(home.v2)


def test_a_model_without_a_passed_gate_is_a_sound_no(tmp_path, run, home):
    told = run("in.csv", "out.csv", "--tag", home.v3)
    assert (told.code, told.out) == (3, "")
    assert "surety validate" in told.err
    assert not (tmp_path / "out.csv").exists()


def test_the_model_is_that_of_the_name(run, home, monkeypatch):
    monkeypatch.setenv("SURETY_MODEL_NAME", "other")
    told = run("in.csv", "out.csv")
    assert (told.code, told.out) == (1, "")
    assert "no version of other has been promoted" in told.err
    assert run("in.csv", "out.csv", "--model", NAME).code == 0


def test_bad_rows_are_counted_and_their_values_stay_in_the_file(tmp_path, run):
    written(tmp_path / "in.csv", [*cohort_records(5), {**cohort_records(1)[0], "age": 12345}])
    told = run("in.csv", "out.csv")
    assert (told.code, told.result["rows"], told.result["refused"]) == (0, 6, 1)
    assert told.err == "1 of 6 rows were refused: the column error says why\n"
    assert "12345" in scored_rows(tmp_path / "out.csv")[5]["error"]
    refused = run("in.csv", "other.csv", "--on-error", "reject")
    assert (refused.code, refused.out) == (1, "")
    assert "row 5 (age)" in refused.err
    assert "12345" not in refused.err


def test_csv_comes_in_by_a_pipe(tmp_path, home):
    done = subprocess.run(
        [sys.executable, "-m", "ml_core.cli.main", "score", "-", "out.csv"],
        input=(tmp_path / "in.csv").read_bytes(), cwd=tmp_path, env=environment(tmp_path), capture_output=True,
        timeout=300,
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["rows"], done.stderr) == (0, 100, b"")
    expected = answers_of_service(loaded(), cohort_records(100))
    assert scored_rows(tmp_path / "out.csv") == [{"row": i, **answer} for i, answer in enumerate(expected)]


def test_a_terminal_sees_a_bar_and_the_result_stays_clean(tmp_path, home):
    ours, theirs = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "ml_core.cli.main", "score", "in.csv", "out.csv", "--block-rows", "10"],
        cwd=tmp_path, env={**environment(tmp_path), "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs, timeout=300,
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 1 << 20).decode()
    os.close(ours)
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, 100)
    assert f"scoring with {home.v1}" in shown
    assert "100%" in shown


def test_where_the_service_answers_otherwise_it_is_said(run, home):
    home.store.begin(home.v1, "", why="test")
    assert run("in.csv", "1.csv").err == ""
    home.change(changes.full(home.v2, ""))
    told = run("in.csv", "2.csv")
    assert (told.code, told.result["model_version"]) == (0, "1")
    assert f"the service answers with {home.v2}" in told.err
    assert run("in.csv", "3.csv", "--tag", home.v2).err == ""
    home.change(changes.flags({"confidence_level": "0.8"}))
    assert "flag confidence_level is 0.8" in run("in.csv", "4.csv").err
    assert "confidence_level" not in run("in.csv", "5.csv", "--level", "0.9").err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.csv", "out.csv"], "nothing.csv: there is no such file"),
        (["in.csv", "out.xlsx"], "out.xlsx: is of the format .xlsx"),
        (["in.csv", "in.csv/out.csv"], "Not a directory"),
        (["in.csv", "in.csv", "--force"], "is the input as well"),
        (["in.csv", "out.csv", "--tag", "v9"], "v9 names 0 models"),
        (["in.csv", "out.csv", "--tag", f"{NAME}:v9-00000000"], "is not in the Bento store"),
        (["in.csv", "out.csv", "--model", "nobody"], "no version of nobody has been promoted"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_one(tmp_path, run, arguments, words):
    told = run(*arguments)
    assert (told.code, told.out) == (1, "")
    assert words in told.err
    assert told.err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bento", "home", "in.csv"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["in.csv"],
        ["in.csv", "out.csv", "--level", "0.4"],
        ["in.csv", "out.csv", "--level", "1"],
        ["in.csv", "out.csv", "--on-error", "skip"],
        ["in.csv", "out.csv", "--block-rows", "0"],
        ["in.csv", "out.csv", "--ungated"],
        ["in.csv", "out.csv", "--model", NAME, "--tag", f"{NAME}:v1-00000000"],
    ],
)
def test_wrong_usage_exits_with_two(run, arguments):
    assert run(*arguments).code == 2


def test_an_output_that_is_there_is_replaced_only_by_force(tmp_path, run):
    assert run("in.csv", "out.csv").code == 0
    told = run("in.csv", "out.csv", "--level", "0.8")
    assert (told.code, told.err.count("\n")) == (1, 1)
    assert "--force" in told.err
    assert scored_rows(tmp_path / "out.csv")[0]["confidence_level"] == 0.9
    assert run("in.csv", "out.csv", "--level", "0.8", "--force").code == 0
    assert scored_rows(tmp_path / "out.csv")[0]["confidence_level"] == 0.8


# --- killed -------------------------------------------------------------------------------------------------------


def environment(tmp_path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SURETY_", "BENTOML_", "MODEL_"))}
    places = {"SURETY_HOME": str(tmp_path / "home"), "BENTOML_HOME": str(tmp_path / "bentoml")}
    return {**clean, **places, "SURETY_MODEL_NAME": NAME, "PYTHONPATH": str(ROOT), "BENTOML_DO_NOT_TRACK": "true"}


def kills(tmp_path, kind: str, out: str, source: str = "in.csv", *options: str) -> list[dict[str, object]]:
    """What became of the victims, and of those that went on after them."""
    places = (str(tmp_path / source), str(tmp_path / out))
    done = subprocess.run(
        [sys.executable, "-m", "tests.cli.score_kills", kind, *places, *options],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def whole_output(tmp_path, run, name: str) -> str:
    """The bytes (hex) of a run that nobody disturbs."""
    assert run("in.csv", name, "--block-rows", "20").code == 0
    return (tmp_path / name).read_bytes().hex()


def test_killed_before_any_of_its_steps_it_goes_on_to_the_same_bytes(tmp_path, run):
    written(tmp_path / "in.csv", [*cohort_records(50), {**cohort_records(1)[0], "age": 300}])
    whole = whole_output(tmp_path, run, "whole.parquet")
    *killed, last = kills(tmp_path, "steps", "out.parquet")
    assert len(killed) > 15  # folder, plan, three parts, outcome, the output in its place, cleaning up
    assert {victim["ended"] for victim in killed} == {-signal.SIGKILL}
    assert {victim["out"] for victim in [*killed, last]} == {whole}
    assert last["ended"] == 0
    assert [victim["left"] for victim in killed] == [[]] * len(killed)
    # once the plan is gone the run is over: its output is there, and kept
    over = [victim["again"] for victim in killed].index(1)
    assert len(killed) - over <= 4
    assert all(victim["again"] == 1 and victim["was_there"] for victim in killed[over:])


def test_killed_again_and_again_as_parts_appear_it_goes_on_to_the_same_bytes(tmp_path, run):
    written(tmp_path / "in.csv", cohort_records(1_000))
    whole = whole_output(tmp_path, run, "whole.csv")
    *killed, through, content = kills(tmp_path, "parts", "out.csv")
    assert [victim["ended"] for victim in killed] == [-signal.SIGKILL] * len(killed)
    assert len(killed) >= 2
    befores = [victim["before"] for victim in [*killed, through]]
    assert befores == sorted(set(befores))  # each went on from where the one before had come to
    assert (through["ended"], content["out"]) == (0, whole)
    assert sorted(p.name for p in tmp_path.glob("out*")) == ["out.csv"]


def german(path, records):
    """The records as a spreadsheet of that language writes them."""
    rows = [";".join(records[0])]
    for record in records:
        cells = ("k.A." if pd.isna(value) else str(value).replace(".", ",") for value in record.values())
        rows.append(";".join(cells))
    path.write_text("\n".join(rows) + "\n", encoding="utf-16")


def test_a_table_is_read_as_the_configuration_says_that_it_is_written(tmp_path, run):
    german(tmp_path / "besuche.csv", cohort_records(100))
    told = run("besuche.csv", "out.parquet")
    assert told.code == 1
    form = {"separator": ";", "decimal": ",", "encoding": "utf-16", "null_words": ["k.A."]}
    config = toy_config(data={"source": "cohort.parquet", "csv": form}).model_dump(mode="json")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
    told = run("besuche.csv", "out.parquet", "--config", "model.yaml")
    assert (told.code, told.result["rows"], told.result["refused"]) == (0, 100, 0)
    assert run("in.csv", "plain.parquet").code == 0
    assert scored_rows(tmp_path / "out.parquet") == scored_rows(tmp_path / "plain.parquet")


def test_a_configuration_of_another_model_is_refused(tmp_path, run):
    config = toy_config(model="another").model_dump(mode="json")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
    told = run("in.csv", "out.parquet", "--config", "model.yaml")
    assert (told.code, "is of the model another, not of" in told.err) == (1, True)


# --- folders ------------------------------------------------------------------------------------------------------


@pytest.fixture
def days(tmp_path):
    """Rows of several days, each a file, and one that is none."""
    records = cohort_records(240)
    for day in range(8):
        (tmp_path / "days").mkdir(exist_ok=True)
        written(tmp_path / "days" / f"{day}.parquet", records[day * 30 : day * 30 + 30])
    (tmp_path / "days" / "read.me").write_text("about")
    return records


def answers_in(folder):
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in scored_rows(part)]


def test_a_folder_is_answered_by_a_folder(tmp_path, run, days):
    told = run("days", "answers")
    assert (told.code, told.err) == (0, "files not looked at: read.me\n")
    assert (told.result["out"], told.result["rows"], told.result["refused"]) == ("answers", 240, 0)
    expected = answers_of_service(loaded(), days)
    places = [{"file": f"{i // 30}.parquet", "row": i % 30} for i in range(240)]
    assert answers_in(tmp_path / "answers") == [{**p, **a} for p, a in zip(places, expected, strict=True)]


def test_two_processes_answer_as_one(tmp_path, run, days):
    assert run("days", "one").code == 0
    assert run("days", "two", "--processes", "2").code == 0
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["days", "out.csv"], "out.csv: is the name of one file"),
        (["home", "out"], "home: holds no .parquet and no .csv file"),
        (["days", "days/answers"], "is the input as well, or lies in it"),
        (["ftp://host/x", "out"], "is of the scheme ftp; s3://"),
        (["days", "out", "--dask", "tcp://127.0.0.1:1"], "--dask: Dask is not installed here: pip install"),
    ],
)
def test_what_no_folder_can_be_is_told(tmp_path, run, days, arguments, words):
    (tmp_path / "home" / "gates").mkdir(exist_ok=True, parents=True)
    told = run(*arguments)
    assert (told.code, told.out) == (1, "")
    assert words in told.err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.parts").exists()


def test_processes_and_dask_are_two_ways(run, days):
    told = run("days", "out", "--processes", "2", "--dask", "tcp://127.0.0.1:1")
    assert (told.code, "not both" in told.err) == (2, True)


def whole_folder(tmp_path, run) -> dict[str, str]:
    """The bytes (hex) of a run over the days that nobody disturbs."""
    assert run("days", "undisturbed", "--block-rows", "20").code == 0
    return {p.name: p.read_bytes().hex() for p in sorted((tmp_path / "undisturbed").iterdir())}


def test_a_folder_killed_before_any_of_its_steps_goes_on_to_the_same_bytes(tmp_path, run, days):
    for day in range(2, 8):
        (tmp_path / "days" / f"{day}.parquet").unlink()
    whole = whole_folder(tmp_path, run)
    *killed, last = kills(tmp_path, "steps", "answers", "days")
    assert len(killed) > 12  # folder, plan, two parts, summary, outcome, the folder in its place, cleaning up
    assert {victim["ended"] for victim in killed} == {-signal.SIGKILL}
    assert all(victim["out"] == whole for victim in [*killed, last])
    assert last["ended"] == 0
    assert [victim["left"] for victim in killed] == [[]] * len(killed)
    over = [victim["again"] for victim in killed].index(1)
    assert all(victim["again"] == 1 and victim["was_there"] for victim in killed[over:])


@pytest.mark.parametrize(
    "options", [[], pytest.param(["--processes", "2"], marks=pytest.mark.slow)], ids=["one", "pool"]
)
def test_a_folder_killed_again_and_again_goes_on_to_the_same_bytes(tmp_path, run, days, options):
    whole = whole_folder(tmp_path, run)
    *killed, through, content = kills(tmp_path, "parts", "answers", "days", *options)
    assert [victim["ended"] for victim in killed] == [-signal.SIGKILL] * len(killed)
    assert len(killed) >= 1
    befores = [victim["before"] for victim in [*killed, through]]
    assert befores == sorted(set(befores))  # each went on from where the one before had come to
    assert (through["ended"], content["out"]) == (0, whole)
    assert sorted(p.name for p in tmp_path.glob("answers*")) == ["answers"]
