"""Small real models for tests: a v1 artefact trained on a synthetic cohort, and its place in a Bento store."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml_core.base.settings import Settings
from ml_core.lab.config import DataConfig, ModelConfig, TrainingConfig
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.training.labelled_rows import LabelledRows, label_rows
from ml_core.lab.training.learner import train_model
from ml_core.lab.training.packing import PackedModel
from ml_core.serve.answering.live import Live, LiveModel
from ml_core.serve.features.table_versions import table_version
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.promotion_record import GateReport
from ml_core.serve.running.runner import ConformalRunner, GuardedRunner, Runner, model_breaker

NAME = "toy_risk"


def toy_config(**changes: object) -> ModelConfig:
    """A configuration that trains in a second."""
    facts = {
        "model": NAME,
        "feature_version": "v1",
        "seed": 7,
        "data": DataConfig(source=Path("cohort.parquet")),
        "training": TrainingConfig(rounds=40, early_stopping_rounds=10),
    }
    return ModelConfig.model_validate({**facts, **changes})


@cache
def toy_frame(n: int = 4_000, seed: int = 11) -> pd.DataFrame:
    """A labelled v1 cohort."""
    frame, _ = make_cohort(n, seed)
    return frame


@cache
def toy_rows() -> LabelledRows:
    """The cohort, split by patient."""
    return label_rows(toy_frame(), "v1", toy_config().split, "toy cohort")


@cache
def toy_model() -> PackedModel:
    """A trained, calibrated and packed model; its folder must not be changed (copy it first)."""
    folder = Path(tempfile.mkdtemp(prefix="surety-toy-")) / "bundle"
    return train_model(toy_config(), toy_rows(), folder, lambda _: None)


@cache
def table_toy() -> PackedModel:
    """A model of the same raw columns, whose table is data and whose transform is the standard one."""
    version = table_version(get_feature_version("v1").columns)
    rows = label_rows(toy_frame(), version.name, toy_config().split, "toy cohort")
    folder = Path(tempfile.mkdtemp(prefix="surety-toy-")) / "bundle"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    return train_model(toy_config(feature_version=version.name), rows, folder, lambda _: None)


GROUPS: dict[str, Any] = {
    "guarantee": "class_and_group",
    "groups": [{"name": "sex", "levels": ["female", "male"]}, {"name": "age_band", "column": "age", "cuts": [50, 70]}],
    "min_group_rows": 20,
}
"""Coverage for women and men, whose sex is no feature; age bands are measured."""


@cache
def grouped_rows() -> LabelledRows:
    """The cohort with a sex, which is unknown for some."""
    frame = toy_frame()
    sexes = np.random.default_rng(3).choice(np.array(["female", "male", None]), len(frame), p=[0.5, 0.45, 0.05])
    return label_rows(frame.assign(sex=sexes), "v1", toy_config().split, "toy cohort")


@cache
def grouped_toy() -> PackedModel:
    """The toy model with a calibration for each sex."""
    folder = Path(tempfile.mkdtemp(prefix="surety-toy-")) / "bundle"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    return train_model(toy_config(conformal=GROUPS), grouped_rows(), folder, lambda _: None)


def loaded_grouped() -> LoadedModel:
    """The same as a worker holds it."""
    packed = grouped_toy()
    tag = f"{NAME}:v9-{packed.model_hash[:8]}"
    return LoadedModel(tag, "9", Predictor(packed.bundle), passed_gate(packed.model_hash))


def copied_bundle(to: Path) -> Path:
    """A private copy of the toy artefact's folder."""
    shutil.copytree(toy_model().folder, to)
    return to


def passed_gate(model_hash: str, *, passed: bool = True) -> GateReport:
    """A gate report on that hash, as the gate would write it."""
    return GateReport(
        model_name=NAME,
        model_hash=model_hash,
        passed=passed,
        rules=(),
        judged_at="2026-01-01T00:00:00Z",
        judged_on="test",
    )


def loaded_toy() -> LoadedModel:
    """The toy model as a worker holds it."""
    predictor = Predictor(toy_model().bundle)
    return LoadedModel(
        tag=f"{NAME}:v1-{toy_model().model_hash[:8]}",
        version="1",
        predictor=predictor,
        gate=passed_gate(toy_model().model_hash),
    )


def patient_settings() -> Settings:
    """Settings of a service that does not take a busy machine for a broken model."""
    return Settings(deadline_ms=60_000, circuit_p95_ms=60_000)


def toy_live(runner: Runner | None = None, settings: Settings | None = None, **facts: Any) -> Live:
    """The toy model as the champion, with the given runner; ``facts`` are arguments of ``Live``."""
    model, settings = loaded_toy(), settings or patient_settings()
    guard = GuardedRunner(runner or ConformalRunner(model), model_breaker(NAME, settings), 2, settings)
    return Live(LiveModel(model, guard), **facts)


def toy_record(**changes: object) -> dict[str, object]:
    """A valid v1 record."""
    return {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148.0, **changes}
