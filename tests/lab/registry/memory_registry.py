"""A registry in memory, beside MLflow the second one that keeps the protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from ml_core.base.errors import RegistryError
from ml_core.lab.registry.model_registry import RegisteredVersion


class MemoryRegistry:
    """Versions and what is kept with them, in dictionaries."""

    def __init__(self) -> None:
        self.known: dict[str, RegisteredVersion] = {}
        self.folders: dict[str, Path] = {}
        self.kept: dict[tuple[str, str], bytes] = {}
        self.descriptions: dict[str, str] = {}

    def add(self, name: str, folder: Path, model_hash: str) -> RegisteredVersion:
        number = str(len(self.known) + 1)
        version = RegisteredVersion(name, number, f"run-{number}", "", (), {"model_hash": model_hash}, int(number))
        self.known[number], self.folders[number] = version, folder
        return version

    def find_alias(self, name: str, alias: str) -> RegisteredVersion | None:
        return next((v for v in self.versions(name) if alias in v.aliases), None)

    def by_version(self, name: str, version: str) -> RegisteredVersion:
        if version not in self.known:
            raise RegistryError(f"{name} version {version}", "is not there")
        return self.known[version]

    def versions(self, name: str) -> list[RegisteredVersion]:
        return sorted((v for v in self.known.values() if v.name == name), key=lambda v: int(v.version), reverse=True)

    def set_alias(self, version: RegisteredVersion, alias: str) -> None:
        for number, known in self.known.items():
            others = tuple(each for each in known.aliases if each != alias)
            self.known[number] = replace(known, aliases=(*others, alias) if number == version.version else others)

    def set_tags(self, version: RegisteredVersion, tags: Mapping[str, str | None]) -> None:
        known = self.known[version.version]
        merged = {name: value for name, value in {**known.tags, **tags}.items() if value is not None}
        self.known[version.version] = replace(known, tags=merged)

    def describe(self, version: RegisteredVersion, text: str, *, instead_of: str) -> None:
        if self.descriptions.get(version.version, instead_of).startswith(instead_of):
            self.descriptions[version.version] = text

    def log_document(self, version: RegisteredVersion, path: str, document: Mapping[str, Any]) -> None:
        self.kept[version.version, path] = orjson.dumps(dict(document))

    def log_text(self, version: RegisteredVersion, path: str, text: str) -> None:
        self.kept[version.version, path] = text.encode()

    def run_files(self, version: RegisteredVersion, folder: str = "") -> list[str]:
        paths = [path for number, path in self.kept if number == version.version]
        return sorted(path for path in paths if path.rpartition("/")[0] == folder)

    def run_file(self, version: RegisteredVersion, path: str) -> bytes | None:
        return self.kept.get((version.version, path))

    @contextmanager
    def bundle_folder(self, version: RegisteredVersion) -> Iterator[Path]:
        yield self.folders[version.version]
