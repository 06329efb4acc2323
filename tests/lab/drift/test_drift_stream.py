"""A folder of rows is judged as one file with the same rows, by whoever looks at the pieces."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import DataError
from ml_core.lab.batch.engines import InProcess
from ml_core.lab.batch.process_pool import ProcessPool
from ml_core.lab.config import DriftConfig
from ml_core.lab.drift import drift_check, drift_table, repeat_counts
from ml_core.lab.drift.current_window import independent_share
from ml_core.lab.drift.drift_check import check_files
from ml_core.lab.drift.repeat_counts import RepeatCounts
from tests.lab.drift.windows import COLUMNS, arrays

HERE = InProcess()
CONFIGS = [DriftConfig(rule="ks_mean_shift"), DriftConfig(rule="extended")]


def raw(n, seed):
    columns = arrays(n, seed)
    frame = pd.DataFrame({**columns, "dose": np.array(COLUMNS[2].levels, dtype=object)[columns["dose"]]})
    return frame.assign(patient=np.random.default_rng(seed).integers(0, n // 3, n))


@pytest.fixture(scope="module", params=["parquet", "csv"])
def files(request, tmp_path_factory):
    """A reference, a file of rows, and a folder with the same rows in three files."""
    place, kind = tmp_path_factory.mktemp(request.param), request.param
    now = raw(900, 2)
    now["age"] += 6

    def write(frame, name):
        (place / name).parent.mkdir(exist_ok=True)
        if kind == "parquet":
            pq.write_table(
                pa.Table.from_pandas(frame, preserve_index=False), place / f"{name}.parquet", row_group_size=100
            )
        else:
            frame.to_csv(place / f"{name}.csv", index=False)

    write(raw(1_000, 1), "then")
    write(now, "now")
    for name, rows in {"june/1": slice(0, 333), "june/2": slice(333, 340), "june/3": slice(340, 900)}.items():
        write(now[rows], name)
    return place / f"then.{kind}", place / f"now.{kind}", place / "june"


def checked(reference, current, config, engine=HERE):
    return check_files(reference, current, config, COLUMNS, patient="patient", engine=engine)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.rule)
def test_a_folder_gives_the_report_of_one_file_with_its_rows(files, config):
    then, now, june = files
    assert asdict(checked(then, june, config)) == asdict(checked(then, now, config))
    assert checked(then, june, config).features_drifted > 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.rule)
def test_read_in_pieces_it_is_the_same_report_up_to_rounding(files, config, monkeypatch):
    then, now, june = files
    whole = asdict(checked(then, now, config))
    monkeypatch.setattr(drift_check, "_IN_MEMORY_CELLS", 0)
    monkeypatch.setattr(drift_table, "PIECE_ROWS", 150)
    for path in (now, june):
        alike(json.loads(json.dumps(asdict(checked(then, path, config)))), json.loads(json.dumps(whole)))


def alike(found, wanted, key=""):
    """Equal but for rounding; the effect of a number is W1, of a stream a lower bound."""
    assert type(found) is type(wanted) or found is None or wanted is None, key
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for each, value in wanted.items():
            alike(found[each], value, each)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), key
        for one, other in zip(found, wanted, strict=True):
            alike(one, other, key)
    elif isinstance(wanted, float) and not math.isnan(wanted):
        low = 0.9 if key == "effect" else 1 - 1e-9
        assert low * abs(wanted) - 1e-12 <= abs(found) <= abs(wanted) * (1 + 1e-9) + 1e-12, key
    elif not isinstance(wanted, float):
        assert found == wanted, key


def test_a_pool_sees_what_one_process_sees_to_the_last_bit(files, monkeypatch, tmp_path):
    then, _, june = files
    monkeypatch.setattr(drift_check, "_IN_MEMORY_CELLS", 0)
    monkeypatch.setattr(drift_table, "PIECE_ROWS", 150)
    here = checked(then, june, CONFIGS[1])
    monkeypatch.chdir(june.parent)
    there = checked(then, june.relative_to(june.parent), CONFIGS[1], ProcessPool(2))
    assert asdict(there) == asdict(here)


def test_a_folder_may_be_the_reference(files):
    then, now, june = files
    of_file, of_folder = (checked(side, then, CONFIGS[0]) for side in (now, june))
    assert asdict(of_folder) == asdict(of_file)


def test_a_table_that_lacks_a_column_is_refused(files):
    then, _, june = files
    lacking = june / f"4{then.suffix}"
    frame = raw(40, 3).drop(columns="glucose")
    frame.to_parquet(lacking) if then.suffix == ".parquet" else frame.to_csv(lacking, index=False)
    try:
        with pytest.raises(DataError, match=r"june/4\.\w+: has no column glucose"):
            checked(then, june, CONFIGS[0])
    finally:
        lacking.unlink()


# --- people -------------------------------------------------------------------------------------------------------

NAMES = st.lists(st.one_of(st.none(), st.integers(0, 9)), min_size=1, max_size=60)


@settings(deadline=None)
@given(names=NAMES, cuts=st.lists(st.integers(0, 60), max_size=3), as_text=st.booleans())
def test_people_counted_in_pieces_are_the_people_of_all_rows(names, cuts, as_text):
    people = [None if name is None else f"P{name}" if as_text else name for name in names]
    borders = sorted({0, len(people), *(cut for cut in cuts if cut < len(people))})
    together = RepeatCounts()
    for start, end in pairwise(borders):
        piece = RepeatCounts()
        piece.add(pd.Series(people[start:end]))  # numbers with nulls among them are floats here
        together.include(piece)
    assert independent_share(together) == independent_share(people)
    assert independent_share(together, people) == independent_share(people, people)


def test_of_very_many_people_a_share_stands_for_all(monkeypatch):
    monkeypatch.setattr(repeat_counts, "_MOST_PEOPLE", 4_096)
    rng = np.random.default_rng(5)
    people = pd.Series(rng.integers(0, 200_000, 600_000))
    counts = RepeatCounts()
    for start in range(0, len(people), 50_000):
        counts.add(people[start : start + 50_000])
    squares = int((people.value_counts() ** 2).sum())
    assert len(counts._people) <= 4_096
    # of m people, m - k chosen by hash: the sum of squares of Poisson(3) counts, 12 +- 9.2 each; six standard errors
    assert counts.squares == pytest.approx(squares, rel=6 * (9.2 / 12 + 1) / math.sqrt(2_048))
