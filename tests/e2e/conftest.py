"""Runs the commands that make and promote a model, once for the example and once for the hospital data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.pythons import installed, new_python
from tests.e2e.workplace import ROOT, Workplace

DATA = ROOT.parent / "shared" / "data" / "diabetes130.parquet"


def written_config(place: Workplace, name: str, **changes: dict[str, object]) -> Path:
    """A configuration of the project with some sections changed, written to the folder of the place."""
    raw = yaml.safe_load((ROOT / "configs" / name).read_text())
    for section, values in changes.items():
        raw[section] = {**raw[section], **values}
    path = place.run / "configs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(raw))
    return path


def walk(place: Workplace, config: Path) -> None:
    """Run the README's commands one after the other in one process: features, training, gate, promotion, import."""
    place.in_turn(
        ["features", "run", "--config", str(config)],
        ["train", "--config", str(config)],
        ["validate", "--model", place.model, "--config", str(config)],
        ["promote", "--model", place.model, "--config", str(config)],
        ["import-model", "--model", place.model],
    )


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A place with Diabetes 130 promoted and imported; fewer trees than in the configuration, to save time."""
    if not DATA.exists():
        pytest.skip(f"needs the hospital data at {DATA} (surety data fetch)")
    place = Workplace(tmp_path_factory.mktemp("hospital"), "readmission_diabetes130")
    training = {"rounds": 80, "params": {"max_depth": 4, "learning_rate": 0.15, "min_child_weight": 20}}
    config = written_config(place, "diabetes130.yaml", training=training, data={"source": str(DATA)})
    walk(place, config)
    return place


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python whose only project code is the wheel's."""
    python = new_python(tmp_path_factory.mktemp("installed"), with_libraries=True)
    return Path(installed(python, "--no-deps", "--no-index", str(wheel)))
