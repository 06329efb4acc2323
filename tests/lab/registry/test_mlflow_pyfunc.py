"""The pyfunc answers frames as the service answers records, in a process that does not know this project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ml_core.lab.data.frames import to_arrays
from ml_core.lab.registry.input_signature import input_example
from ml_core.serve.model.predictor import Predictor
from tests.homes import registered_home, road_model, road_rows

ELSEWHERE = """
import json, pathlib, sys
sys.path = [p for p in sys.path if not (pathlib.Path(p) / "ml_core").is_dir()]  # as if nobody had installed the project
import mlflow, pandas as pd
try:
    import ml_core
    sys.exit("ml_core can be imported here, so nothing is shown")
except ImportError:
    pass
model = mlflow.pyfunc.load_model("models:/readmission_risk@champion")
frame = pd.read_parquet("rows.parquet")
out = {"default": model.predict(frame), "with_others": model.predict(frame.assign(shoe_size=40, readmission_30d=1)), "half": model.predict(frame, params={"confidence_level": 0.5})}
for name, found in out.items():
    found.to_json(f"{name}.json", orient="records", double_precision=15)
    found["probability"].to_frame().to_parquet(f"{name}.parquet")
problems = {}
for name, bad in {
    "range": frame.assign(age=300), "unknown": frame.assign(shoe_size=40), "label": frame.assign(readmission_30d=1),
    "missing": frame.drop(columns="age"), "mistyped": frame.rename(columns={"bmi": "bmi_"}), "text": frame.assign(age="70"),
}.items():
    try:
        model.predict(bad)
    except Exception as error:
        problems[name] = f"{type(error).__name__}: {error}"
try:
    model.predict(frame, params={"confidence_level": 0.3})
except Exception as error:
    problems["level"] = f"{type(error).__name__}: {error}"
json.dump(problems, open("problems.json", "w"))
"""


def feature_frame() -> pd.DataFrame:
    test = road_rows().part("test")
    return test.frame.drop(columns="readmission_30d").head(400)


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> Path:
    """Folder with what a process elsewhere got from the registered model."""
    home = registered_home(tmp_path_factory.mktemp("pyfunc") / "home")
    home.registry.set_alias(home.challenger(), "champion")
    place = tmp_path_factory.mktemp("elsewhere")
    feature_frame().to_parquet(place / "rows.parquet")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SURETY_HOME")}
    environment |= {"MLFLOW_TRACKING_URI": home.registry.uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return place


@pytest.mark.parametrize(("name", "level"), [("default", None), ("half", "0.5")])
def test_it_gives_the_predictors_answers_bit_for_bit(answers, name, level):
    rows = road_rows().part("test").frame.head(400)
    predictor = Predictor(road_model().bundle)
    found = predictor.predict(to_arrays(rows, predictor.bundle.features), Decimal(level) if level else None)
    got = pd.read_json(answers / f"{name}.json")
    assert np.array_equal(pd.read_parquet(answers / f"{name}.parquet")["probability"].to_numpy(), found.proba[:, 1])
    assert got["prediction"].tolist() == found.predictions.tolist()
    assert got["prediction_set"].tolist() == [np.flatnonzero(row).tolist() for row in found.sets]
    p_values = np.array([[row["0"], row["1"]] for row in got["p_values"]])
    assert np.allclose(p_values, found.p_values, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("range", "age"),
        ("text", "age"),
    ],
)
def test_it_refuses_what_a_request_would_be_refused_for(answers, name, words):
    problem = json.loads((answers / "problems.json").read_text())[name]
    assert problem.startswith("InvalidRows")
    assert words in problem
    assert "300" not in problem.replace("400", "")


@pytest.mark.parametrize("name", ["missing", "mistyped"])
def test_a_column_that_is_missing_or_mistyped_is_refused_even_where_it_may_be_null(answers, name):
    """The message names the column, and quotes no value of the frame as MLflow's own would."""
    problem = json.loads((answers / "problems.json").read_text())[name]
    assert problem == f"DataError: input: has no column {'age' if name == 'missing' else 'bmi'}"


def test_other_columns_are_dropped_by_mlflow_and_change_nothing(answers):
    """The outcome among them; a request with it is refused."""
    assert not {"unknown", "label"} & json.loads((answers / "problems.json").read_text()).keys()
    default, other = (pd.read_parquet(answers / f"{name}.parquet") for name in ("default", "with_others"))
    assert default.equals(other)


def test_the_version_names_its_columns_and_shows_an_example(tmp_path):
    home = registered_home(tmp_path / "home")
    version = home.challenger()
    with home.registry.session("signature") as mlflow:
        info = mlflow.models.get_model_info(f"models:/{version.name}/{version.version}")
    signature = info.signature
    assert signature.inputs.input_names() == ["age", "glucose", "bmi", "bp_systolic", "patient_id", "encounter_date"]
    assert signature.inputs.required_input_names() == []  # MLflow would quote the rows where one is missing
    assert {"prediction", "probabilities", "prediction_set"} <= set(signature.outputs.input_names())
    example = input_example(road_model().bundle)
    with home.registry.downloaded(f"models:/{version.name}/{version.version}") as folder:
        stored = json.loads((folder / info.saved_input_example_info["artifact_path"]).read_text())
    assert stored["columns"] == list(example.columns)
    assert len(stored["data"]) == len(example) == 3


def test_it_refuses_a_level_out_of_range(answers):
    assert "confidence_level" in json.loads((answers / "problems.json").read_text())["level"]


def test_it_keeps_the_index_of_the_frame(tmp_path):
    from ml_core.lab.registry.mlflow_pyfunc import SuretyModel

    model = SuretyModel()
    model.load_context(SimpleNamespace(artifacts={"bundle": str(road_model().folder)}))
    frame = feature_frame().head(5).set_index(pd.Index(list("abcde")))
    found = model.predict(None, frame)
    assert found.index.tolist() == list("abcde")
