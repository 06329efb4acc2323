"""init, run and serve as a person types them: from rows to a promoted model, and every way that stops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

N = 600


@pytest.fixture
def rows(tmp_path):
    """Rows that a model can learn from; `after` is a copy of the outcome, written down later."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, 2, N)
    frame = pd.DataFrame({
        "weight": rng.normal(70, 9, N).round(1) + 9 * y, "town": rng.choice(["a", "b"], N), "after": y + 7,
        "smokes": rng.choice([True, False], N), "result": np.where(y == 1, "yes", "no"),
    })  # fmt: skip
    frame.to_csv(tmp_path / "rows.csv", index=False, sep=";", decimal=",")
    return tmp_path / "rows.csv"


@pytest.fixture
def project(run, rows, tmp_path):
    told = run("init", str(rows), str(tmp_path / "my risk"), "--label", "result")
    assert told.code == 0, told.err
    return tmp_path / "my risk"


def without(project, name):
    path = project / "columns.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if f"  {name}:" not in line))


def changed(project, old, new):
    path = project / "model.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_init_says_what_it_found_and_asks(run, rows, tmp_path):
    told = run("init", str(rows), str(tmp_path / "mine"), "--label", "result")
    assert told.code == 0
    assert "rows.csv: cells separated by semicolon, decimal comma, utf-8" in told.err
    assert "[training waits for this] `after` alone tells every class" in told.err
    wanted = {"model": "mine", "rows": N, "features": 4, "level": "0.90", "stopping_questions": 1}
    assert told.result.items() >= wanted.items()
    assert told.result["next_action"] == f"surety run {tmp_path / 'mine'}"


def test_a_column_that_gives_every_class_away_stops_the_run_until_it_is_answered(run, project):
    told = run("run", str(project))
    assert told.code == 3
    assert (told.result["status"], told.result["version"], told.result["done_now"]) == ("asked", None, ["features"])
    assert "after alone tells every class apart (ROC AUC 1.000 at least)" in told.err
    assert "data.known_before: [after]" in told.err
    changed(project, "  row_number:", "  known_before: [after]\n  row_number:")
    told = run("run", str(project))
    assert told.code == 0, told.err
    assert told.result["status"] == "ready"


def test_a_run_ends_with_one_summary_and_goes_on_where_it_stopped(run, project, tmp_path):
    without(project, "after")
    told = run("run", str(project))
    assert told.code == 0, told.err
    found = told.result
    assert (found["model"], found["status"], found["gate"], found["version"]) == ("my_risk", "ready", "passed", "1")
    assert found["done_now"] == ["features", "train", "promotion", "import"]
    assert found["next_action"] == f"surety serve {project}"
    assert [one["class"] for one in found["classes"]] == ["no", "yes"]
    for one in found["classes"]:
        assert one["accepted_from"] <= one["covered"] <= one["accepted_to"]
        assert 0 < one["mean_set_size"] <= 2
    assert str(tmp_path / "home") in told.err  # where everything lies
    again = run("run", str(project))
    assert (again.code, again.result["done_now"], again.result["model_hash"]) == (0, [], found["model_hash"])
    forced = run("run", str(project), "--force")
    assert (forced.code, forced.result["done_now"]) == (0, ["features", "train"])
    assert forced.result["model_hash"] == found["model_hash"]
    changed(project, "learning_rate: 0.1,", "learning_rate: 0.1001,")
    other = run("run", str(project))
    assert other.code == 3  # the champion stays: the challenger is no better
    assert "roc_auc_gain" in other.result["failed_rules"]
    assert "it is not better enough than the champion, which stays" in other.err


def test_a_gate_that_refuses_says_why_and_what_to_do(run, project):
    without(project, "after")
    changed(project, "min_roc_auc: 0.5 ", "min_roc_auc: 0.99 ")
    told = run("run", str(project))
    assert (told.code, told.result["status"], told.result["failed_rules"]) == (3, "refused", ["roc_auc"])
    assert "refused by: roc_auc\n" in told.err
    assert ", the limit is 0.99: the columns do not tell the classes apart as well as asked" in told.err


def test_serving_needs_a_promoted_model(run, project):
    told = run("serve", str(project))
    assert told.code == 3
    assert f"holds no promoted model of my_risk: surety run {project} makes one" in told.err


@pytest.mark.parametrize("verb", ["run", "serve"])
def test_a_folder_that_is_no_project_says_how_to_make_one(run, tmp_path, verb):
    told = run(verb, str(tmp_path / "none"))
    assert told.code == 1
    assert "there is no such folder; `surety init ROWS --label COLUMN" in told.err
    (tmp_path / "other").mkdir()
    assert "is no project: it has no model.yaml" in run(verb, str(tmp_path / "other")).err


def test_a_mistyped_key_is_told_with_the_nearest(run, project):
    changed(project, "  min_roc_auc:", "  min_rocauc:")
    told = run("run", str(project))
    assert told.code == 1
    assert "model.yaml: gate.min_rocauc: is not known here; min_roc_auc is meant?" in told.err


def test_a_mistyped_hyper_parameter_is_told_with_the_nearest(run, project):
    without(project, "after")
    changed(project, "max_depth: 3", "max_deph: 3")
    told = run("run", str(project))
    assert told.code == 1
    assert "training.params.max_deph: is no hyper-parameter of XGBoost; max_depth is meant?" in told.err


def test_starting_over_is_for_a_home_of_the_project(run, project, monkeypatch):
    without(project, "after")
    told = run("run", str(project), "--start-over")
    assert told.code == 1
    assert "--start-over: is for a home in the project, not for SURETY_HOME" in told.err
    monkeypatch.delenv("SURETY_HOME")
    (project / ".surety").mkdir()
    (project / ".surety" / "old").write_text("")
    assert run("run", str(project), "--start-over").code == 0
    assert (project / ".surety-old-1" / "old").exists()
    assert not (project / ".surety" / "old").exists()
