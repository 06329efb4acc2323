"""A table of seven thousand columns, from the file to an answered request."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from tests.e2e.workplace import Workplace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
N, D = 200, 7_000


def test_seven_thousand_columns_go_from_the_file_to_an_answer(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(N, D)).round(2)
    table = pd.DataFrame(values, columns=[f"gene_{i}" for i in range(D)])
    table["ill"] = np.where(values[:, 0] + values[:, 1] + rng.normal(0, 0.3, N) > 0, "yes", "no")
    place = Workplace(tmp_path, "genes")
    table.to_parquet(place.run / "genes.parquet", index=False)
    place.surety("init", "genes.parquet", "genes", "--label", "ill")
    ran = place.surety("run", "genes")
    assert (ran["status"], ran["next_action"]) == ("ready", "surety serve genes")
    record = {name: float(value) for name, value in table.iloc[0].drop("ill").items()}
    with place.serving() as address:
        reply = httpx.post(f"{address}/predict", json={"features": record}, timeout=60)
    assert (reply.status_code, reply.json()["fallback_used"]) == (200, False)
    assert len(reply.request.content) > 65_536
