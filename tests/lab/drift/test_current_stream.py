from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.lab.drift import current_stream
from ml_core.lab.drift.current_window import summarised
from ml_core.lab.drift.detect import judged
from ml_core.lab.drift.drift_rules import Limits
from ml_core.lab.drift.reference_window import ReferenceWindow
from tests.lab.drift.windows import COLUMNS, arrays, published, summarised_stream

ROOT = Path(__file__).resolve().parents[3]
RULES = ("ks_mean_shift", "extended")


def raw(n, seed):
    columns = arrays(n, seed)
    return pd.DataFrame({**columns, "dose": np.array(COLUMNS[2].levels, dtype=object)[columns["dose"]]})


def pieces(frame, size):
    return lambda: (frame.iloc[start : start + size] for start in range(0, len(frame), size))


def both_ways(window, frame, size, rule):
    extended = rule == "extended"
    whole, streamed = summarised(window, frame, extended=extended), summarised_stream(
        window, pieces(frame, size), extended=extended
    )  # fmt: skip
    return (judged(window, found, Limits(), rule) for found in (whole, streamed))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [1, 37, 5_000])
@pytest.mark.parametrize("kind", ["rows", "published"])
def test_a_stream_says_what_all_rows_at_once_say(rule, size, kind):
    window = (
        ReferenceWindow.read(published(20_000), COLUMNS)
        if kind == "published"
        else ReferenceWindow.of(raw(700, 1), [c.name for c in COLUMNS], COLUMNS)
    )
    now = raw(600, 2)
    now["age"] += 4
    for whole, streamed in zip(*both_ways(window, now, size, rule), strict=True):
        assert (whole.ks_statistic, whole.state, whole.flags) == (
            streamed.ks_statistic,
            streamed.state,
            streamed.flags,
        )
        assert np.isclose(*(np.float64(r.current_mean) for r in (whole, streamed)), rtol=1e-12, equal_nan=True)
        assert whole.missing_current == streamed.missing_current
        for ours, theirs in zip(whole.findings, streamed.findings, strict=True):
            assert ours.p_value == pytest.approx(theirs.p_value, rel=1e-6)


VALUES = st.lists(
    st.integers(-4, 4).map(float) | st.floats(-10, 10) | st.just(np.nan), min_size=30, max_size=90
)  # fmt: skip


@given(VALUES, VALUES, st.integers(1, 40))
@settings(deadline=None)
def test_spread_is_exact_and_w1_a_lower_bound_not_below_the_shift(reference, current, size):
    window = ReferenceWindow.of({"x": np.array(reference)}, ["x"])
    frame = pd.DataFrame({"x": current})
    whole = summarised(window, frame, extended=True)["x"]
    streamed = summarised_stream(window, pieces(frame, size), extended=True)["x"]
    assert (whole.count, whole.missing, whole.distance) == (streamed.count, streamed.missing, streamed.distance) or (
        whole.distance.numerator == streamed.distance.numerator
    )
    assert (whole.cells is None) == (streamed.cells is None)
    if whole.cells is not None:
        assert whole.cells.tolist() == streamed.cells.tolist()
    if whole.spread is not None:
        assert streamed.spread.mean == pytest.approx(whole.spread.mean, rel=1e-9, abs=1e-9)
        assert streamed.spread.squares == pytest.approx(whole.spread.squares, rel=1e-6, abs=1e-6)
        assert streamed.wasserstein <= whole.wasserstein + 1e-9
        assert streamed.wasserstein >= abs(np.nanmean(reference) - np.nanmean(current)) - 1e-9


@given(
    st.lists(st.floats(), min_size=30, max_size=60),
    st.lists(st.floats(), min_size=30, max_size=60),
    st.sampled_from(RULES),
)
@settings(deadline=None)
def test_any_numbers_end_in_the_same_state_in_a_stream(reference, current, rule):
    window = ReferenceWindow.of({"x": np.array(reference)}, ["x"])
    (whole,), (streamed,) = both_ways(window, pd.DataFrame({"x": current}), 11, rule)
    assert streamed.ks_statistic == whole.ks_statistic
    assert {f for f in streamed.flags if f != "overflow"} == {f for f in whole.flags if f != "overflow"}
    assert streamed.tested == whole.tested


def test_a_crowded_bin_is_thinned_and_the_median_hardly_moves(monkeypatch):
    monkeypatch.setattr(current_stream, "_MOST_KEPT", 500)
    rng = np.random.default_rng(0)
    window = ReferenceWindow.of({"x": rng.normal(size=200)}, ["x"])
    frame = pd.DataFrame({"x": rng.normal(50, 1, 40_000)})  # all beyond the last point
    whole = summarised(window, frame, extended=True)["x"].spread
    streamed = summarised_stream(window, pieces(frame, 1_000), extended=True)["x"].spread
    assert streamed.mean == pytest.approx(whole.mean, rel=0.15)  # from 500 values: within 3.5 standard errors
    assert streamed.sd == pytest.approx(whole.sd, rel=0.15)


def test_a_large_common_offset_costs_no_digits():
    rng = np.random.default_rng(0)
    window = ReferenceWindow.of({"x": 1e9 + rng.normal(size=500)}, ["x"])
    frame = pd.DataFrame({"x": 1e9 + rng.normal(size=400)})
    whole = summarised(window, frame, extended=True)["x"].spread
    streamed = summarised_stream(window, pieces(frame, 50), extended=True)["x"].spread
    assert streamed.squares == pytest.approx(whole.squares, rel=1e-6)


_PEAK = r"""
import re, sys
from pathlib import Path
import numpy as np
from ml_core.lab.drift.detect import judged
from ml_core.lab.drift.reference_window import ReferenceWindow
from ml_core.lab.drift.drift_rules import Limits
from ml_core.lab.batch.engines import InProcess
from ml_core.lab.drift.drift_stream import summarised_table
from ml_core.lab.drift.drift_table import DriftTable
names = ["x0", "x1", "x2"]
rng = np.random.default_rng(0)
window = ReferenceWindow.of({n: rng.normal(size=10_000) for n in names}, names)
file = DriftTable(Path(sys.argv[1]))
reports = judged(window, summarised_table(window, file, InProcess(), extended=True)[0], Limits(), "extended")
assert {r.state for r in reports} == {"ok"} and reports[0].n_current == file.rows
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def peak_mb(path, groups, rows):
    rng = np.random.default_rng(1)
    schema = pa.schema([(f"x{i}", pa.float64()) for i in range(3)])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
        for _ in range(groups):
            file.write_table(pa.table({name: rng.normal(size=rows) for name in schema.names}))
    told = subprocess.run(
        [sys.executable, "-c", _PEAK, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(told.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    small = peak_mb(tmp_path / "small.parquet", groups=2, rows=65_536)
    many_groups = peak_mb(tmp_path / "many.parquet", groups=32, rows=65_536)
    one_group = peak_mb(tmp_path / "one.parquet", groups=1, rows=32 * 65_536)
    assert (tmp_path / "many.parquet").stat().st_size > 48e6
    assert many_groups - small < 24
    assert one_group - small < 24


def test_unlisted_levels_of_every_piece_are_counted():
    window = ReferenceWindow.of(pd.DataFrame({"x": ["a", "b"] * 50}), ["x"])
    frame = pd.DataFrame({"x": ["a", "new"] * 40})

    streamed = summarised_stream(window, pieces(frame, 20), extended=True)["x"]

    assert (streamed.other, streamed.count, streamed.rows) == (40, 80, 80)
