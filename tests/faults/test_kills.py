"""Writers that are killed at a random moment (F12) leave the old or the new state, never a part of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import Any

from tests.faults.figures import record
from tests.faults.place import FaultPlace

SEED = 12


def found_after(place: FaultPlace, what: str, times: int) -> dict[str, Any]:
    temporary = place.folder / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.killing", what, str(times), str(SEED)],
        cwd=place.run, env=place.environment(TMPDIR=str(temporary)), capture_output=True, text=True, timeout=1_500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.partition("FOUND")[2])  # type: ignore[no-any-return]


def test_f12_import_killed_two_hundred_times_leaves_a_whole_model_or_none(
    stores: FaultPlace, place: FaultPlace
) -> None:
    for name in ("mlartifacts", "mlflow.db"):
        source = stores.home / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, place.home / name)
    found = found_after(place, "import", 200)
    assert found["killed at work"] >= 100
    outcomes = ("new whole", "new not there", "new refused as damaged")
    assert sum(found.get(outcome, 0) for outcome in outcomes) == 200
    assert [outcome for outcome in found if outcome.startswith("listing broken")] == []
    record(
        "F12 kill -9 of `import-model`",
        "the old model always loads; the new one is whole, missing, or refused as damaged until it is imported again",
        found,
    )


def test_f12_rollout_changes_killed_two_hundred_times_leave_the_state_before_or_after(place: FaultPlace) -> None:
    found = found_after(place, "change", 200)
    assert found["killed at work"] == 200
    assert found["champion 1"] + found["champion 2"] == 200
    record(
        "F12 kill -9 of a rollout change",
        "the state is the one before or the one after, and the journal knows it",
        found,
    )
