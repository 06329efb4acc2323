"""A registered model is copied to W&B without a server, and read back by W&B's own reader."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ml_core.base.errors import ConfigError, RegistryError
from ml_core.lab.config import TrackingConfig
from ml_core.lab.registry.tracking import MIRROR_TAG, register
from ml_core.lab.registry.wandb_mirror import check_mirror
from ml_core.serve.model.manifest import MANIFEST_FILE
from tests.homes import road_config, road_model, road_rows, table_home
from tests.oracles import ROOT, oracle

HERE = Path(__file__).parent
MIRRORED = road_config(tracking={"mirror": "wandb"})


def test_run_metrics_plots_and_artefact_are_read_back(tmp_path):
    home = tmp_path / "home"
    place = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = oracle("python", HERE / "mirrored.py", home, name="wandb", settings=place)
    assert done.returncode == 0, done.stderr[-3_000:]
    first, again = json.loads(done.stdout.splitlines()[-1])
    assert (first["is_new"], again["is_new"]) == (True, False)
    assert first["tags"][MIRROR_TAG] == again["tags"][MIRROR_TAG] == f"wards/{first['run']}"
    (log,) = home.glob("wandb/wandb/offline-run-*/*.wandb")  # the second call found the copy

    records = read_back(log)
    summary: dict[str, Any] = {}
    for record in records:
        summary |= record.get("summary", {}).get("update", {})
    model = road_model()
    for name, value in model.evaluation.metrics.items():
        assert summary[name] == pytest.approx(value, rel=1e-12)
    plots = {name for name in summary if name.startswith("plots/") and name.endswith(".path")}
    assert plots == {f"plots/{name}.path" for name in ("calibration_curve", "roc", "set_sizes", "coverage")}
    for plot in plots:
        assert (log.parent / "files" / summary[plot]).read_bytes().startswith(b"\x89PNG")
    (run,) = (record["run"] for record in records if "run" in record)
    config = run["config"]["update"]
    assert (config["model_hash"], config["max_depth"]) == (model.model_hash, 3)
    (artifact,) = (record["artifact"] for record in records if "artifact" in record)
    files = {each["path"]: each for each in artifact["manifest"]["contents"]}
    assert files.keys() == {MANIFEST_FILE, *model.bundle.manifest.files}
    staged = Path(files[MANIFEST_FILE]["local_path"])
    assert staged.is_relative_to(home)
    assert staged.read_bytes() == (model.folder / MANIFEST_FILE).read_bytes()
    assert not (tmp_path / ".local").exists()  # nothing outside the home


def read_back(log: Path) -> list[dict[str, Any]]:
    found = oracle("python", HERE / "wandb_records.py", log, name="wandb")
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


# --- without the library ------------------------------------------------------------------------------------------


def test_a_missing_library_is_told_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_mirror(TrackingConfig())
    with pytest.raises(ConfigError, match=r"wandb is not installed: pip install 'surety-bundle\[wandb\]'"):
        check_mirror(TrackingConfig(mirror="wandb"))


def test_a_copy_that_fails_leaves_the_version_and_is_tried_again(tmp_path, monkeypatch):
    def unreachable(**facts: Any) -> Any:
        raise ConnectionError("no way there")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Settings=dict, init=unreachable))
    home = table_home(tmp_path / "home")
    for _ in range(2):
        with pytest.raises(RegistryError, match=r"no way there.*is registered in MLflow"):
            register(home.registry, road_model(), MIRRORED, road_rows(), {})
    version = home.challenger()
    assert (version.version, version.model_hash) == ("1", road_model().model_hash)
    assert MIRROR_TAG not in version.tags
