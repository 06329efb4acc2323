"""Continuous training where no home is configured (`make ct`): makes an example home with some weeks of answers.

A model of the synthetic cohort is trained, gated, promoted and served by a real `bentoml serve`. Later encounters, with or
without drift, are sent over HTTP. Their labels are sent and count at once. The monitor looks once. Then
`surety retrain --unattended` runs as it does on a real home. Its exit status is the exit status of this program.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pandas as pd
import yaml

from benchmarks.servers import ROOT, home_in, serve, surety
from ml_core.features.columns import features_of
from ml_core.lab.config import load_config
from ml_core.serve.features.versions import get_feature_version

PLACE = ROOT / "build" / "ct"
CONFIG = ROOT / "configs" / "readmission_v1.yaml"
ROWS, LATER_ROWS, SEED = 12_000, 1_500, 20_140
OLDER_YEARS, SWEETER_MG_PER_DL = 12, 40
BATCH = 500  # records of one request
RETRAIN = {"min_new_labels": 500, "live_rows": 1_500}


@click.command()
@click.option("--drift", type=click.BOOL, default=True, show_default=True, envvar="EXAMPLE_DRIFT",
              help="Later patients are older and have more sugar in their blood, or are as before.")  # fmt: skip
@click.option("--place", type=click.Path(path_type=Path), default=PLACE, help="Where it all lies; emptied first.")
def main(place: Path, *, drift: bool) -> None:
    """Make the home and its answers, then train once; exit with the status of `surety retrain`."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        raise click.UsageError(
            "MLFLOW_TRACKING_URI is set and SURETY_HOME is not. The example never touches a real registry: set SURETY_HOME "
            "to the home whose log is to be looked at, or unset both."
        )
    environment, config = prepare(place.absolute(), drift=drift)
    command = [sys.executable, "-m", "ml_core.cli.main", "retrain", "--unattended", "--config", str(config)]
    sys.exit(subprocess.run(command, cwd=ROOT, env=environment).returncode)


def prepare(place: Path, *, drift: bool) -> tuple[dict[str, str], Path]:
    """Make a home with a champion and labelled answers; its environment variables, and the path of its YAML."""
    shutil.rmtree(place, ignore_errors=True)
    environment = _environment(place)
    config = _written_config(place)
    made = ["data", "make", "--rows", str(ROWS), "--seed", str(SEED), "--out", str(place / "cohort.parquet")]
    later = place / "later.parquet"
    knobs = ["--shift-age", str(OLDER_YEARS), "--shift-glucose", str(SWEETER_MG_PER_DL)] if drift else []
    surety(environment, *made)
    surety(environment, "example", "--config", str(config))
    surety(environment, "data", "make", "--rows", str(LATER_ROWS), "--seed", str(SEED + 1), "--out", str(later), *knobs)
    _live(environment, pd.read_parquet(later), config)
    surety(environment, "monitor", "--once", statuses=(0, 3))
    return environment, config


def _environment(place: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SURETY_", "MLFLOW_", "BENTOML_", "MODEL_"))}
    own = home_in(place, load_config(CONFIG).model, SURETY_LABEL_HORIZON_DAYS="0", PYTHONPATH=str(ROOT))
    return kept | own


def _written_config(place: Path) -> Path:
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["data"]["source"] = str(place / "cohort.parquet")
    config["retrain"] = RETRAIN
    path = place / CONFIG.name
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def _live(environment: dict[str, str], rows: pd.DataFrame, config: Path) -> None:
    """Serve, send every row, send every label."""
    server = serve(environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
            for records, outcomes in _batches(rows, load_config(config).feature_version):
                answers = _post(client, "/predict_batch", {"records": records})["predictions"]
                told = zip(answers, outcomes, strict=True)
                _post(client, "/labels", {"labels": [{"request_id": a["request_id"], "label": y} for a, y in told]})
    finally:
        server.stop()


def _batches(rows: pd.DataFrame, version_name: str) -> Iterator[tuple[list[dict[str, Any]], list[int]]]:
    """Batches of records as a hospital's system would send them, each with its labels."""
    version = get_feature_version(version_name)
    roles = {column.role: column.name for column in version.columns}
    names = [roles["group"], *(column.name for column in features_of(version.columns))]
    for begin in range(0, len(rows), BATCH):
        part = rows.iloc[begin : begin + BATCH]
        yield json.loads(part[names].to_json(orient="records")), part[roles["label"]].astype(int).tolist()


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    reply = client.post(path, json=body)
    if reply.status_code != 200:
        raise SystemExit(f"{path} answered {reply.status_code}: {reply.text[:300]}")
    return reply.json()


if __name__ == "__main__":
    main()
