"""The bill of materials of an image: what is installed, in a form that others read."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.oracles import oracle

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "container" / "sbom.py"
_VALID = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(str(problem) if problem else 0)
"""


@pytest.fixture(scope="module")
def written() -> str:
    return subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True).stdout


def test_it_lists_what_is_installed_here(written: str) -> None:
    code = "import importlib.metadata as m; print(*{d.metadata['Name'] + ' ' + d.version for d in m.distributions()}, sep='\\n')"
    asked = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    installed = {
        line.lower().replace("_", "-").replace(".", "-", line.split()[0].count(".")) for line in asked.splitlines()
    }
    listed = {
        f"{c['name']} {c['version']}" for c in json.loads(written)["components"] if c["purl"].startswith("pkg:pypi/")
    }
    assert installed <= listed
    assert len(listed) > 100


def test_its_form_is_that_of_the_standard(written: str) -> None:
    checked = oracle("python", "-c", _VALID, text=written)
    assert checked.returncode == 0, checked.stderr
    broken = json.loads(written)
    broken["components"][0]["type"] = "no such type"
    assert oracle("python", "-c", _VALID, text=json.dumps(broken)).returncode != 0


def test_packages_of_debian_are_listed_as_they_are_installed() -> None:
    spec = importlib.util.spec_from_file_location("sbom", SCRIPT)
    sbom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sbom)
    status = (
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u10\nDepends: x\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1:2.0\n\n"
        "Package: tar\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.34\n"
    )
    assert [c["purl"] for c in sbom.debian_packages(status)] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64",
        "pkg:deb/debian/tar@1%3A1.34?arch=amd64",
    ]
