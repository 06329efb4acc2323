"""What MkDocs calls while it builds the site: the changes lie beside docs/, not in it."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

__all__ = ["on_files"]

CHANGES = Path(__file__).resolve().parents[2] / "CHANGELOG.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of docs/, and CHANGELOG.md as the page changes.md."""
    files.append(File.generated(config, "changes.md", abs_src_path=str(CHANGES)))
    return files
