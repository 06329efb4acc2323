"""Measures what an explanation costs: `python -m benchmarks.explanations [MODEL_FOLDER]...`.

Without a folder: the hospital model, trained where that was not done before. Rows are drawn from the bounds of the columns.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ml_core.lab.training.conversion import drawn_columns
from ml_core.serve.model.bundle import XGBOOST_FILE, read_bundle
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.trees import TreeForm

ROWS, ALONE = 4_096, 300

Row = tuple[str, ...]
HEAD: Row = ("model", "trees", "leaves", "first, ms", "alone, ms", "in thousands, ms/row", "XGBoost itself, ms/row")


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    before = time.process_time()
    work()
    return (time.process_time() - before) * 1e3


def xgboost_ms(folder: Path, features: np.ndarray) -> str:
    """CPU time a row of ``pred_contribs`` on one thread; a dash for a model that is none of XGBoost's."""
    if not (folder / XGBOOST_FILE).exists():
        return "-"
    import xgboost

    booster = xgboost.Booster({"nthread": 1}, model_file=bytearray((folder / XGBOOST_FILE).read_bytes()))
    booster.feature_names = None
    data = xgboost.DMatrix(features, nthread=1)
    return f"{cpu_ms(lambda: booster.predict(data, pred_contribs=True)) / len(features):.3f}"


def measured(folder: Path) -> Row:
    """One line of the table."""
    predictor = Predictor(read_bundle(folder))
    version = predictor.bundle.features
    columns = drawn_columns(version.features, ROWS, np.random.default_rng(1))
    features, predictions = version.transform(columns), predictor.predict(columns).predictions
    form = TreeForm.from_bytes(predictor.bundle.trees)

    def one(row: int) -> object:
        at = slice(row, row + 1)
        return predictor.explainer.explain("champion", features[at], predictions[at])

    first = cpu_ms(lambda: one(0))
    alone = [cpu_ms(lambda row=row: one(row)) for row in range(1, ALONE + 1)]
    many = min(cpu_ms(lambda: predictor.explainer.explain("champion", features, predictions)) for _ in range(3))
    return (
        predictor.bundle.manifest.name, str(len(form.roots)), str(int(form.is_leaf.sum())), f"{first:.0f}",
        f"{statistics.median(alone[ALONE // 2 :]):.3f}", f"{many / ROWS:.3f}", xgboost_ms(folder, features[:1_000]),
    )  # fmt: skip


def hospital() -> Path:
    """The artefact of the hospital model, as the other figures have it."""
    from benchmarks.prepare import PLACE, prepare

    made = prepare()
    return next((PLACE / "bentoml" / "models" / made.model).glob("v1-*")) / "mlflow_model" / "artifacts" / "bundle"


def main(folders: list[str]) -> None:
    """Print the table."""
    print(f"{platform.processor() or platform.machine()}, numpy {np.__version__}, one process; CPU time")
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    for folder in map(Path, folders) if folders else [hospital()]:
        print("| " + " | ".join(measured(folder)) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
