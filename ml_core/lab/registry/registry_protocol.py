"""What gate, promotion and card ask of a registry of models; MLflow is the one that is here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from ml_core.lab.registry.model_registry import RegisteredVersion

__all__ = ["Registry"]


class Registry(Protocol):
    """Versions of models with aliases, tags, a model folder, and documents kept beside each.

    Every method raises RegistryError where what it is asked for is not there.
    """

    def find_alias(self, name: str, alias: str) -> RegisteredVersion | None:
        """The version an alias points at, or None where the model has no such alias."""
        ...

    def by_version(self, name: str, version: str) -> RegisteredVersion:
        """That very version, as it is now."""
        ...

    def versions(self, name: str) -> list[RegisteredVersion]:
        """All versions of that model, newest first."""
        ...

    def set_alias(self, version: RegisteredVersion, alias: str) -> None:
        """Point the alias at that version."""
        ...

    def set_tags(self, version: RegisteredVersion, tags: Mapping[str, str | None]) -> None:
        """Set tags of a version; None removes one."""
        ...

    def describe(self, version: RegisteredVersion, text: str, *, instead_of: str) -> None:
        """Set the description of a version, unless it has one that does not begin with ``instead_of``."""
        ...

    def log_document(self, version: RegisteredVersion, path: str, document: Mapping[str, Any]) -> None:
        """Keep a JSON document with a version."""
        ...

    def log_text(self, version: RegisteredVersion, path: str, text: str) -> None:
        """Keep a text with a version, in place of one of the same path."""
        ...

    def run_files(self, version: RegisteredVersion, folder: str = "") -> list[str]:
        """Paths of what is kept with a version directly in a folder."""
        ...

    def run_file(self, version: RegisteredVersion, path: str) -> bytes | None:
        """What is kept with a version under that path, or None."""
        ...

    def bundle_folder(self, version: RegisteredVersion) -> AbstractContextManager[Path]:
        """The model folder of a version, to be read."""
        ...
