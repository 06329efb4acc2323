"""Memory of a scoring run and of a drift check does not grow with the rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.lab.past_answers.scoring import cohort_records
from tests.test_import_rule import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process from /proc"),
]

GROUP = 1 << 20
"""Rows of a row group, as many as pyarrow writes by default."""

_SCORE = r"""
import re, sys
from pathlib import Path
from ml_core.lab.batch.table_places import find_tables
from ml_core.lab.past_answers.folder_scoring import score_folder
from tests.lab.past_answers.scoring import loaded
score_folder(find_tables(sys.argv[1]), sys.argv[2], loaded())
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""
_DRIFT = r"""
import re, sys
from pathlib import Path
from ml_core.lab.config import DriftConfig
from ml_core.lab.drift.drift_check import check_files
from ml_core.serve.features.versions import get_feature_version
found = check_files(
    Path(sys.argv[2]), Path(sys.argv[1]), DriftConfig(rule="extended"), get_feature_version("v1").features, patient="visit"
)
assert found.features_tested == 4
print(int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders of few rows and of many: one file of two row groups, under several names."""
    place = tmp_path_factory.mktemp("rows")
    few = pa.Table.from_pylist(cohort_records(4_000))
    group = pa.concat_tables([few] * (GROUP // 4_000 + 1)).slice(0, GROUP)
    group = group.append_column("visit", pa.array(range(GROUP)))
    pq.write_table(group, place / "reference.parquet", row_group_size=50_000)
    with pq.ParquetWriter(place / "rows.parquet", group.schema) as writer:
        for _ in range(2):
            writer.write_table(group, row_group_size=GROUP)
    for name, files in (("few", 2), ("many", 8)):
        (place / name).mkdir()
        for number in range(files):
            os.link(place / "rows.parquet", place / name / f"{number:02d}.parquet")
    return place


def peak_mb(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def test_scoring_many_rows_takes_the_memory_of_few(places):
    few, many = (peak_mb(_SCORE, places / name, places / f"{name}-answers") for name in ("few", "many"))
    assert many < 1_000
    assert many < 1.1 * few + 20  # 17 million rows and not 4: any list of rows or answers would show
    parts = sorted((places / "many-answers").glob("part-*"))
    assert sum(pq.read_metadata(part).num_rows for part in parts) == 16 * GROUP


def test_a_drift_check_of_many_rows_takes_the_memory_of_few(places):
    few, many = (peak_mb(_DRIFT, places / name, places / "reference.parquet") for name in ("few", "many"))
    assert many < 1_000
    assert many < 1.1 * few + 20
