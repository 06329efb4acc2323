"""What a server does once at its start: keeps the model it came with, takes up a promotion, says what has no effect.

Operators may ask BentoML for things that this service does not do; each gets one sentence.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psutil
import yaml

from ml_core.base.errors import SuretyError
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.model_home import home_folder, place
from ml_core.serve.model.vouching import sign_old_home
from ml_core.serve.rollout import changes
from ml_core.serve.rollout.rollout_store import RolloutStore
from ml_core.serve.rollout.worker_reports import beating, read_reports

__all__ = [
    "command_of",
    "keep_bundled",
    "keep_full_hashes",
    "say_what_is_not_traced",
    "start_notes",
    "take_up_promotion",
]

logger = logging.getLogger(__name__)


def keep_bundled(settings: Settings, loader: ModelLoader) -> None:
    """Copy the model that a bento came with to the home, so that a later bento can go back to it, restarts included.

    Nothing here keeps a server from starting.
    """
    try:
        bundled = loader.bundled()
        if bundled is not None and not home_folder(bundled[0], settings).exists():
            place(bundled[1], bundled[0], settings)
        if bundled is not None:
            loader.share(bundled[0])
    except (SuretyError, OSError, shutil.Error) as error:
        logger.warning("model.not_kept", extra={"reason": str(error)})


def keep_full_hashes(settings: Settings, loader: ModelLoader) -> None:
    """Sign what lies in the home of an earlier version, and write full hashes into its rollout state.

    A hash is taken from the artefact that a signed verdict lets answer under its tag. Nothing here keeps a server from
    starting: a tag that no verdict is known for stays without, and workers refuse it themselves.
    """
    store = RolloutStore(settings)
    try:
        sign_old_home(settings)
        state = store.read()
    except (SuretyError, OSError) as error:
        logger.warning("home.not_signed", extra={"reason": str(error)})
        return
    hashes = {}
    for tag in () if state is None else state.tags:
        if state is not None and tag not in state.hashes:
            with suppress(SuretyError):
                hashes[tag] = loader.check_gated(tag)
    if hashes:
        try:
            store.change(changes.pinned(hashes), by="service", why="full hashes of what is live")
        except (SuretyError, OSError) as error:
            logger.warning("rollout.not_written", extra={"reason": str(error)})


def take_up_promotion(settings: Settings, loader: ModelLoader) -> None:
    """Make the promoted model the champion where its record is newer than the one the rollout knows.

    Workers that come later follow the rollout alone, so that all of one server answer with the same model. Where other
    machines serve already, nothing is taken up: one that is added or moved must change nothing for all of them.
    Nothing here keeps a server from starting: what cannot be taken up is said and left.
    """
    store = RolloutStore(settings)
    try:
        state, named = store.read(), loader.named()
        if settings.model or state is None or named is None or named.promoted_at == state.promotion_seen:
            return
        promoted = loader.promoted()
        if promoted is None or promoted.promoted_at in ("", state.promotion_seen):
            return
        if _others_serve(settings):
            logger.warning(
                "promotion.waits", extra={"tag": promoted.tag, "reason": "`surety rollout full` takes it up"}
            )
            return
        model_hash = loader.check_gated(promoted.tag, promoted.model_hash)
        change = changes.promoted(promoted.tag, promoted.promoted_at, model_hash)
        store.change(change, by="service", why="a newer promotion was found at start")
    except (SuretyError, OSError) as error:
        logger.warning("promotion.not_taken_up", extra={"reason": str(error)})


def _others_serve(settings: Settings) -> bool:
    """Whether processes of the model report from other machines of the home."""
    home = open_home(settings)
    reports = read_reports(home.heartbeats(settings.model_name)) if home.machine else []
    return any(report.machine != home.machine for report in beating(reports))


def say_what_is_not_traced() -> None:
    """Warn where variables ask for traces: the service sends none, and silence would look like a broken collector."""
    asked = sorted(name for name in os.environ if name.startswith("OTEL_") and name.endswith("_ENDPOINT"))
    if asked:
        logger.warning("traces.not_sent: %s has no effect, because this service sends no traces", ", ".join(asked))


_NO_EFFECT = {
    "workers": "SURETY_WORKERS says how many workers there are",
    "http.cors": "BentoML's layer for it never sees a request",
    "endpoints": "the routes are those of docs/reference",
    "metrics.enabled": "/metrics is always there",
}
_NAMED = {name: re.compile(rf"(^|\.){re.escape(name)}(\.|$)") for name in _NO_EFFECT}


def start_notes(command: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The arguments of ``bentoml serve`` and the settings of BentoML that have no effect here.

    Parameters
    ----------
    command : of the process that serves
    environment : of it, with ``BENTOML_CONFIG`` and ``BENTOML_CONFIG_OPTIONS``
    """
    found = []
    if any(word.partition("=")[0] == "--api-workers" for word in command):
        found.append(f"--api-workers has no effect: {_NO_EFFECT['workers']}")
    given = [("BENTOML_CONFIG", _in_file(environment.get("BENTOML_CONFIG", "")))]
    options = re.findall(r"([\w.\"\[\]-]+)=", environment.get("BENTOML_CONFIG_OPTIONS", ""))
    given.append(("BENTOML_CONFIG_OPTIONS", options))
    for source, keys in given:
        for name, why in _NO_EFFECT.items():
            asked = sorted(key for key in keys if _NAMED[name].search(key))
            found += [f"{key} in {source} has no effect: {why}" for key in asked]
    return tuple(found)


def command_of(pid: int) -> list[str]:
    """The command line of that process; empty where it cannot be read."""
    try:
        words: list[str] = psutil.Process(pid).cmdline()
    except psutil.Error:
        return []
    return words


def _in_file(path: str) -> list[str]:
    """Dotted keys of a YAML file; none where it cannot be read, since BentoML says that itself."""
    if not path:
        return []
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:  # noqa: PTH111, PTH123 - as BentoML does
            return list(_keys(yaml.safe_load(file), ""))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return []


def _keys(value: Any, prefix: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield prefix
        return
    for name, inner in value.items():
        yield from _keys(inner, f"{prefix}.{name}" if prefix else str(name))
