"""Other people's tools, in environments of their own: what they write, accept and find is what ours must be."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from ml_core.base.files import locked

ROOT = Path(__file__).resolve().parents[1]
OF_SLOW_TESTS = ("wandb", "nannyml", "dask", "kserve", "mlserver")
NAMES = ("oracles", "learners", "cluster", "cluster-server", "deploy", "triton", *OF_SLOW_TESTS)
"""Each is build/<name>, made from requirements/<name>.lock by the first test that needs it; all but those of slow tests by `make oracles` too."""

ON_TOP = ("learners", "cluster", "wandb", "dask")
"""Libraries that tests import: only what is not in the environment of the tests is installed."""


@cache
def _problem(name: str) -> str:
    """What keeps the tools from being here; "" where they are."""
    done = ROOT / "build" / name / "done"
    with locked(ROOT / "build" / f"{name}.lock"):  # the halves of `make test` run side by side
        lock = hashlib.sha256((ROOT / "requirements" / f"{name}.lock").read_bytes()).hexdigest()
        return "" if done.is_file() and done.read_text() == lock else _made(done, lock)


def _made(done: Path, lock_hash: str) -> str:
    place = done.parent
    shutil.rmtree(place, ignore_errors=True)  # of another lock, or of a run that was killed
    made = subprocess.run([sys.executable, "-m", "venv", place], capture_output=True, text=True)
    if made.returncode == 0 and place.name in ON_TOP:
        (_packages(place) / "tests.pth").write_text("\n".join(site.getsitepackages()))
    if made.returncode == 0:
        # Without what a lock leaves out on purpose (requirements/deploy-without.txt); the others are whole.
        pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        lock = ["--require-hashes", "-r", ROOT / "requirements" / f"{place.name}.lock"]
        made = subprocess.run([*pip, *lock], capture_output=True, text=True)
    if made.returncode == 0:
        done.write_text(lock_hash)
        return ""
    shutil.rmtree(place, ignore_errors=True)
    return (made.stderr.strip().splitlines() or ["python -m venv failed"])[-1]


def _packages(place: Path) -> Path:
    return next((place / "lib").glob("python*")) / "site-packages"


def _demand(name: str) -> None:
    """Skip the test where an environment cannot be made, and fail it in CI."""
    if _problem(name):
        told = f"the tools of requirements/{name}.lock cannot be installed: {_problem(name)}"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)


def learner_library(module: str) -> ModuleType:
    """LightGBM or CatBoost, from build/learners; skips the test where it cannot be installed, and fails it in CI."""
    if importlib.util.find_spec(module) is None:
        _demand("learners")
        sys.path.append(str(_packages(ROOT / "build" / "learners")))
    return importlib.import_module(module)


def cluster_packages() -> Path:
    """Folder with psycopg and obstore, also on this process's path from now on; skips as :func:`learner_library`."""
    found = _packages(environment("cluster"))
    if str(found) not in sys.path:
        sys.path.append(str(found))
    return found


def environment(name: str) -> Path:
    """Folder of one of these environments; skips the test where it cannot be made, and fails it in CI."""
    _demand(name)
    return ROOT / "build" / name


def server_tool(tool: str) -> Path:
    """A program of build/cluster-server, e.g. ``moto_server``; skips as :func:`learner_library`."""
    return environment("cluster-server") / "bin" / tool


def oracle(
    tool: str,
    *arguments: object,
    text: str | None = None,
    name: str = "oracles",
    settings: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a tool; skips the test where the tools cannot be installed, and fails it in CI.

    Parameters
    ----------
    tool : ``model_signing``, ``python``
    text : given on standard input
    name : of the environment, one of ``NAMES``
    settings : environment variables besides those of this process
    """
    place = environment(name)
    command, variables = [place / "bin" / tool, *map(str, arguments)], {**os.environ, **(settings or {})}
    return subprocess.run(command, capture_output=True, text=True, cwd=place, input=text, env=variables)


if __name__ == "__main__":
    sys.exit(next(filter(None, map(_problem, sys.argv[1:] or NAMES[: -len(OF_SLOW_TESTS)])), 0))
