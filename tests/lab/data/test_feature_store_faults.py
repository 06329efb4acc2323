"""A writer killed anywhere leaves the feature store whole."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ml_core.lab.data.feature_store import FeatureStore

ROOT = Path(__file__).parents[3]
ROWS = 400
WRITER = f"""
import sys
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.data.feature_store import FeatureStore
store, mode, frame = FeatureStore(__import__("pathlib").Path(sys.argv[1])), sys.argv[2], make_cohort({ROWS}, seed=1)[0]
i = int(sys.argv[3])
while True:
    i += 1
    print(i, flush=True)
    getattr(store, mode)("v1", frame.assign(age=i % 120, patient_id=f"W{{i}}"))
"""


def kill_a_writer(home, mode, start, after, patience_s):
    """Starts a writer, waits for its `after`-th write to begin, then kills it within the patience; the last write begun."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(home), mode, str(start)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        begun = start
        for _ in range(after):
            begun = int(child.stdout.readline())
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=patience_s)  # anywhere within a write
    finally:
        os.kill(child.pid, signal.SIGKILL)
        rest = child.communicate()[0].split()
    return int(rest[-1]) if rest else begun


def batches(frame):
    """Each write put 400 rows of one age and one patient; the patients in order of the rows."""
    assert len(frame) % ROWS == 0
    for at in range(0, len(frame), ROWS):
        batch = frame.iloc[at : at + ROWS]
        assert batch["patient_id"].nunique() == batch["age"].nunique() == 1
    return [int(name[1:]) for name in frame["patient_id"].iloc[::ROWS]]


@pytest.mark.parametrize("mode", ["overwrite", "append"])
def test_a_writer_killed_anywhere_leaves_complete_versions_and_the_next_write_succeeds(tmp_path, mode):
    store, rng, last = FeatureStore(tmp_path), random.Random(7), 0
    for _ in range(5):
        begun = kill_a_writer(tmp_path, mode, last, after=rng.randint(1, 3), patience_s=rng.uniform(0.001, 0.12))
        if not (tmp_path / "v1" / "_delta_log" / f"{0:020}.json").exists():
            last = begun
            continue  # killed before its first commit: there is no table, and nothing to be broken
        for version in range(store.latest("v1") + 1):
            written = batches(store.read("v1", version))
            assert written == sorted(set(written))
            assert len(written) == 1 or mode == "append"
            assert written[-1] <= begun
        last = begun
    frame = store.read("v1")
    store.overwrite("v1", frame.iloc[:ROWS].assign(patient_id="after"))
    assert set(store.read("v1")["patient_id"]) == {"after"}


def test_files_a_dead_writer_left_behind_are_never_read(tmp_path):
    from ml_core.lab.data.cohort import make_cohort

    store = FeatureStore(tmp_path)
    store.overwrite("v1", make_cohort(ROWS, seed=1)[0])
    (data,) = (tmp_path / "v1").glob("*.parquet")
    (tmp_path / "v1" / "part-00000-orphan.snappy.parquet").write_bytes(data.read_bytes())
    (tmp_path / "v1" / "part-00001-cut.snappy.parquet").write_bytes(data.read_bytes()[:99])
    (tmp_path / "v1" / "_delta_log" / "_commit_0b1c.json.tmp").write_text('{"add":')
    assert len(store.read("v1")) == ROWS
    assert store.append("v1", make_cohort(ROWS, seed=2)[0]) == 1
    assert len(store.read("v1")) == 2 * ROWS


def test_two_writers_at_once_lose_nothing(tmp_path):
    code = """
import sys
from pathlib import Path
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.data.feature_store import FeatureStore
store, who, frame = FeatureStore(Path(sys.argv[1])), sys.argv[2], make_cohort(50, seed=1)[0]
for i in range(6):
    store.append("v1", frame.assign(patient_id=f"{who}{i}"))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), who], cwd=ROOT) for who in "AB"]
    assert [w.wait(timeout=120) for w in writers] == [0, 0]
    frame = FeatureStore(tmp_path).read("v1")
    assert len(frame) == 2 * 6 * 50
    # every append stands together, in the order of its writer
    order = frame["patient_id"].iloc[::50].tolist()
    assert frame["patient_id"].tolist() == [name for name in order for _ in range(50)]
    for who in "AB":
        assert [name for name in order if name.startswith(who)] == [f"{who}{i}" for i in range(6)]
