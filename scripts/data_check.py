"""Holds the files that dvc.lock names against it, byte for byte (`make data-check`).

DVC trusts what it has in its cache, and what it has once put in place: a damaged file of the cache is laid out again
without a word. Here every file is read.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import click
import yaml

from ml_core.cli.output import emit, note, output_option

__all__ = ["command", "states"]

LOCK = Path("dvc.lock")


@click.command(name="data-check")
@output_option
def command(output: str) -> None:
    """Read every file that dvc.lock names as a stage's result. Exit status 3 if one is missing or another.

    \b
    Example: python -m scripts.data_check
    """
    if not LOCK.exists():
        note(f"there is no {LOCK}: nothing is versioned yet; `make repro` writes it")
        return
    found = states(LOCK)
    emit([{"file": str(path), "state": state} for path, state in found.items()], output)
    bad = [str(path) for path, state in found.items() if state != "as named"]
    if bad:
        note(f"not what {LOCK} names: {', '.join(bad)}. Remove it, and from .dvc/cache too, then `make data-pull`")
        sys.exit(3)


def states(lock: Path) -> dict[Path, str]:
    """Each result of a stage, as ``as named``, ``missing`` or ``another``; paths as the lock has them.

    Parameters
    ----------
    lock : results are files (no folders) and lie beside it
    """
    read: Any = yaml.safe_load(lock.read_text(encoding="utf-8"))
    outs = [out for stage in read["stages"].values() for out in stage.get("outs", ())]
    return {Path(out["path"]): _state(lock.parent / out["path"], out["md5"]) for out in outs}


def _state(path: Path, md5: str) -> str:
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return "as named" if found == md5 else "another"


if __name__ == "__main__":
    command()
