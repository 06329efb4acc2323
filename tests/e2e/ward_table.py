"""A toy table with every type of column, its columns.yaml and its configuration, in a folder of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

__all__ = ["MODEL", "record_of", "ward_rows", "write_project"]

MODEL = "ward_risk"

COLUMNS = """\
columns:
  patient_id: {dtype: text, role: group, doc: Identifies the patient.}
  stay: {dtype: int, role: id, doc: Number of the stay.}
  admitted: {dtype: datetime, role: time, doc: When the stay began.}
  age: {dtype: int, unit: years, low: 0, high: 120, nullable: true, doc: Age., missing_flag: true}
  lactate: {dtype: float, unit: mmol/L, low: 0, high: 40, doc: Lactate in blood.}
  sex: {dtype: category, levels: [F, M], nullable: true, doc: As recorded.}
  triage: {dtype: category, levels: [1, 2, 3, 4, 5], doc: Manchester triage., transform: TRIAGE}
  band: {dtype: category, levels: ["<30", "[30-60)", 60+], doc: Days since the last stay., nullable: true}
  urgent: {dtype: bool, doc: Whether it was urgent.}
  on_oxygen: {dtype: bool, nullable: true, doc: Whether oxygen was given., missing_flag: true}
  seen_on: {dtype: datetime, nullable: true, doc: When a physician came.}
  note: {dtype: text, nullable: true, examples: [calm, in pain], transform: none, missing_flag: true}
  outcome: {dtype: category, role: label, levels: [home, ward], doc: Where the patient went.}
"""

CONFIG = """\
model: ward_risk
columns: columns.yaml
seed: 5
data: {source: DATA}
training: {rounds: 40, early_stopping_rounds: 10, params: {max_depth: 3, learning_rate: 0.2}}
conformal:
  groups:
    - {name: urgency, column: urgent}
    - {name: sex}
gate: {min_roc_auc: 0.6, max_brier: 0.25, min_group_coverage: 0.6}
promotion: {min_improvement: 0.0, max_regression: 0.5}
"""


def ward_rows(n: int, seed: int) -> pd.DataFrame:
    """n labelled stays, as a hospital's export has them."""
    rng = np.random.default_rng(seed)
    age = rng.integers(0, 100, n)
    lactate = rng.gamma(2.0, 1.2, n).round(2)
    urgent = rng.random(n) < 0.4
    oxygen = rng.random(n) < 0.3
    start = np.datetime64("2026-01-01T00:00:00", "us")
    admitted = start + rng.integers(0, 250 * 86_400, n).astype("timedelta64[s]")
    risk = 0.03 * (age - 50) + 0.6 * (lactate - 2.4) + 1.2 * urgent + 0.9 * oxygen + rng.normal(0, 1.0, n)

    def holed(values: object, share: float) -> pd.Series:
        found = pd.Series(values).astype(object)
        return found.where(rng.random(n) >= share, None)

    return pd.DataFrame({
        "patient_id": [f"P{number:05d}" for number in rng.integers(0, n, n)],
        "stay": np.arange(2**60, 2**60 + n),
        "admitted": pd.Series(admitted),
        "age": pd.array(holed(age, 0.1), dtype="Int64"),
        "lactate": lactate,
        "sex": holed(rng.choice(["F", "M"], n), 0.05),
        "triage": rng.integers(1, 6, n),
        "band": holed(rng.choice(["<30", "[30-60)", "60+"], n), 0.2),
        "urgent": urgent,
        "on_oxygen": holed(oxygen.tolist(), 0.2),
        "seen_on": pd.Series(admitted + rng.integers(0, 9_000, n).astype("timedelta64[s]")).where(rng.random(n) < 0.9),
        "note": holed(rng.choice(["calm", "in pain"], n), 0.5),
        "outcome": np.where(risk > 0.4, "ward", "home"),
    })  # fmt: skip


def record_of(row: pd.Series) -> dict[str, object]:
    """The features of a row as a request has them."""
    record = {}
    for name, value in row.items():
        if name in ("patient_id", "stay", "admitted", "outcome") or pd.isna(value):
            continue
        plain = value.isoformat() if isinstance(value, pd.Timestamp) else value
        record[str(name)] = plain.item() if isinstance(plain, np.generic) else plain
    return record


def write_project(folder: Path, data: Path, *, triage: str) -> Path:
    """columns.yaml and model.yaml in a new folder; the configuration's path.

    Parameters
    ----------
    triage : the transform of the column of that name
    """
    folder.mkdir(parents=True)
    (folder / "columns.yaml").write_text(COLUMNS.replace("TRIAGE", triage))
    (folder / "model.yaml").write_text(CONFIG.replace("DATA", str(data)))
    return folder / "model.yaml"
