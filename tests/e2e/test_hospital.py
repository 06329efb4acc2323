"""Real hospital data: the built bento, with only the serving packages installed, keeps its coverage."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ml_core.base.settings import Settings
from ml_core.lab.config import load_config
from ml_core.lab.measuring.coverage_law import design_effect
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.lab.training.labelled_rows import LabelledRows, rows_from_store
from ml_core.serve.model.bundle import read_bundle
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL
from ml_core.serve.model.predictor import Predictor
from tests.e2e.pythons import installed, new_python
from tests.e2e.workplace import ROOT, Workplace
from tests.verdicts import beta_binomial_band

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def unseen(hospital: Workplace) -> LabelledRows:
    """Encounters of the test patients, in the order of the table."""
    config = load_config(hospital.run / "configs" / "diabetes130.yaml")
    return rows_from_store(config, Settings(home=hospital.folder / "home")).part("test")


@pytest.fixture(scope="module")
def serve_only(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has the serving lock installed and nothing else."""
    python = new_python(tmp_path_factory.mktemp("serve-only"))
    return installed(python, "--require-hashes", "-r", str(ROOT / "requirements" / "serve.lock"))


def records_of(rows: LabelledRows) -> list[dict[str, Any]]:
    """Rows as callers would send them: feature columns only, null where missing."""
    names = [column.name for column in rows.features.features]
    frame = rows.frame[names].astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


def test_built_bento_keeps_the_promise_per_class_through_the_wire(
    hospital: Workplace, unseen: LabelledRows, serve_only: str, tmp_path: Path
) -> None:
    """The bento is exported, imported into an empty store, and served by a Python without mlflow, pandas or mapie."""
    missing = "import importlib.util as u; assert not any(map(u.find_spec, ('mlflow', 'pandas', 'sklearn', 'mapie')))"
    subprocess.run([serve_only, "-c", missing], check=True)
    hospital.bentoml("build", "-o", "tag", cwd=ROOT)
    hospital.bentoml("export", "surety:latest", str(tmp_path / "surety.bento"))
    elsewhere = Workplace(tmp_path / "elsewhere", "readmission_risk")
    elsewhere.bentoml("import", str(tmp_path / "surety.bento"))
    chosen = first_patients(unseen, 5_000)
    with elsewhere.serving("surety:latest", python=serve_only, cwd=elsewhere.run, PYTHONPATH="") as address:
        answers = posted(address, records_of(chosen))
        status = httpx.get(f"{address}/status").json()["models"][0]
    assert {a["lineage"]["model_hash"] for a in answers} == {status["model_hash"]}
    assert status["promoted_at"] is not None, "the promotion record did not travel with the model"
    assert {a["lineage"]["bento"].split(":")[0] for a in answers} == {"surety"}
    covered = np.array([int(label) in a["prediction_set"] for label, a in zip(chosen.y_index, answers, strict=True)])
    for k in (0, 1):
        of_class = chosen.y_index == k
        effect = design_effect(covered[of_class], chosen.groups[of_class])
        # Chance 1e-6 at each limit; calibration rows are widened by the same effect, having the same repeats.
        band = beta_binomial_band(
            status["calibration_rows"][str(k)], int(of_class.sum()), Decimal("0.9"), 1e-6, effect, effect
        )
        assert band.lower <= covered[of_class].mean() <= band.upper, f"class {k}"


def test_service_pyfunc_and_offline_answers_are_equal_bit_for_bit(hospital: Workplace, unseen: LabelledRows) -> None:
    rows = first_patients(unseen, 1_000)
    champion = next(m for m in hospital.surety("models", "list") if m["is_promoted"])
    folder = hospital.folder / "bentoml" / "models" / champion["bento_tag"].replace(":", "/")
    offline = Predictor(read_bundle(folder / BUNDLE_IN_BENTO_MODEL, champion["model_hash"])).predict(rows.columns)
    names = [column.name for column in rows.features.features]
    with ModelRegistry(Settings(home=hospital.folder / "home")).session("the champion") as mlflow:
        found = mlflow.pyfunc.load_model(f"models:/{hospital.model}@champion").predict(rows.frame[names])
    with hospital.serving() as address:
        served = posted(address, records_of(rows))
    for i, answer in enumerate(served):
        assert answer["probability"] == offline.proba[i, 1] == found["probability"][i]
        assert list(answer["p_values"].values()) == offline.p_values[i].tolist()
        assert list(answer["probabilities"].values()) == offline.proba[i].tolist()
        assert answer["prediction_set"] == np.flatnonzero(offline.sets[i]).tolist() == list(found["prediction_set"][i])
        assert answer["prediction"] == offline.predictions[i] == found["prediction"][i]


def first_patients(rows: LabelledRows, n: int) -> LabelledRows:
    """All rows of the first ``n`` patients."""
    _, first = np.unique(rows.groups, return_index=True)
    chosen = rows.groups[np.sort(first)[:n]]
    kept = np.isin(rows.groups, chosen)
    return replace(
        rows,
        frame=rows.frame[kept].reset_index(drop=True),
        y_index=rows.y_index[kept],
        groups=rows.groups[kept],
        parts=rows.parts[kept],
    )


def posted(address: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One ``POST /predict`` for each record."""
    with httpx.Client(base_url=address, timeout=30) as client:
        replies = [client.post("/predict", json={"features": record}) for record in records]
    assert {reply.status_code for reply in replies} == {200}
    return [reply.json() for reply in replies]
