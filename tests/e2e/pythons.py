"""Pythons with an environment of their own, into which something is installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

__all__ = ["installed", "new_python"]


def new_python(folder: Path, *, with_libraries: bool = False) -> str:
    """Path of a Python with nothing installed; with the libraries of this one, but not the project, where asked for.

    A ``.pth`` file adds this Python's libraries to the path; the editable install lies in a ``.pth`` among them, which
    Python does not follow a second time.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    if with_libraries:
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(folder / "bin" / "python")


def installed(python: str, *what: str) -> str:
    """That Python, after uv has installed what was named into it."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *what]
    subprocess.run(command, check=True, timeout=900)
    return python
