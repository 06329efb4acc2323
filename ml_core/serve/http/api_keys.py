"""API keys: who may ask for what. The file holds their sha256 only; a key itself is shown once, when it is made."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from ml_core.base.clock import utc_now
from ml_core.base.documents import Document, read_document, write_document
from ml_core.base.errors import ArtefactError, ConfigError
from ml_core.base.files import locked

__all__ = ["ROLES", "ApiKey", "ApiKeys", "KeyRing", "KeyRole", "add_key", "fingerprint", "read_api_keys", "revoke_key"]

logger = logging.getLogger(__name__)

KeyRole = Literal["predict", "label", "metrics", "admin"]
ROLES: tuple[KeyRole, ...] = get_args(KeyRole)
"""``predict`` asks for answers, ``label`` says what turned out true, ``metrics`` scrapes, ``admin`` may do it all."""

_PREFIX = "surety_"  # lets scanners for leaked secrets know one when they see it
_RANDOM_BYTES = 32


class ApiKey(Document):
    """What is kept of one key.

    Attributes
    ----------
    name : of the caller; appears in the journal and as the source of labels
    roles : what it may do
    sha256 : of the key, hex. A key has 256 random bits, so nothing slower is needed to hide it
    expires_at : it is refused from then on; None: never
    per_second : most requests a second, over all workers; None: no limit
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    roles: Annotated[tuple[KeyRole, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    made_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    per_second: Annotated[float, Field(gt=0, le=1e6)] | None = None

    def may(self, role: KeyRole) -> bool:
        """Whether the key has that role; an admin has every one."""
        return role in self.roles or "admin" in self.roles

    def is_valid(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


class ApiKeys(Document):
    """The file of keys; names and hashes occur once."""

    keys: tuple[ApiKey, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> ApiKeys:
        for what in ({k.name for k in self.keys}, {k.sha256 for k in self.keys}):
            if len(what) != len(self.keys):
                raise ValueError("two keys have the same name or hash")
        return self


def fingerprint(key: bytes) -> str:
    """The sha256 of a key, hex: all that is kept of it."""
    return hashlib.sha256(key).hexdigest()


def read_api_keys(path: Path) -> ApiKeys:
    """The keys in that file.

    Raises
    ------
    ConfigError
        There is no such file, or it holds something else.
    """
    try:
        found = read_document(path, ApiKeys)
    except ArtefactError as error:
        raise ConfigError(str(path), "is no file of API keys; `surety keys add` makes one") from error
    if found is None:
        raise ConfigError(str(path), "there is no such file; `surety keys add` makes it")
    return found


def add_key(
    path: Path,
    name: str,
    roles: Iterable[KeyRole],
    *,
    expires_at: datetime | None = None,
    per_second: float | None = None,
) -> str:
    """Make a key, add its hash to the file (made where it is missing) and give the key back, for the only time.

    Raises
    ------
    ConfigError
        The name is taken or cannot be one, or the file is no file of keys.
    """
    key = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    try:
        entry = ApiKey(
            name=name,
            roles=tuple(dict.fromkeys(roles)),
            sha256=fingerprint(key.encode()),
            made_at=utc_now(),
            expires_at=expires_at,
            per_second=per_second,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"key {name!r}", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    with locked(_lock_of(path)):
        known = read_api_keys(path).keys if path.exists() else ()
        if any(k.name == name for k in known):
            raise ConfigError(str(path), f"has a key named {name} already: revoke it, or choose another name")
        _write(path, (*known, entry))
    return key


def revoke_key(path: Path, name: str) -> ApiKey:
    """Take a key out of the file; running services refuse it within a second.

    Raises
    ------
    ConfigError
        There is no key of that name, or no such file.
    """
    with locked(_lock_of(path)):
        known = read_api_keys(path).keys
        found = next((k for k in known if k.name == name), None)
        if found is None:
            raise ConfigError(str(path), f"has no key named {name}; `surety keys list` shows the names")
        _write(path, tuple(k for k in known if k.name != name))
    return found


def _write(path: Path, keys: tuple[ApiKey, ...]) -> None:
    write_document(path, ApiKeys(keys=keys))
    path.chmod(_MODE)


_MODE = 0o644  # hashes of random keys are no secret, and a service under another user must see that a key was revoked


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


class KeyRing:
    """The keys as a worker knows them: read when it starts, and again whenever the file has changed.

    A file that is damaged or gone later on changes nothing: the keys known last stay valid, and ``problem`` and a
    warning say so.

    Parameters
    ----------
    path : the file
    look_every_s : shortest time between two looks at it, s
    clock : seconds, monotonic
    """

    def __init__(self, path: Path, look_every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._look_every_s = look_every_s
        self._clock = clock
        self._seen = _edition(path)
        self._keys = read_api_keys(path).keys
        self._looked_at = clock()
        self.problem: str | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def holder(self, key: bytes) -> ApiKey | None:
        """Whose key that is, None for nobody's or an expired one.

        It is compared with every key, in constant time each, so that the time taken tells nothing of any.
        """
        self._look()
        presented = fingerprint(key)
        found = None
        for known in self._keys:
            if hmac.compare_digest(known.sha256, presented):
                found = known
        return found if found is not None and found.is_valid(utc_now()) else None

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked_at < self._look_every_s:
            return
        self._looked_at = now
        edition = _edition(self._path)
        if edition == self._seen:
            return
        self._seen = edition
        try:
            self._keys = read_api_keys(self._path).keys
        except ConfigError as error:
            self.problem = str(error)
            logger.warning("keys.kept", extra={"reason": str(error)})
        else:
            self.problem = None
            logger.info("keys.read", extra={"keys": len(self._keys)})


def _edition(path: Path) -> tuple[int, int, int] | None:
    """What tells one edition of a file from the next; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
