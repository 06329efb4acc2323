"""The MLflow registry as this project uses it: versions, aliases, tags and artefacts, with errors of one line.

MLflow is used without its side effects: no telemetry, no output, no changed environment, no long waits.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ml_core.base.errors import RegistryError, RegistryUnreachable, SuretyError
from ml_core.base.settings import Settings
from ml_core.lab.registry.mlflow_names import name_from_mlflow
from ml_core.lab.registry.moved_home import move_in

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "ModelRegistry",
    "RegisteredVersion",
    "bundle_in",
    "mlflow_at",
    "quiet_environment",
    "registry_errors",
]

CHAMPION = "champion"
CHALLENGER = "challenger"
_BUNDLE_IN_MLFLOW_MODEL = "artifacts/bundle"
_ALIASES = {"production": CHAMPION, "staging": CHALLENGER}  # the names of the old stages
_RUN_URI = re.compile(r"runs:/(?P<run>[0-9a-f]{32})(?:/.*)?")
_LOGGED_URI = re.compile(r"models:/m-[0-9a-f]{32}")
_URI_FORMS = "is no models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN/PATH"
_REGISTERED_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>[0-9]+)|@(?P<alias>[^/@]+))/?")

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow waits 120 s and tries eight times; a person at a prompt gets an answer within 10 s.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "BENTOML_DO_NOT_TRACK": "true",
}
_PROBE_S = 6.0
_CHATTY = ("mlflow", "alembic", "bentoml.mlflow", "git")


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One version of a registered model.

    Attributes
    ----------
    name, version, run_id : as MLflow names them
    model_id : of the logged model behind it; empty where MLflow knows none
    aliases : names that point at it now
    tags : of the version
    created_at_ms : since 1970
    """

    name: str
    version: str
    run_id: str
    model_id: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    created_at_ms: int

    @property
    def model_hash(self) -> str:
        """The hash it was registered with; empty for a version that is none of ours."""
        return self.tags.get("model_hash", "")

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


class ModelRegistry:
    """A registry at ``MLFLOW_TRACKING_URI``, or in ``SURETY_HOME`` where that is not set.

    Every method raises RegistryError where a model, version, alias or file that it is asked for is not there, or a URI
    has another form than it takes.

    Parameters
    ----------
    settings : say where it is

    Attributes
    ----------
    uri : where it is; ``shown`` is the same without the credentials a URI may hold
    home : ``SURETY_HOME``

    Raises
    ------
    RegistryUnreachable
        It is a server that does not answer within a few seconds.
    """

    def __init__(self, settings: Settings) -> None:
        quiet_environment()
        self.home = settings.home.absolute()
        self.uri = settings.registry_uri
        self.shown = settings.registry_shown
        self._objects = settings.objects
        self._is_ours = bool(settings.database) and self.uri.startswith("postgresql+psycopg:")
        if self._is_ours:
            _make_schema(settings.database)
        if self.uri.startswith("sqlite:"):
            self.home.mkdir(parents=True, exist_ok=True)
            if self.uri == f"sqlite:///{self.home / 'mlflow.db'}":
                move_in(self.home)
        elif self.uri.startswith(("http://", "https://")):
            _check_reachable(self.uri, f"MLflow at {self.shown}")
        else:
            _check_address(self.uri, self.shown)

    @contextmanager
    def session(self, what: str) -> Iterator[Any]:
        """The ``mlflow`` module pointed at this registry, silent, its errors turned into ours.

        Parameters
        ----------
        what : named in the error
        """
        with mlflow_at(self.uri) as mlflow, registry_errors(what):
            if self._objects and self._is_ours:
                from ml_core.lab.registry.object_artifacts import use_for

                use_for(self._objects)
            yield mlflow

    def _artefacts_of(self, experiment: str) -> str | None:
        """Where the artefacts of a new experiment go; None leaves it to MLflow's server."""
        if self._objects and self._is_ours:
            root = self._objects if "://" in self._objects else Path(self._objects).as_uri()
            return f"{root.rstrip('/')}/mlartifacts/{experiment}"
        return (self.home / "mlartifacts" / experiment).as_uri() if self.uri.startswith("sqlite:") else None

    def experiment(self, name: str) -> str:
        """Id of the experiment of that name; made if there is none, with its artefacts in the home or its objects."""
        with self.session(f"experiment {name}") as mlflow:
            found = mlflow.get_experiment_by_name(name)
            if found is not None:
                return str(found.experiment_id)
            return str(mlflow.create_experiment(name, artifact_location=self._artefacts_of(name)))

    def by_alias(self, name: str, alias: str) -> RegisteredVersion:
        """The version an alias points at; ``Production`` means the champion."""
        alias = _ALIASES.get(alias.lower(), alias)
        found = self.find_alias(name, alias)
        if found is None:
            raise RegistryError(f"{name}@{alias}", f"no version of {name} has the alias {alias}")
        return found

    def find_alias(self, name: str, alias: str) -> RegisteredVersion | None:
        """The version an alias points at, or None where the model has no such alias."""
        version = self._aliases(name).get(alias)
        return None if version is None else self.by_version(name, version)

    def by_version(self, name: str, version: str) -> RegisteredVersion:
        """That very version."""
        with self.session(f"{name} version {version}") as mlflow:
            found = mlflow.MlflowClient().get_model_version(name, str(version))
        return _registered(found, self._aliases(name))

    def by_run(self, name: str, run_id: str) -> RegisteredVersion:
        """The newest version that came out of that run."""
        for version in self.versions(name):
            if version.run_id == run_id:
                return version
        raise RegistryError(f"{name}, run {run_id}", "no version came out of that run")

    def by_uri(self, uri: str) -> RegisteredVersion:
        """The registered version behind ``models:/name/3``, ``models:/name@alias`` or ``runs:/RUN/path``."""
        if match := _REGISTERED_URI.fullmatch(uri):
            if match["version"]:
                return self.by_version(match["name"], match["version"])
            return self.by_alias(match["name"], match["alias"])
        if match := _RUN_URI.fullmatch(uri):
            return self._by_run_uri(uri, match["run"])
        raise RegistryError(uri, _URI_FORMS)

    def fixed_uri(self, uri: str) -> str:
        """The URI of an MLflow model, registered or not, in a form that always means the same model."""
        if _REGISTERED_URI.fullmatch(uri):
            version = self.by_uri(uri)
            return f"models:/{version.name}/{version.version}"
        if _RUN_URI.fullmatch(uri) or _LOGGED_URI.fullmatch(uri):
            return uri
        raise RegistryError(uri, _URI_FORMS)

    def versions(self, name: str) -> list[RegisteredVersion]:
        """All versions of that model, newest first."""
        aliases = self._aliases(name)
        with self.session(name) as mlflow:
            found = list(mlflow.MlflowClient().search_model_versions(f"name='{name}'"))
        return sorted((_registered(v, aliases) for v in found), key=lambda v: int(v.version), reverse=True)

    def names(self) -> list[str]:
        """Names of all registered models."""
        with self.session("registered models") as mlflow:
            return sorted(model.name for model in mlflow.MlflowClient().search_registered_models())

    def metrics(self, version: RegisteredVersion) -> dict[str, float]:
        """Metrics of the logged model behind a version (MLflow leaves ``metrics`` of the version itself empty)."""
        if not version.model_id:
            return {}
        with self.session(str(version)) as mlflow:
            logged = mlflow.get_logged_model(version.model_id).metrics or []
        return {name_from_mlflow(metric.key): float(metric.value) for metric in logged}

    def set_alias(self, version: RegisteredVersion, alias: str) -> None:
        """Point the alias at that version."""
        with self.session(f"alias {alias} of {version.name}") as mlflow:
            mlflow.MlflowClient().set_registered_model_alias(version.name, alias, version.version)

    def set_tags(self, version: RegisteredVersion, tags: Mapping[str, str | None]) -> None:
        """Set tags of a version; None removes one."""
        with self.session(f"tags of {version}") as mlflow:
            client = mlflow.MlflowClient()
            for key, value in tags.items():
                if value is not None:
                    client.set_model_version_tag(version.name, version.version, key, value)
                elif key in version.tags:
                    client.delete_model_version_tag(version.name, version.version, key)

    def log_document(self, version: RegisteredVersion, path: str, document: Mapping[str, Any]) -> None:
        """Keep a JSON document with the run of a version."""
        if not version.run_id:
            return
        with self.session(f"run of {version}") as mlflow:
            mlflow.MlflowClient().log_dict(version.run_id, dict(document), path)

    def log_text(self, version: RegisteredVersion, path: str, text: str) -> None:
        """Keep a text file with the run of a version, in place of one of the same path."""
        if not version.run_id:
            return
        with self.session(f"run of {version}") as mlflow:
            mlflow.MlflowClient().log_text(version.run_id, text, path)

    def run_files(self, version: RegisteredVersion, folder: str = "") -> list[str]:
        """Paths of the files that the run of a version keeps directly in a folder."""
        if not version.run_id:
            return []
        with self.session(f"run of {version}") as mlflow:
            found = mlflow.MlflowClient().list_artifacts(version.run_id, folder or None)
        return sorted(str(file.path) for file in found if not file.is_dir)

    def run_file(self, version: RegisteredVersion, path: str) -> bytes | None:
        """A file that the run of a version keeps, or None where it keeps none of that path."""
        if path not in self.run_files(version, path.rpartition("/")[0]):
            return None
        with self.session(f"run of {version}") as mlflow, tempfile.TemporaryDirectory(prefix="surety-file-") as place:
            return Path(mlflow.MlflowClient().download_artifacts(version.run_id, path, place)).read_bytes()

    def describe(self, version: RegisteredVersion, text: str, *, instead_of: str) -> None:
        """Set the description of a version, unless it has one that does not begin with ``instead_of``."""
        with self.session(f"description of {version}") as mlflow:
            client = mlflow.MlflowClient()
            found = client.get_model_version(version.name, version.version).description or ""
            if found != text and (not found or found.startswith(instead_of)):
                client.update_model_version(version.name, version.version, description=text)

    @contextmanager
    def downloaded(self, uri: str) -> Iterator[Path]:
        """An MLflow model's folder in a private temporary place, without what the registry adds to it."""
        place = Path(tempfile.mkdtemp(prefix="surety-model-"))  # mode 0700
        try:
            with self.session(uri) as mlflow:
                folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(place)))
            (folder / "registered_model_meta").unlink(missing_ok=True)
            yield folder
        finally:
            shutil.rmtree(place, ignore_errors=True)

    @contextmanager
    def bundle_folder(self, version: RegisteredVersion) -> Iterator[Path]:
        """The model folder of a version, in a private temporary place."""
        with self.downloaded(f"models:/{version.name}/{version.version}") as folder:
            yield bundle_in(folder, str(version))

    def _by_run_uri(self, uri: str, run_id: str) -> RegisteredVersion:
        with self.session(uri) as mlflow:
            found = list(mlflow.MlflowClient().search_model_versions(f"run_id='{run_id}'"))
        if len(found) != 1:
            raise RegistryError(
                uri, f"{len(found)} registered versions came out of that run; name one as models:/NAME/VERSION"
            )
        return self.by_version(found[0].name, found[0].version)

    def _aliases(self, name: str) -> dict[str, str]:
        with self.session(f"registered model {name}") as mlflow:
            return dict(mlflow.MlflowClient().get_registered_model(name).aliases)


def bundle_in(folder: Path, what: str) -> Path:
    """Where the model folder lies in an MLflow model.

    Raises
    ------
    RegistryError
        There is none: the model was not made by ``surety train``.
    """
    bundle = folder / _BUNDLE_IN_MLFLOW_MODEL
    if not bundle.is_dir():
        raise RegistryError(
            what,
            "is no surety model; `surety import-model --uri URI --calibration ROWS --feature-version vN` converts "
            "scikit-learn, XGBoost, LightGBM and CatBoost classifiers",
        )
    return bundle


def _registered(version: Any, aliases: Mapping[str, str]) -> RegisteredVersion:
    source = str(version.source or "")
    model_id = str(version.model_id or "") or (
        source.removeprefix("models:/") if source.startswith("models:/m-") else ""
    )
    return RegisteredVersion(
        name=str(version.name),
        version=str(version.version),
        run_id=str(version.run_id or ""),
        model_id=model_id,
        aliases=tuple(sorted(alias for alias, number in aliases.items() if str(number) == str(version.version))),
        tags=dict(version.tags),
        created_at_ms=int(version.creation_timestamp or 0),
    )


# --- MLflow without its side effects ---------------------------------------------------------------------------------


def quiet_environment() -> None:
    """Set what MLflow reads from the environment, wherever the user has not."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def mlflow_at(uri: str) -> Iterator[Any]:
    """The ``mlflow`` module with that tracking URI; its own words and warnings go nowhere.

    ``mlflow.set_tracking_uri`` also writes the environment, which a later registry would read as the user's wish, so
    that is put back.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        import mlflow

        levels = _levels(logging.ERROR)
        try:
            mlflow.set_tracking_uri(uri)
            yield mlflow
        finally:
            _restore(levels)
            if before is None:
                os.environ.pop("MLFLOW_TRACKING_URI", None)
            else:
                os.environ["MLFLOW_TRACKING_URI"] = before


@contextmanager
def registry_errors(what: str) -> Iterator[None]:
    """Turn what MLflow and its stores raise into ``RegistryError`` or ``RegistryUnreachable``, one line each."""
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except SuretyError:
        raise
    except requests.RequestException as error:
        raise RegistryUnreachable(what, f"MLflow does not answer ({type(error).__name__})") from error
    except MlflowException as error:
        if _is_transport(error):
            raise RegistryUnreachable(what, "MLflow does not answer") from error
        raise RegistryError(what, _first_line(error)) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise RegistryError(what, f"MLflow's database cannot be used ({type(error).__name__})") from error
    except (ImportError, ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as error:
        # of addresses, files and tags that are none of MLflow's; its own words quote them
        raise RegistryError(what, f"MLflow cannot use what is there ({type(error).__name__})") from error
    except OSError as error:
        raise RegistryError(
            what, f"MLflow's files cannot be used ({type(error).__name__}: {error.strerror})"
        ) from error


def _make_schema(database: str) -> None:
    """Make the schema that MLflow's tables go into; its own migration makes the tables."""
    from ml_core.serve.home.postgres import HomeDatabase

    home = HomeDatabase(database)
    with home.our_errors(), home.connect() as connection:
        if connection.execute("SELECT to_regnamespace('mlflow')").fetchone() == (None,):
            connection.execute("CREATE SCHEMA IF NOT EXISTS mlflow")


def _check_address(uri: str, shown: str) -> None:
    """Refuse an address without a scheme: MLflow would take it for a folder, and make it. Of others MLflow judges."""
    if "\x00" in uri or (":" not in uri and uri not in {"databricks", "uc"} and not Path(uri).is_dir()):
        raise RegistryError(
            f"MLFLOW_TRACKING_URI={shown}",
            "is no address of MLflow, such as http://HOST, https://HOST, sqlite:///FILE, or a folder that is there",
        )


def _check_reachable(uri: str, shown: str) -> None:
    """Ask the server once whether it is there; looking up its name is bounded as well, which no socket option does."""
    import requests

    failure: list[str] = []

    def ask() -> None:
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=(3, 3))
        except (requests.RequestException, ValueError) as error:  # the latter of addresses that are none
            failure.append(type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_S)
    if thread.is_alive() or failure:
        reason = failure[0] if failure else f"no answer within {_PROBE_S:g} s"
        raise RegistryUnreachable(shown, f"cannot be reached ({reason}): check MLFLOW_TRACKING_URI")


def _is_transport(error: BaseException) -> bool:
    return "API request to" in str(error) and "failed with exception" in str(error)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = lines[0].strip() if lines else type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def _levels(level: int) -> dict[str, int]:
    before = {name: logging.getLogger(name).level for name in _CHATTY}
    for name in _CHATTY:
        logging.getLogger(name).setLevel(level)
    return before


def _restore(levels: dict[str, int]) -> None:
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
