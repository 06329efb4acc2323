"""Uses MLflow without its side effects: no telemetry, no chatter on stdout, no changed environment, no long waits."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ml_core.base.errors import RegistryError, RegistryUnreachable, SuretyError

__all__ = ["active", "check_reachable", "mlflow_errors", "quiet_environment"]

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow waits 120 s and tries eight times; a person at a prompt is told within 10 s.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "BENTOML_DO_NOT_TRACK": "true",
}
_PROBE_S = 6.0
_CHATTY = ("mlflow", "alembic", "bentoml.mlflow", "git")


def quiet_environment() -> None:
    """Set what MLflow reads from the environment, wherever the user has not."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextmanager
def active(uri: str) -> Iterator[Any]:
    """The ``mlflow`` module with that tracking URI; its own words and warnings go nowhere.

    ``mlflow.set_tracking_uri`` also writes the environment, which a later registry would read as the user's wish, so
    that is put back.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
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
def mlflow_errors(what: str) -> Iterator[None]:
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
    except OSError as error:
        raise RegistryError(
            what, f"MLflow's files cannot be used ({type(error).__name__}: {error.strerror})"
        ) from error


def check_reachable(uri: str, shown: str) -> None:
    """Ask the server once whether it is there; looking up its name is bounded as well, which no socket option does."""
    import requests

    failure: list[str] = []

    def ask() -> None:
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=(3, 3))
        except requests.RequestException as error:
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
