"""MLflow's artefacts among the objects of a home, without a client library of one cloud: read and written by obstore.

MLflow's own repositories for ``s3://`` and ``gs://`` need boto3 or Google's library. Whoever has those can read the
same objects with them.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry

from ml_core.serve.home.object_stores import NetworkObjects

__all__ = ["ObjectArtifacts", "use_for"]

_LARGEST = 1 << 32


def use_for(objects: str) -> None:
    """Let MLflow in this process reach artefacts at addresses of that scheme (``s3``, ``gs``, ``az``) by obstore."""
    scheme = urlsplit(objects).scheme
    if scheme not in {"", "file"}:
        _artifact_repository_registry.register(scheme, ObjectArtifacts)  # type: ignore[no-untyped-call]


class ObjectArtifacts(ArtifactRepository):
    """Artefacts below one address, as MLflow asks for them.

    Parameters
    ----------
    artifact_uri : such as ``s3://bucket/prefix/mlartifacts/risk/3f…/artifacts``
    """

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self._objects = NetworkObjects(artifact_uri)

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Store one file in a folder of artefacts."""
        file = Path(local_file)
        self._objects.put(_joined(artifact_path, file.name), file.read_bytes(), replace=True)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Store all files of a folder."""
        root = Path(local_dir)
        for folder, _, names in os.walk(root):
            for name in names:
                file = Path(folder) / name
                below = file.relative_to(root).as_posix()
                self._objects.put(_joined(artifact_path, below), file.read_bytes(), replace=True)

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Files and folders that lie in a folder of artefacts; none where the path is a file's."""
        start = f"{path.strip('/')}/" if path else ""
        found: dict[str, FileInfo] = {}
        for name, size in self._objects.sizes(path or ""):
            first, _, rest = name.removeprefix(start).partition("/")
            place = f"{start}{first}"
            found.setdefault(place, FileInfo(place, bool(rest), None if rest else size))
        return [found[place] for place in sorted(found)]

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Take away a file, or all files of a folder."""
        for name, _ in list(self._objects.sizes(artifact_path or "")):
            self._objects.remove(name)
        if artifact_path:
            self._objects.remove(artifact_path)

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        raw = self._objects.get(remote_file_path, _LARGEST)
        if raw is None:
            raise FileNotFoundError(remote_file_path)
        Path(local_path).write_bytes(raw)


def _joined(folder: str | None, name: str) -> str:
    return str(PurePosixPath(folder or "") / name)
