"""Stores that cannot be reached: the rollout's file and home (B48), and the registry (F9)."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_core.serve.rollout import changes
from tests.faults.figures import record
from tests.faults.load import Load, failed
from tests.faults.place import RECORDS, FaultPlace, until

BODIES = [{"features": r} for r in RECORDS]


def test_f9_registry_out_of_reach_at_start_is_not_even_asked(place: FaultPlace) -> None:
    with place.served(MLFLOW_TRACKING_URI="http://127.0.0.1:9") as served:
        assert served.predict()["fallback_used"] is False
        assert served.ready_s <= 10
        record(
            "F9 registry unreachable at start",
            "ready within 10 s with the promoted model, since serving never asks it",
            {"ready_s": round(served.ready_s, 2)},
        )


@pytest.mark.parametrize("service", ["service:Surety", "service:SuretyIsolated"])
def test_b48_rollout_file_or_home_lost_while_running_is_said_once_and_calls_go_on(
    place: FaultPlace, service: str
) -> None:
    workers, state = 2, place.home / "rollout" / f"{place.model}.json"
    with place.served(service, SURETY_WORKERS=str(workers), SURETY_MISSING_WORKER_S="3") as served:
        until(lambda: len(place.reports()) == workers, 15, "the workers report")
        place.obeyed(place.change(changes.flags({"shadow_share": 0.5})), workers=workers)
        whole = state.read_bytes()
        lives = set()

        def endured(seconds: float) -> None:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                lives.update({served.get("/livez").status_code, served.get("/readyz").status_code})
                time.sleep(0.1)

        with Load(served.address, bodies=BODIES, rate=100, connections=16) as load:
            time.sleep(1)
            state.unlink()
            endured(2)
            state.write_text("{half of a st")
            endured(2)
            state.unlink()
            state.mkdir()
            endured(2)
            state.rmdir()
            state.write_bytes(whole)
            # Home gone as a whole, with a file in its place: nothing can be read or written for longer than a worker may
            # be missing.
            away = place.folder / "away"
            place.home.rename(away)
            place.home.write_text("not a folder")
            endured(9)
            counts = {
                what: served.metric("surety_home_failures_total", what=what)
                for what in ("rollout.gone", "rollout.unreadable", "report.not_written")
            }
            place.home.unlink()
            away.rename(place.home)
            obeyed_s = place.obeyed(place.change(changes.flags({"shadow_share": 1.0})), workers=workers)
            time.sleep(0.5)
        flagged = Counter(s.reason for s in load.seen if s.flagged)
        assert failed(load.seen) == []
        assert flagged == {}
        assert lives == {200}
        assert all(count >= 1 for count in counts.values()), counts
        warned = {what: len(served.logged(what)) for what in counts}
        # Each worker warns once; a runner once for each of the two ways in which a file was no state.
        runner = 2 if service.endswith("Isolated") else 0
        assert all(1 <= n <= workers + runner for n in warned.values()), warned
    record(
        f"B48 rollout file deleted, garbled, a folder; home gone ({service.rpartition(':')[2]})",
        "calls go on as before, each worker warns once, failures are counted, the next change is obeyed",
        {
            "requests": len(load.seen),
            "failed": 0,
            "counted": {k: int(v) for k, v in counts.items()},
            "warnings": warned,
            "next_change_obeyed_s": round(obeyed_s, 2),
        },
    )


@pytest.fixture
def small_disk(place: FaultPlace) -> Iterator[Path]:
    """The place's home on a separate disk of 32 MB, which holds the prediction log until a test fills it."""
    kept = place.folder / "kept"
    place.home.rename(kept)
    place.home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place.home)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        for folder in kept.iterdir():
            shutil.copytree(folder, place.home / folder.name)
        yield place.home
    finally:
        subprocess.run(["umount", "-l", str(place.home)], check=True)


def test_b48_full_and_read_only_disk_do_not_touch_the_answers(place: FaultPlace, small_disk: Path) -> None:
    def read_only() -> None:
        """Applies to files opened from now on; Linux keeps the right to write to open files, such as the log's."""
        subprocess.run(["mount", "--bind", str(small_disk), str(small_disk)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(small_disk)], check=True)

    with place.served(SURETY_MISSING_WORKER_S="3") as served:
        until(lambda: place.reports(), 10, "the worker reports")
        with Load(served.address, bodies=BODIES, rate=100, connections=16) as load:
            time.sleep(1)
            filler = small_disk / "filler"
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"\0" * 4096)
                except OSError:
                    pass
            time.sleep(8)
            own = served.status()["workers"]["processes"][0]  # from memory: its report cannot be written
            assert own["alive"]
            place.surety("rollout", "flag", "shadow_share=0.25")  # the reserve makes room for it
            until(lambda: served.status()["flags"]["shadow_share"] == 0.25, 5, "obeyed on a full disk")
            full = served.metric("surety_home_failures_total", what="report.not_written")
            assert served.get("/livez").status_code == 200
            filler.unlink()
            until(lambda: place.reports(), 5, "reports again")
            place.obeyed(place.change(changes.flags({"shadow_share": 0.5})))
            read_only()
            time.sleep(8)
            read_only = served.metric("surety_home_failures_total", what="report.not_written") - full
            assert served.get("/livez").status_code == 200
            subprocess.run(["umount", str(small_disk)], check=True)
            until(lambda: place.reports(), 5, "reports again")
        assert failed(load.seen) == []
        assert not any(s.flagged for s in load.seen)
        assert full >= 1
        assert read_only >= 1
    record(
        "B48 disk of SURETY_HOME full, then read-only",
        "calls go on, failures are counted, a change is obeyed on the full disk and after the read-only one",
        {"requests": len(load.seen), "failed": 0, "counted_full": int(full), "counted_read_only": int(read_only)},
    )


def test_b48_read_only_home_at_start_still_serves_the_promoted_model(place: FaultPlace, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with place.served() as served:
        assert served.predict()["fallback_used"] is False
        time.sleep(1.5)
        assert served.metric("surety_home_failures_total") >= 1
        assert served.get("/readyz").status_code == 200
        assert len(served.logged("rollout.not_written")) == 1
    record("B48 home read-only at start", "ready, serves the promoted model, says once that nothing can be changed", 1)
