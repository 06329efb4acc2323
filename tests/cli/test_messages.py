"""What is said where a table, a configuration or a model is not as it should be: the table of docs/own-tables.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from ml_core.lab.data.cohort import make_cohort
from tests.cli.typing_surety import Told
from tests.e2e.workplace import ROOT
from tests.homes import registered_home

N = 240
_RNG = np.random.default_rng(7)
TABLE = """\
columns:
  who: {dtype: text, role: group}
  age: {dtype: int, low: 0, high: 120}
  sex: {dtype: category, levels: [f, m]}
  ill: {dtype: category, role: label, levels: ['no', 'yes']}
"""
MODEL = """\
model: toy
columns: columns.yaml
data: {source: rows.csv}
training: {rounds: 5}
gate: {min_roc_auc: 0.5, min_positives: 10}
"""


@dataclass
class Place:
    """Types commands in a folder of its own, and writes files there."""

    run: Callable[..., Told]
    folder: Path

    def text(self, name: str, content: str, encoding: str = "utf-8") -> str:
        (self.folder / name).write_text(content, encoding=encoding)
        return str(self.folder / name)

    def rows(self, **columns: Any) -> str:
        """``rows.csv`` with a label that ``x`` tells in part, and more columns."""
        ill = np.tile(["no", "yes"], N // 2)
        frame = pd.DataFrame({"ill": ill, "x": (ill == "yes") + np.random.default_rng(1).normal(size=N), **columns})
        frame.to_csv(self.folder / "rows.csv", index=False)
        return str(self.folder / "rows.csv")

    def features(self, rows: str, model: str = MODEL, table: str = TABLE) -> str:
        """What `surety features run` says of rows."""
        self.text("columns.yaml", table)
        self.text("rows.csv", rows)
        return self.said("features", "run", "--config", self.text("model.yaml", model))

    def init(self, *more: str, label: str = "ill", **columns: Any) -> str:
        """What `surety init` says of a table."""
        return self.said("init", self.rows(**columns), str(self.folder / "mine"), "--label", label, *more)

    def foreign(self, model: Any) -> str:
        """What `surety import-model` says of a model of scikit-learn that lies in MLflow."""
        make_cohort(400, 3)[0].to_parquet(self.folder / "cohort.parquet", index=False)
        registry = registered_home(self.folder / "home").registry
        experiment = registry.experiment("others")
        with registry.session("test") as mlflow, mlflow.start_run(experiment_id=experiment):
            uri = mlflow.sklearn.log_model(
                model, name="m", serialization_format="cloudpickle", pip_requirements=["scikit-learn"]
            ).model_uri
        return self.said(
            "import-model", "--uri", uri, "--model", "theirs", "--feature-version", "v1",
            "--calibration", str(self.folder / "cohort.parquet"), "--trust-pickle",
            "--config", self.text("theirs.yaml", "model: theirs\nfeature_version: v1\ndata: {source: cohort.parquet}\n"),
        )  # fmt: skip

    def said(self, *arguments: str) -> str:
        """Notes and errors of a command, in one line; never a traceback."""
        told = self.run(*arguments)
        assert "Traceback" not in told.err
        return " ".join(told.err.split())


def other_encoding(place: Place) -> str:
    place.text("columns.yaml", TABLE)
    place.text("rows.csv", "who,age,sex,ill\nJürgen,41,m,no\n", "cp1252")
    return place.said("features", "run", "--config", place.text("model.yaml", MODEL))


def of_other_columns(place: Place) -> str:
    frame = pd.DataFrame({"age": [40.0, 70.0, 50.0, 60.0], "shoe_size": [41.0, 42.0, 40.0, 39.0]})
    return place.foreign(LogisticRegression().fit(frame, [0, 1, 0, 1]))


def of_other_labels(place: Place) -> str:
    frame = pd.DataFrame({name: [40.0, 70.0, 50.0, 60.0] for name in ("age", "glucose", "bmi", "bp_systolic")})
    return place.foreign(LogisticRegression().fit(frame, ["no", "yes", "no", "yes"]))


def refused_by_the_gate(place: Place) -> str:
    made = place.folder / "mine"
    place.init()
    config = made / "model.yaml"
    config.write_text(re.sub("min_roc_auc: .*", "min_roc_auc: 0.999", config.read_text()))
    return place.said("run", str(made))


def mistyped_parameter(place: Place) -> str:
    place.init()
    config = place.folder / "mine" / "model.yaml"
    found = config.read_text()
    assert "\ntraining:" in found or "training: {" in found
    config.write_text(re.sub(r"(?m)^training:.*\n(?:  .*\n)*", "training: {params: {max_deph: 3}}\n", found))
    return place.said("run", str(place.folder / "mine"))


def unknown_level(place: Place) -> str:
    rows = "".join(f"p{i},40,{sex},no\n" for i, sex in enumerate(("f", "m", "Unknown", "Unknown", "x")))
    return place.features(f"who,age,sex,ill\n{rows}")


def field_of_a_request(_: Place) -> str:
    from ml_core.base.errors import InvalidRecord
    from tests.toy_models import toy_live, toy_record

    record = toy_record()
    record["Glucose"] = record.pop("glucose")
    with pytest.raises(InvalidRecord) as caught:
        toy_live().champion.reader.read(record)
    return "; ".join(f"{fault.field} {fault.problem}" for fault in caught.value.fields)


def wide(place: Place) -> str:
    header = ",".join(["ill", *(f"gene_{i}" for i in range(20_000))])
    row = ",".join(["yes", *["1"] * 20_000])
    return place.said("init", place.text("wide.csv", f"{header}\n{row}\n"), str(place.folder / "w"), "--label", "ill")


Recipe = Callable[[Place], str]
MESSAGES: dict[str, tuple[str, Recipe]] = {
    "a `;` file read as `,`": (
        "has no column who, age, sex, ill; its cells seem to be separated by ';': set data.csv.separator: \";\"",
        lambda place: place.features("who;age;sex;ill\np1;40;m;no\n"),
    ),
    "another encoding": ("is not UTF-8 text: set data.csv.encoding, e.g. cp1252", other_encoding),
    "a label that is a number": (
        ("holds 240 different numbers. To predict a number (regression) is not offered: make classes of it, for example "
        "with pandas.cut, and name that column"),
        lambda place: place.init(label="cost", cost=np.arange(N)),
    ),
    "a level that the table does not list": ("sex: not a level (3 rows: 'Unknown' 2, 'x' 1)", unknown_level),
    "a mistyped column": (
        "rows.csv has no such column; admitted is meant?",
        lambda place: place.init("--time", "admited", admitted=pd.date_range("2026-01-01", periods=N)),
    ),
    "a mistyped key of the configuration": (
        "gate.min_rocauc: is not known here; min_roc_auc is meant?",
        lambda place: place.features("who,age,sex,ill\n", MODEL.replace("min_roc_auc", "min_rocauc")),
    ),
    "a mistyped hyper-parameter": (
        "training.params.max_deph: is no hyper-parameter of XGBoost; max_depth is meant?", mistyped_parameter,
    ),
    "no group column": (
        ("no column has the role 'group': give it to the one which says whose a row is (where each row is a subject of "
        "its own, data.row_number makes one)"),
        lambda place: place.features("who,age,sex,ill\n", table=TABLE.replace("role: group", "role: id")),
    ),
    "a group with gaps": (
        "--group tailnum: is empty in 12 rows: whose are they? Fill it in, or take these rows out of the file",
        lambda place: place.init("--group", "tailnum", tailnum=[None if i < 12 else f"N{i // 2}" for i in range(N)]),
    ),
    "a field that a request may not have": ("is not a field of this model; glucose is meant?", field_of_a_request),
    "too few rows for a promise": (
        ("class 'no': has 120 rows, 35 of them to calibrate with, and a promise of 0.99 needs 99, which takes about 594 "
        "rows of each class: add rows"),
        lambda place: place.init("--level", "0.99"),
    ),
    "a refusal by the gate": (
        ("the limit is 0.999: the columns do not tell the classes apart as well as asked: add columns, or lower "
        "gate.min_roc_auc where such a model is worth using"),
        refused_by_the_gate,
    ),
    "a word again and again in a column of numbers": (
        "Words in columns of numbers: `weight`: 'n.d.' in 30 rows. They are read as not known. Is that so?",
        lambda place: place.init(weight=["n.d." if i % 8 == 0 else f"{50 + i / 7:.1f}" for i in range(N)]),
    ),
    "weights of nobody": (
        "--weight w: is empty, 0 or below 0 in 2 rows: they stand for nobody; take them out of the file",
        lambda place: place.init("--weight", "w", w=[0.0, -1.0, *_RNG.uniform(1, 5, N - 2)]),
    ),
    "a table of too many columns": (
        "has 20001 columns, and 20000 are the most: choose columns before, or make fewer of them", wide,
    ),
    "a foreign model of other columns": (
        ("takes 1 column(s) that v1 has neither as features nor as raw columns: shoe_size; name the columns alike in the "
        "column table"),
        of_other_columns,
    ),
    "a foreign model of other labels": (
        ("predicts no, yes, and the labels of file cohort.parquet are 0, 1: name the levels of the label column as the model "
        "does"),
        of_other_labels,
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", MESSAGES)
def test_what_is_wrong_is_said_in_these_words(wrong: str, run: Callable[..., Told], tmp_path: Path) -> None:
    words, recipe = MESSAGES[wrong]
    assert words in recipe(Place(run, tmp_path))


def table() -> str:
    """The rows of the table in the docs."""
    quoted = {wrong: f"`` {words} ``" if "`" in words else f"`{words}`" for wrong, (words, _) in MESSAGES.items()}
    return "".join(f"| {wrong} | {words} |\n" for wrong, words in quoted.items())


def test_the_table_of_the_docs_has_these_words() -> None:
    assert table() in (ROOT / "docs" / "own-tables.md").read_text()
