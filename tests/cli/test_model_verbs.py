"""train, models, validate, promote and import-model as a person types them."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import xgboost
import yaml

from ml_core.base.errors import NotGated
from ml_core.cli.main import main
from ml_core.lab.data.cohort import make_cohort
from ml_core.serve.model.loader import ModelLoader
from tests.homes import (
    MODEL,
    bento_store,
    registered_home,
    road_config,
    road_model,
    road_rows,
    table_home,
    weak_config,
    weak_model,
)


class Told:
    """What a command said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def result(self):
        return json.loads(self.out)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SURETY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    written(tmp_path / "configs" / "road.yaml", road_config())

    def typed(*arguments: str) -> Told:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        said = capsys.readouterr()
        return Told(int(caught.value.code or 0), said.out, said.err)

    with bento_store(tmp_path / "bento"):
        yield typed


def written(path: Path, config) -> Path:
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json())))
    return path


@pytest.fixture
def home(tmp_path, run):
    return registered_home(tmp_path / "home")


def test_the_road_from_table_to_bento_store(tmp_path, run):
    table_home(tmp_path / "home")
    trained = run("train", "--config", "configs/road.yaml")
    assert (trained.code, trained.result["version"], trained.result["aliases"]) == (0, "1", ["challenger"])
    assert trained.result["model_hash"] == road_model().model_hash
    assert "stopped after" in trained.err
    again = run("train", "--config", "configs/road.yaml")
    assert (again.result["version"], again.result["is_new"]) == ("1", False)
    judged = run("validate", "--model", MODEL)
    assert (judged.code, judged.result["passed"]) == (0, True)
    assert {"rule", "value", "limit", "verdict", "note"} == judged.result["rules"][0].keys()
    promoted = run("promote", "--model", MODEL)
    assert (promoted.code, promoted.result["decision"]) == (0, "promoted")
    imported = run("import-model", "--model", MODEL)
    assert (imported.code, imported.result["tag"]) == (0, promoted.result["bento_tag"])
    assert run("import-model", "--model", MODEL).result == {**imported.result, "is_new": False}
    (listed,) = run("models", "list").result
    assert (listed["aliases"], listed["is_promoted"], listed["gate"]) == (["challenger", "champion"], True, "passed")
    assert listed["bento_tag"] == imported.result["tag"]


def test_training_without_a_table_says_what_to_run(run):
    told = run("train", "--config", "configs/road.yaml")
    assert (told.code, told.out) == (1, "")
    assert "surety features run" in told.err
    assert told.err.count("\n") == 1


def test_a_dry_training_registers_nothing(tmp_path, run):
    table_home(tmp_path / "home")
    told = run("train", "--config", "configs/road.yaml", "--dry-run")
    assert (told.code, told.result["version"], told.result["model_hash"]) == (0, None, road_model().model_hash)
    assert not (tmp_path / "home" / "mlflow.db").exists()


def test_a_refusing_gate_exits_with_three_and_names_its_rules(tmp_path, run, home):
    strict = written(tmp_path / "strict.yaml", road_config(gate={"min_roc_auc": 0.99}))
    told = run("validate", "--model", MODEL, "--config", str(strict))
    assert (told.code, told.result["failed_rules"]) == (3, ["roc_auc"])
    assert "refused by: roc_auc" in told.err
    assert run("promote", "--model", MODEL, "--config", str(strict)).code == 3


def test_a_worse_challenger_exits_with_three(tmp_path, run, home):
    assert run("promote", "--model", MODEL, "--version", "1").code == 0
    home.register(weak_config(), weak_model())
    weak = written(tmp_path / "weak.yaml", weak_config())
    told = run("promote", "--model", MODEL, "--config", str(weak))
    assert (told.code, told.result["decision"], told.result["champion_before"]) == (3, "refused", "1")
    assert "roc_auc_gain" in told.err


def test_a_worse_challenger_imported_last_does_not_answer(tmp_path, run, home):
    champion = run("promote", "--model", MODEL).result["bento_tag"]
    assert run("import-model", "--model", MODEL).code == 0
    home.register(weak_config(), weak_model())
    weak = run("import-model", "--model", MODEL, "--alias", "challenger").result
    assert weak["gate"] == "none"
    loader = ModelLoader(home.settings)
    assert loader.served_tag() == champion
    assert loader.load(champion).model_hash == road_model().model_hash
    with pytest.raises(NotGated):
        loader.load(weak["tag"])


def test_a_dry_promotion_changes_nothing(tmp_path, run, home):
    told = run("promote", "--model", MODEL, "--dry-run")
    assert (told.code, told.result["decision"]) == (0, "promoted")
    assert not (tmp_path / "home" / "promotions").exists()


def test_promotion_by_run(run, home):
    told = run("promote", "--model", MODEL, "--run-id", home.challenger().run_id)
    assert (told.code, told.result["version"]) == (0, "1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["import-model", "--model", MODEL], "no version of readmission_risk has the alias champion"),
        (["import-model", "--model", "nobody"], "nobody"),
        (["import-model", "--model", MODEL, "--version", "9"], "9"),
        (["import-model", "--uri", "models:/nobody/1"], "nobody"),
        (["import-model", "--uri", "not a uri"], "is no models:/NAME"),
        (["validate", "--model", "nobody"], "no file here is of the model nobody"),
        (["validate", "--model", "other", "--config", "configs/road.yaml"], "not of other"),
        (["models", "list", "--model", "nobody"], "nobody"),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_one(run, home, arguments, words):
    told = run(*arguments)
    assert (told.code, told.out) == (1, "")
    assert words in told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["import-model"],
        ["import-model", "--model", MODEL, "--alias", "champion", "--version", "1"],
        ["import-model", "--model", MODEL, "--calibration", "rows.parquet"],
        ["validate", "--model", MODEL, "--alias", "a", "--version", "1"],
        ["promote"],
    ],
)
def test_wrong_usage_exits_with_two(run, home, arguments):
    assert run(*arguments).code == 2


@pytest.mark.timeout(90)  # MLflow itself would try for minutes
def test_an_unreachable_registry_is_one_line(run, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    told = run("import-model", "--model", MODEL)
    assert (told.code, told.out) == (1, "")
    assert "cannot be reached" in told.err
    assert told.err.count("\n") == 1


def test_a_foreign_model_comes_in_through_the_same_verb(tmp_path, run, home):
    rows = road_rows().part("train")
    registry = home.registry
    experiment = registry.experiment("theirs")
    with registry.session("x") as mlflow, mlflow.start_run(experiment_id=experiment):
        model = xgboost.XGBClassifier(n_estimators=50, max_depth=3, n_jobs=1).fit(rows.matrix, rows.y_index)
        mlflow.xgboost.log_model(model, name="m", registered_model_name="theirs", pip_requirements=["xgboost"])
    make_cohort(8_000, seed=41)[0].to_parquet(tmp_path / "rows.parquet")
    written(tmp_path / "foreign.yaml", road_config(model="foreign_risk", gate={"min_roc_auc": 0.7}))
    asked = ["import-model", "--uri", "models:/theirs/1", "--model", "foreign_risk", "--calibration", "rows.parquet"]
    asked += ["--feature-version", "v1", "--config"]
    told = run(*asked, "foreign.yaml")
    assert (told.code, told.result["gate"], told.result["failed_rules"]) == (0, "passed", [])
    assert told.result["tag"].startswith("foreign_risk:v1-")
    strict = written(tmp_path / "strict.yaml", road_config(model="foreign_risk", gate={"min_roc_auc": 0.99}))
    refused = run(*asked, str(strict))
    assert (refused.code, refused.result["tag"], refused.result["failed_rules"]) == (3, None, ["roc_auc"])


@pytest.mark.parametrize("verb", ["train", "validate", "promote", "import-model"])
def test_help_has_an_example(run, verb):
    told = run(verb, "--help")
    assert told.code == 0
    assert f"Example: surety {verb}" in told.out


def test_tables_are_for_people(run, home):
    told = run("models", "list", "--output", "table")
    assert told.code == 0
    assert "bento_tag" in told.out
    assert road_model().model_hash not in told.out
