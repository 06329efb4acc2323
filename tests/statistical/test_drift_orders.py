"""The drift alarm on Diabetes 130-US hospitals, held-out encounters in the orders in which rows really come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_core.features.columns import ColumnArrays, features_of
from ml_core.lab.config import load_config
from ml_core.lab.data.frames import to_arrays
from ml_core.lab.data.raw_tables import read_source
from ml_core.lab.drift.block_means import BlockStatistics, blocks_of
from ml_core.lab.drift.reference_window import NumberReference, ReferenceWindow
from ml_core.lab.drift.sequential import DriftState, update_drift
from ml_core.lab.training.labelled_rows import split_of
from ml_core.lab.training.training_reference import reference_bytes
from ml_core.serve.features.versions import get_feature_version

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "diabetes130.parquet"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_800),
    pytest.mark.skipif(not DATA.exists(), reason="the published data set is not beside this folder"),
]

WINDOW, BLOCK, WINDOWS, THRESHOLD, BATCH = 1_000, 100, 39, 1_000.0, 50
SEEDS, STREAMS = (171, 172), 20
MOST = WINDOWS / THRESHOLD
"""Chance of a false alarm in a stream, at most, by the theory of the detector."""
ORDERS = ("random", "patients", "medical_specialty", "discharge_disposition_id", "number_inpatient")


@dataclass(frozen=True)
class Rows:
    """Encounters of patients the reference has not seen, and every statistic of every row."""

    statistics: BlockStatistics
    inputs: ColumnArrays
    patients: np.ndarray
    encounters: np.ndarray
    measured: np.ndarray

    def order(self, kind: str, rng: np.random.Generator) -> np.ndarray:
        """The rows by chance; by patient; in batches of 50 alike in a column, whose batches come by chance; or by
        their number, which grows with time."""
        n = len(self.patients)
        if kind == "random":
            return rng.permutation(n)
        if kind == "encounter_id":
            return np.argsort(self.encounters)
        if kind == "patients":
            who = np.unique(self.patients, return_inverse=True)[1]
            return np.lexsort((self.encounters, rng.permutation(int(who.max()) + 1)[who]))
        alike = np.lexsort((rng.random(n), self.inputs[kind]))
        batch = np.arange(n) // BATCH
        return alike[np.argsort(rng.permutation(int(batch.max()) + 1)[batch], kind="stable")]

    def stream(self, order: np.ndarray, windows: int = WINDOWS, measured: np.ndarray | None = None) -> DriftState:
        """What the detector says after so many windows, or at its alarm."""
        measured, state = self.measured if measured is None else measured, DriftState(THRESHOLD)
        for k in range(windows):
            rows = order[k * WINDOW : (k + 1) * WINDOW]
            blocks = blocks_of(self.patients[rows].tolist(), BLOCK)
            means = np.zeros((int(blocks.max()) + 1, measured.shape[1]))
            np.add.at(means, blocks, measured[rows])
            state = update_drift(state, self.statistics, means / np.bincount(blocks)[:, np.newaxis], len(rows))
            if state.is_alarmed:
                break
        return state


@pytest.fixture(scope="module")
def held_out() -> Rows:
    """Calibration and test patients of the configured split beside the reference of the training patients."""
    config, version = load_config(ROOT / "configs" / "diabetes130.yaml"), get_feature_version("v2")
    frame = read_source(DATA, "diabetes130", "v2").frame
    columns, patients = to_arrays(frame, version), frame["patient_nbr"].to_numpy(dtype=np.int64)
    part, features = split_of(patients, config.split), features_of(version.columns)
    train, kept = part == "train", np.isin(part, ["calibration", "test"])
    of_train = {column.name: columns[column.name][train] for column in features}
    raw = reference_bytes(features, of_train, patients[train], np.full((50, 1), 0.5), np.arange(50), (0,))
    statistics = BlockStatistics.of(ReferenceWindow.read(raw, features))
    inputs = {column.name: columns[column.name][kept] for column in features}
    encounters = frame["encounter_id"].to_numpy(dtype=np.int64)[kept]
    return Rows(statistics, inputs, patients[kept], encounters, statistics.rows(inputs))


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_order_of_unchanged_rows_raises_false_alarms(held_out: Rows, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    alarms = sum(held_out.stream(held_out.order(kind, rng)).is_alarmed for _ in range(STREAMS))
    assert alarms <= 0.10 * STREAMS, MOST


def test_the_order_of_encounters_has_a_drift_of_its_own(held_out: Rows) -> None:
    """In the order of their numbers, where patients went after discharge changes over the years: no false alarm."""
    order = held_out.order("encounter_id", np.random.default_rng(0))
    state = held_out.stream(order)
    assert state.is_alarmed
    assert "discharge_disposition_id" in state.leading
    place = held_out.inputs["discharge_disposition_id"][order]
    early, late = place[: len(place) // 4], place[-len(place) // 4 :]
    shares = [np.bincount(part, minlength=30) / len(part) for part in (early, late)]
    assert np.abs(shares[0] - shares[1]).max() > 0.05


def _with_unit_error(held_out: Rows, name: str, factor: float) -> np.ndarray:
    """Every statistic of every row, one column in another unit."""
    statistics, columns = held_out.statistics, [s.column for s in held_out.statistics.statistics]
    window = statistics.window.only([name])
    alone = BlockStatistics(window, tuple(s for s in statistics.statistics if s.column == name))
    found: Any = held_out.measured.copy()
    found[:, np.array(columns) == name] = alone.rows({name: held_out.inputs[name] * factor})
    return found


@pytest.mark.parametrize("factor", [10.0, 1_000.0, 2.2046, 1 / 2.2046])
@pytest.mark.parametrize("kind", ["random", "discharge_disposition_id", "number_inpatient"])
def test_a_unit_error_in_any_number_is_found_within_two_windows_of_a_new_model(
    held_out: Rows, kind: str, factor: float
) -> None:
    """From the first answer on: nothing was learned of this stream before."""
    references = held_out.statistics.window.columns
    numbers = [n for n, column in references.items() if isinstance(column, NumberReference)]
    if factor < 10.0:  # pounds for kilograms, or the other way: no column is a weight, but some are never near zero
        numbers = [n for n in numbers if float(np.mean(held_out.inputs[n] == 0)) < 0.1]
    assert len(numbers) == (8 if factor >= 10.0 else 4)
    for name in numbers:
        measured = _with_unit_error(held_out, name, factor)
        for seed in SEEDS:
            order = held_out.order(kind, np.random.default_rng(seed))
            state = held_out.stream(order, 2, measured)
            assert state.is_alarmed, (name, seed)
            assert state.leading[0] == name
