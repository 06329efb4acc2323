"""From a file to an answered request with the built wheel alone, in an environment of its own and an empty folder.

The short way is run on every change, with a table of thirty columns and two classes. The long one has a table as a
spreadsheet of another country writes it, with three classes, gaps and texts.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from tests.e2e.workplace import answers, free_port, kill_group

pytestmark = pytest.mark.e2e


def breast_masses(folder: Path) -> tuple[Path, str, pd.DataFrame]:
    """Two classes, 569 rows, numbers only."""
    from sklearn.datasets import load_breast_cancer

    raw = load_breast_cancer(as_frame=True)
    rows = raw.data.assign(diagnosis=raw.target_names[raw.target])
    rows.to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv", "diagnosis", rows


def wines_of_a_cellar(folder: Path) -> tuple[Path, str, pd.DataFrame]:
    """Three classes, 178 wines with gaps, a text, a date and a comment; semicolons, decimal commas, Windows' letters."""
    from sklearn.datasets import load_wine

    raw, rng = load_wine(as_frame=True), np.random.default_rng(4)
    rows = raw.data.assign(
        cellar=rng.choice(["Möller", "Grünwald", "Süd"], len(raw.data)),
        bottled=pd.to_datetime("2020-01-31") + pd.to_timedelta(rng.integers(0, 900, len(raw.data)), unit="D"),
        comment=[f"Flasche {i} vom {i % 7}. Regal" for i in range(len(raw.data))],
        sorte=np.array(["Barbera", "Barolo", "Grignolino"])[raw.target],
    )
    rows.loc[rng.random(len(rows)) < 0.1, "ash"] = np.nan
    rows["bottled"] = rows["bottled"].dt.strftime("%d.%m.%Y")
    rows.to_csv(folder / "rows.csv", index=False, sep=";", decimal=",", encoding="cp1252", na_rep="k. A.")
    text = (folder / "rows.csv").read_bytes().replace(b"k. A.", b"?")
    (folder / "rows.csv").write_bytes(text)
    return (
        folder / "rows.csv",
        "sorte",
        rows.assign(bottled=pd.to_datetime(rows["bottled"], format="%d.%m.%Y").dt.strftime("%Y-%m-%d")),
    )


@contextmanager
def served(surety: Path, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Address of `surety serve`; service and monitor end with the block."""
    port = free_port()
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [surety, "serve", "my-risk", "--port", str(port)],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        assert answers(f"{address}/readyz", process), (folder / "serve.log").read_text()
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(60) is not None
        finally:
            kill_group(process.pid)


@pytest.mark.parametrize(
    "table", [breast_masses, pytest.param(wines_of_a_cellar, marks=pytest.mark.slow)], ids=lambda table: table.__name__
)
def test_from_a_file_to_an_answered_request(
    python: Path,
    tmp_path: Path,
    table: Callable[[Path], tuple[Path, str, pd.DataFrame]],
) -> None:
    rows, label, frame = table(tmp_path)
    surety = python.parent / "surety"
    environment = {
        "PATH": "/usr/bin:/bin", "BENTOML_HOME": str(tmp_path / "bentoml"), "BENTOML_DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true", "HOME": str(tmp_path),
    }  # fmt: skip

    def typed(*arguments: str) -> Any:
        done = subprocess.run(
            [surety, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout)

    made = typed("init", rows.name, "my-risk", "--label", label)
    assert made["classes"] == {str(k): int(n) for k, n in frame[label].value_counts().sort_index().items()}
    found = typed("run", "my-risk")
    assert (found["status"], found["gate"]) == ("ready", "passed")
    with served(surety, tmp_path, environment) as address:
        kept = [name for name in frame.columns if name not in {label, *made["left_out"]}]
        records = json.loads(frame[kept].to_json(orient="records"))
        reply = httpx.post(f"{address}/predict_batch", json={"records": records}, timeout=60)
        assert reply.status_code == 200, reply.text
        given = reply.json()["predictions"]
        right = [answer["prediction"] == truth for answer, truth in zip(given, frame[label], strict=True)]
        assert not any(answer["fallback_used"] for answer in given)
        assert {answer["lineage"]["model_hash"] for answer in given} == {found["model_hash"]}
    assert np.mean(right) > 0.9  # most of these rows trained it
    assert not (tmp_path / ".surety").exists()  # everything lies in the project
