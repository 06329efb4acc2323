# ruff: noqa: INP001 - it runs by itself in the image
"""Writes the software bill of materials of the image it runs in, as CycloneDX JSON, to standard output.

It lists Python, every installed distribution of Python, and every package of Debian. The standard library is enough.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import sys
import sysconfig
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG = Path("/var/lib/dpkg/status")
DEBIAN = "/usr/lib/python3/dist-packages"


def component(kind: str, name: str, version: str, purl: str) -> dict[str, Any]:
    """One entry of the list."""
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


def distributions() -> Iterator[dict[str, Any]]:
    """Of this environment and of the interpreter it was made from."""
    base = {"base": sys.base_prefix, "platbase": sys.base_prefix}
    folders = {sysconfig.get_path(name, vars=given) for name in ("purelib", "platlib") for given in ({}, base)}
    for found in importlib.metadata.distributions(path=sorted(folders | {DEBIAN})):
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        yield component("library", name, found.version, f"pkg:pypi/{name}@{quote(found.version)}")


def debian_packages(status: str) -> Iterator[dict[str, Any]]:
    """Of the text of dpkg's list."""
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            name, version, machine = fields["Package"], fields["Version"], fields["Architecture"]
            purl = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={machine}"
            yield component("library", name, version, purl)


def bill() -> dict[str, Any]:
    """The whole document; the same image gives the same one."""
    python = platform.python_version()
    found = [component("platform", "python", python, f"pkg:generic/python@{python}"), *distributions()]
    found += debian_packages(DPKG.read_text(encoding="utf-8")) if DPKG.exists() else ()
    components = [c for _, c in sorted({c["purl"]: c for c in found}.items())]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": "image", "name": "surety"}},
        "components": components,
    }


if __name__ == "__main__":
    json.dump(bill(), sys.stdout, indent=1)
