"""What is installed is what the lock says, and a file that is another one is not installed."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.utils import canonicalize_name

from tests.security.figures import record
from tests.security.floors import LOCKS, Pin, read_lock

OURS = "surety-bundle"
NOT_OURS_TO_LOCK = {"pip", "wheel"}
"""What makes the environment, not what is installed into it."""


def pins_here(name: str) -> dict[str, Pin]:
    """Pins of a lock for this Python."""
    pins, _ = read_lock(LOCKS[name].read_text(), name)
    return {pin.name: pin for pin in pins if not pin.marker or Marker(pin.marker).evaluate()}


@pytest.fixture(scope="module")
def installed() -> dict[str, str]:
    """Version by name of every distribution of this environment but our own."""
    here = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})  # other tests lengthen sys.path
    found = {canonicalize_name(d.metadata["Name"]): d.version for d in importlib.metadata.distributions(path=here)}
    assert found.pop(OURS, None) is not None, "the project itself is not installed: make setup"
    return {name: version for name, version in found.items() if name not in NOT_OURS_TO_LOCK}


def test_everything_installed_is_in_the_lock_in_that_version(installed: dict[str, str]) -> None:
    pins = pins_here("dev")
    strangers = {name for name in installed if name not in pins}
    others = {name for name, version in installed.items() if name in pins and str(pins[name].version) != version}
    assert (strangers, others) == (set(), set())
    record(
        "installed distributions",
        "each is in the lock, in that version and by hash",
        {"installed": len(installed), "in the lock": len(installed), "of another version": 0},
    )


def test_everything_in_the_lock_is_installed(installed: dict[str, str]) -> None:
    assert pins_here("dev").keys() - installed.keys() == set()


@pytest.mark.parametrize("smaller", ["serve", "build"])
def test_what_serves_and_builds_is_what_was_tested(smaller: str) -> None:
    """Same versions and same files as in the environment that runs the tests."""
    tested = pins_here("dev")
    for name, pin in pins_here(smaller).items():
        assert (pin.version, pin.hashes) == (tested[name].version, tested[name].hashes)


# --- a file that is another one -----------------------------------------------------------------------------------


def tiny_wheel(folder: Path, said: str) -> Path:
    """A wheel with one module that says something."""
    path = folder / "tiny_thing-1.0-py3-none-any.whl"
    info = "tiny_thing-1.0.dist-info"
    files = {
        "tiny_thing.py": f"SAID = {said!r}\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(text.encode())}")
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), text)
    return path


def install(lock: Path, wheels: Path, to: Path) -> subprocess.CompletedProcess[str]:
    """Install by hash, from that folder alone, as `make setup` does from an index."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
    ]
    return subprocess.run(
        [*command, "--find-links", str(wheels), "--require-hashes", "--target", str(to), "-r", str(lock)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    (tmp_path / "wheels").mkdir()
    tiny_wheel(tmp_path / "wheels", "as it was made")
    return tmp_path / "wheels"


@pytest.fixture
def lock(tmp_path: Path, wheels: Path) -> Path:
    """Pins the wheel as it was made."""
    digest = hashlib.sha256(next(wheels.iterdir()).read_bytes()).hexdigest()
    path = tmp_path / "tiny.lock"
    path.write_text(f"tiny-thing==1.0 \\\n    --hash=sha256:{digest}\n")
    return path


def test_file_of_the_lock_is_installed(lock: Path, wheels: Path, tmp_path: Path) -> None:
    done = install(lock, wheels, tmp_path / "to")
    assert done.returncode == 0, done.stderr
    assert "as it was made" in (tmp_path / "to" / "tiny_thing.py").read_text()


def test_tampered_file_is_not_installed(lock: Path, wheels: Path, tmp_path: Path) -> None:
    tiny_wheel(wheels, "something else")
    done = install(lock, wheels, tmp_path / "to")
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "to").exists()
    record("tampered package", "its installation fails, nothing of it is written", {"installed": 0})


def test_package_without_a_hash_is_not_installed(lock: Path, wheels: Path, tmp_path: Path) -> None:
    lock.write_text("tiny-thing==1.0\n")
    done = install(lock, wheels, tmp_path / "to")
    assert done.returncode != 0
    assert not (tmp_path / "to").exists()
