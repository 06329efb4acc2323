"""Runs the commands of many files on a Dask cluster of two processes, and says what it saw.

    python -m tests.lab.batch.dask_run FOLDER

The environment has Dask. FOLDER holds ``in`` (tables), ``then.parquet`` and ``rows`` (for a drift check and for features).
Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distributed import LocalCluster

from ml_core.base.errors import SuretyError
from ml_core.base.settings import Settings
from ml_core.lab.batch.dask_engine import OnDask
from ml_core.lab.batch.engines import InProcess, in_order
from ml_core.lab.batch.row_groups import Piece
from ml_core.lab.batch.table_places import find_tables
from ml_core.lab.config import DataConfig, DriftConfig, ModelConfig
from ml_core.lab.data import feature_pipeline
from ml_core.lab.data.feature_pipeline import FeaturePipeline
from ml_core.lab.drift import drift_check, drift_table
from ml_core.lab.drift.drift_check import check_files
from ml_core.lab.past_answers.batch_scoring import Workers, score_table
from ml_core.lab.past_answers.folder_scoring import score_folder
from tests.lab.past_answers.scoring import FOLDERS, loaded

PIECES = tuple(Piece(number, 0, (number,), number, 1) for number in range(8))


def dying_once(place: str, piece: Piece) -> int:
    """Ends its process the first time that it works on a certain piece."""
    died = Path(place, "died")
    if piece.number == 5 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return piece.number


def first_rows(numbers: tuple[int, ...], piece: Piece) -> int:
    """Something of the shared argument that differs by piece."""
    return numbers[piece.number]


def refusal(work: Any) -> str:
    """What is said where something is refused."""
    try:
        work()
    except SuretyError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(folder: Path, address: str) -> dict[str, Any]:
    """Every command once."""
    os.chdir(folder)
    engine = OnDask(address)
    workers = Workers(engine, FOLDERS["two labels"](), piece_rows=70)
    tables, model = find_tables("in"), loaded()
    scored = score_folder(tables, "out", model, workers=workers)
    drift_check._IN_MEMORY_CELLS = 0
    drift_table.PIECE_ROWS = 100
    drift = [
        asdict(
            check_files(
                Path("then.parquet"), Path("rows"), DriftConfig(rule="extended"), patient="patient_id", engine=e
            )
        )
        for e in (engine, InProcess())
    ]
    feature_pipeline.PIECE_ROWS = 100
    config = ModelConfig(model="m", feature_version="v1", data=DataConfig(source=Path("rows")))
    settings = Settings(home=folder / "home")
    features = [asdict(FeaturePipeline(config, settings, *more).run()) for more in ((engine,), ())]
    return {
        "scored": [scored.rows, scored.refused],
        "drift": drift,
        "features": features,
        "one file": refusal(lambda: score_table(tables.places[0], Path("out.parquet"), model, workers=workers)),
        "rejected": refusal(lambda: score_folder(tables, "none", model, on_error="reject", workers=workers)),
        "in order": list(in_order(engine, first_rows, tuple(range(100, 108)), PIECES, "test")),
        "lost": sorted(engine.run(dying_once, str(folder), PIECES, "test")),
        "nobody": refusal(lambda: list(OnDask("tcp://127.0.0.1:1").run(first_rows, (), PIECES, "test"))),
    }


if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        sys.stdout.write(json.dumps(main(Path(sys.argv[1]), cluster.scheduler_address), default=str))
