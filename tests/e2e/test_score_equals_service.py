"""`surety score` and a live service give the same answers to the same rows, bit for bit in every field."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ml_core.lab.config import load_config
from ml_core.lab.data.raw_tables import read_source
from ml_core.serve.features.versions import get_feature_version
from tests.e2e.workplace import Workplace
from tests.lab.past_answers.scoring import columns_of, scored_rows

pytestmark = pytest.mark.e2e

ROWS = 200


def first_rows(place: Workplace, config_name: str, to: Path) -> list[dict[str, Any]]:
    """Write the first rows of a place's data as a table to score, and return them as records for requests."""
    config = load_config(place.run / "configs" / config_name)
    source = read_source(place.run / config.data.source, config.data.adapter, config.feature_version)
    frame = source.frame.head(ROWS)
    if to.suffix == ".csv":
        frame.to_csv(to, index=False)
    else:
        frame.to_parquet(to, index=False)
    names = [column.name for column in get_feature_version(config.feature_version).features]
    features = frame[names].astype(object)
    return features.where(features.notna(), None).to_dict("records")


def posted(address: str, records: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """One ``POST /predict`` for each record."""
    with httpx.Client(base_url=address, timeout=30) as client:
        replies = [client.post("/predict", json={"features": record, **options}) for record in records]
    assert {reply.status_code for reply in replies} == {200}
    return [reply.json() for reply in replies]


@pytest.fixture(scope="module")
def served_example(example: Workplace) -> Iterator[str]:
    """Address of the running service of the example."""
    with example.serving() as address:
        yield address


@pytest.fixture(scope="module")
def served_hospital(hospital: Workplace) -> Iterator[str]:
    """Address of the running service of the hospital data."""
    with hospital.serving() as address:
        yield address


@pytest.mark.parametrize("level", [None, 0.95])
@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("where", ["example", "hospital"])
def test_scored_table_and_live_service_are_equal_bit_for_bit(
    where: str, request: pytest.FixtureRequest, tmp_path: Path, form: str, level: float | None
) -> None:
    place: Workplace = request.getfixturevalue(where)
    config = {"example": "readmission_v1.yaml", "hospital": "diabetes130.yaml"}[where]
    records = first_rows(place, config, tmp_path / f"in.{form}")
    options = [] if level is None else ["--level", str(level)]
    told = place.surety("score", str(tmp_path / f"in.{form}"), str(tmp_path / f"out.{form}"), *options)
    assert (told["rows"], told["refused"]) == (ROWS, 0)
    address = request.getfixturevalue(f"served_{where}")
    envelopes = posted(address, records, **({} if level is None else {"confidence_level": level}))
    for i, (row, envelope) in enumerate(zip(scored_rows(tmp_path / f"out.{form}"), envelopes, strict=True)):
        expected = {"row": i, **columns_of(envelope, (0, 1))}
        assert {name: row[name] for name in expected} == expected
        lineage = {name: envelope["lineage"][name] for name in ("model_name", "feature_version", "calibration_id")}
        assert {name: told[name] for name in lineage} == lineage
        assert (told["guarantee"], float(told["confidence_level"])) == (
            envelope["guarantee"],
            envelope["confidence_level"],
        )
    ids = {"example": "patient_id", "hospital": "encounter_id"}[where]
    if form == "parquet":
        scored, given = (pq.read_table(tmp_path / f"{name}.parquet").column(ids) for name in ("out", "in"))
        assert scored.to_pylist() == given.to_pylist()
    else:
        scored, given = (pd.read_csv(tmp_path / f"{name}.csv", dtype=str)[ids] for name in ("out", "in"))
        assert scored.tolist() == given.tolist()
