"""`surety models card`, as a person types it."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest

from ml_core.cli.main import main
from tests.homes import MODEL, registered_home, road_model


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SURETY_HOME", str(tmp_path / "home"))
    registered_home(tmp_path / "home")

    def typed(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["models", "card", *arguments])
        said = capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    return typed


def test_the_card_is_printed_as_it_can_be_kept(run):
    code, out, err = run("--model", MODEL, "--alias", "challenger")
    assert (code, err) == (0, "")
    assert out.startswith(f"# Model card: {MODEL}, version 1\n")
    assert road_model().model_hash in out
    assert out == run("--model", MODEL, "--version", "1")[1]


def test_without_a_champion_the_newest_version_is_meant(run):
    assert run("--model", MODEL)[1] == run("--model", MODEL, "--version", "1")[1]


def test_programs_get_what_the_card_is_made_of(run):
    code, out, _ = run("--model", MODEL, "--format", "json")
    told = json.loads(out)
    assert (code, told["model"], told["version"], told["model_hash"]) == (0, MODEL, "1", road_model().model_hash)
    assert told["manifest"] == json.loads((road_model().folder / "manifest.json").read_bytes())
    assert {r["metric"] for r in told["record"]["ranges"]} >= {"roc_auc", "coverage_class_1"}
    assert told["calibration_rows"]["1"] == road_model().bundle.calibration.sizes[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nobody"], "nobody"),
        (["--model", MODEL, "--version", "9"], "9"),
        (["--model", MODEL, "--alias", "champion"], "no version of readmission_risk has the alias champion"),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_one(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert words in err


@pytest.mark.parametrize("arguments", [[], ["--model", MODEL, "--alias", "a", "--version", "1"]])
def test_wrong_usage_exits_with_two(run, arguments):
    assert run(*arguments)[0] == 2


def test_the_card_as_xml_is_of_the_same_version(run):
    code, out, err = run("--model", MODEL, "--format", "chai")
    assert (code, err) == (0, "")
    assert ET.fromstring(out).tag == "{https://mc.chai.org/v0.2/schema.xsd}AppliedModelCard"
    assert road_model().model_hash in out
    told = json.loads(run("--model", MODEL, "--format", "json")[1])["source_attributes"]
    assert len(told) == 31
