"""Values that one or few patients have, planted in the rows a model is made of, are in no file of it or of its run."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ml_core.base.settings import Settings
from ml_core.features.columns import Column, features_of
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.measuring.evaluation import SHARED_BY
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.lab.registry.tracking import register
from ml_core.lab.training.golden_draws import golden_records
from ml_core.lab.training.labelled_rows import rows_from_store
from ml_core.lab.training.learner import train_model
from ml_core.lab.training.packing import GOLDEN_RECORDS
from tests.homes import MODEL, road_config
from tests.security.figures import record

AGE, GLUCOSE, PRESSURE = 119, 599.37, 291.4375
PATIENT = "patient-CANARY-88"
ROWS = 6_000


@dataclass(frozen=True)
class Made:
    """A model of planted rows, in its folder and in a registry."""

    home: Path
    folder: Path
    frame: pd.DataFrame
    seed: int


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("planted")
    settings, config = Settings(home=place / "home", model_name=MODEL), road_config()
    frame, _ = make_cohort(ROWS, seed=11)
    frame.loc[frame["age"] == AGE, "age"] = 90
    store = FeatureStore(settings.feature_store, MODEL)
    store.overwrite("v1", frame)
    rows = rows_from_store(config, settings)
    in_part = {part: np.flatnonzero(rows.parts == part) for part in ("train", "calibration")}
    for part in in_part:  # one patient of each, with several rows: repeats do not make a value common
        first = in_part[part][0]
        frame.loc[first, ["age", "glucose", "bp_systolic"]] = [AGE, GLUCOSE, PRESSURE]
        for again in in_part[part][1:4]:
            frame.loc[again, ["age", "glucose", "bp_systolic", "patient_id"]] = [
                AGE, GLUCOSE, PRESSURE, frame.loc[first, "patient_id"],
            ]  # fmt: skip
    store.overwrite("v1", frame)
    rows = rows_from_store(config, settings)
    model = train_model(config, rows, place / "model", lambda _: None)
    register(ModelRegistry(settings), model, config, rows, {})
    return Made(settings.home, place / "model", frame, config.seed)


def spellings(value: float) -> list[bytes]:
    """How a number may lie in a file: as text, and in every width and byte order."""
    binary = [struct.pack(form, value) for form in ("<d", ">d", "<f", ">f")]
    return [repr(value).encode(), *binary]


def unpacked(path: Path) -> bytes:
    """The content of a file, with what is compressed in it."""
    raw = path.read_bytes()
    if path.suffix == ".npz":
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            raw += b"".join(arrays[name].astype(arrays[name].dtype).tobytes() for name in arrays.files)
            raw += repr([arrays[name].tolist() for name in arrays.files]).encode()
    return raw


def files_told(made: Made) -> list[Path]:
    """Every file of the artefact and of the registry: its database, and what its run keeps."""
    registry = [made.home / "mlflow.db", *(made.home / "mlartifacts").rglob("*")]
    return [path for path in [*made.folder.rglob("*"), *registry] if path.is_file()]


def test_no_file_of_artefact_or_registry_holds_a_planted_value(made):
    looked_at, found = files_told(made), []
    assert {path.name for path in made.folder.iterdir()} <= {path.name for path in looked_at}
    assert any(path.suffix == ".png" for path in looked_at)
    for path in looked_at:
        raw = unpacked(path)
        found += [(path.name, s) for value in (GLUCOSE, PRESSURE) for s in spellings(value) if s in raw]
        found += [(path.name, "patient") for name in (PATIENT, *made.frame["patient_id"][:50]) if name.encode() in raw]
    record(
        "what an artefact tells",
        "no value or name planted in training rows is in any file of the model or its run",
        {"files": len(looked_at), "planted values": 3, "found": len(found)},
    )
    assert found == []


def test_every_number_of_the_reference_stands_for_enough_patients(made):
    """Held against all rows that could have been described, so whatever part of them was."""
    frame, looked_at = made.frame, 0
    with np.load(made.folder / "reference.npz", allow_pickle=False) as arrays:
        for column in ("age", "glucose", "bmi", "bp_systolic"):
            held = frame.groupby(column)["patient_id"].nunique()
            rare = set(held[held < 5].index.tolist())
            values = arrays[f"values/{column}"]
            looked_at += len(values)
            assert not rare & set(values.tolist())
            assert rare, "the rows have values that one patient alone has"
            assert values.max() < frame[column].max()
            assert not set(np.concatenate([arrays[f"{p}/{column}"] for p in ("mean", "sd")]).tolist()) & rare
    assert looked_at > 4 * SHARED_BY


def test_no_threshold_of_a_tree_is_an_extreme_that_few_patients_have(made):
    import xgboost

    booster = xgboost.Booster(model_file=made.folder / "model.ubj")
    trees = booster.trees_to_dataframe()
    for feature, value in (("age", AGE), ("glucose", GLUCOSE), ("bp_systolic", PRESSURE)):
        splits = trees.loc[trees["Feature"] == feature, "Split"].to_numpy()
        assert len(splits) > 5
        assert np.float32(value) not in splits.astype(np.float32)


def test_golden_records_are_made_without_rows(made):
    from ml_core.serve.features.versions import get_feature_version

    told = [entry["record"] for entry in json.loads((made.folder / "golden.json").read_bytes())]
    columns = features_of(get_feature_version("v1").columns)
    assert told == golden_records(columns, GOLDEN_RECORDS, made.seed)


def test_a_column_that_few_patients_differ_in_is_no_part_of_the_scorecard():
    from types import SimpleNamespace

    from ml_core.lab.training.scorecard_fit import common_columns, fit_scorecard

    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(500, 4)).astype(np.float32)
    matrix[:, 1], matrix[:, 2] = 0.0, np.nan
    matrix[:6, 1], matrix[:9, 2] = 1.0, np.float32(GLUCOSE)  # a rare level's flag; a value that few have
    groups = np.arange(500)
    common = common_columns(SimpleNamespace(matrix=matrix, groups=groups))  # type: ignore[arg-type]
    content = fit_scorecard(common, (matrix[:, 0] > 0).astype(np.int64), 2)
    assert content["center"][1:3] == [0.0, 0.0]
    assert content["coefficients"][1][1:3] == [0.0, 0.0]
    assert content["coefficients"][1][0] != 0.0


def test_a_rare_level_is_not_told(tmp_path):
    from ml_core.lab.training.training_reference import reference_bytes

    column = Column("ward", "category", "Ward.", levels=("a", "b", "rare"))
    positions = np.repeat([0, 1, 2], [500, 400, 4])
    groups = np.arange(904)
    raw = reference_bytes((column,), {"ward": positions}, groups, np.full((90, 1), 0.5), np.arange(90), (0,))
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        assert arrays["levels/ward"].tolist() == [500, 400, 0]
        assert arrays["levels_other/ward"].tolist() == [0]
