"""The secret keys of a home that several machines have: files from outside, which must be the same on all of them.

The home keeps a fingerprint of every key that it has seen. A machine whose files lack one of them would hide subjects
behind other pseudonyms, and find nobody by theirs, so it is refused.
"""

from __future__ import annotations

import hmac
import logging
from pathlib import Path
from typing import Literal

from ml_core.base.documents import Document
from ml_core.base.errors import ConfigError, HomeUnreachable
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.log.log_keys import read_keys

__all__ = ["KnownKeys", "check_outside_keys"]

logger = logging.getLogger(__name__)

_NAME = "known_keys.json"
_Purpose = Literal["subjects", "log"]


class KnownKeys(Document):
    """Fingerprints of the keys that a home has seen, by what they are for. They tell nothing of the keys."""

    subjects: tuple[str, ...] = ()
    log: tuple[str, ...] = ()


def check_outside_keys(settings: Settings, *, note_new: bool = True) -> None:
    """Check the files of keys where several machines have the home, and note the keys that are new.

    Parameters
    ----------
    note_new : let the home know keys that it has not seen

    Raises
    ------
    ConfigError
        A file is not named, cannot be read, or lacks a key that the home has seen; the message says what to do.
    """
    home = open_home(settings)
    if not home.machine:
        return
    found = KnownKeys(
        subjects=_prints("SURETY_SUBJECT_KEY_FILE", settings.subject_key_file, "subjects"),
        log=_prints("SURETY_LOG_KEY_FILE", settings.log_key_file, "log"),
    )
    try:
        known = home.documents.load(_NAME, KnownKeys) or KnownKeys()
        if _is_grown(known, found) and note_new:
            with home.documents.locked("known_keys.lock"):
                known = home.documents.load(_NAME, KnownKeys) or KnownKeys()
                _is_grown(known, found)
                home.documents.save(_NAME, found)
    except HomeUnreachable as error:
        logger.warning("keys.not_compared", extra={"reason": str(error)})


def _is_grown(known: KnownKeys, found: KnownKeys) -> bool:
    """Whether there are keys that the home has not seen.

    Raises
    ------
    ConfigError
        Some that it has seen are missing.
    """
    for variable, seen, here in (
        ("SURETY_SUBJECT_KEY_FILE", known.subjects, found.subjects),
        ("SURETY_LOG_KEY_FILE", known.log, found.log),
    ):
        if missing := len(set(seen) - set(here)):
            raise ConfigError(
                variable,
                f"lacks {missing} of the {len(seen)} keys that this home has seen: copy the file from a machine that "
                "works. Keys that were used before stay in it, below the one that is used",
            )
    return known != found


def _prints(variable: str, path: Path | None, purpose: _Purpose) -> tuple[str, ...]:
    if path is None:
        raise ConfigError(
            variable,
            "must name a file with the key, the same on every machine of this home: `openssl rand -hex 32 > FILE` "
            "makes the first",
        )
    message = f"surety-home/{purpose}".encode()
    return tuple(hmac.digest(key, message, "sha256").hex()[:32] for key in read_keys(path, purpose))
