"""API keys: who may ask for what. Their sha256 alone is kept; a key itself is shown once, when it is made."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from ml_core.base.clock import utc_now
from ml_core.base.documents import Document, parsed_document
from ml_core.base.errors import ArtefactError, ConfigError, HomeUnreachable
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import documents_in, open_home
from ml_core.serve.home.stores import Documents

__all__ = [
    "ROLES",
    "ApiKey",
    "ApiKeys",
    "KeyPlace",
    "KeyRing",
    "KeyRole",
    "add_key",
    "fingerprint",
    "is_guarded",
    "read_api_keys",
    "revoke_key",
]

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


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where API keys lie: in a file, or in a document of a home that several machines have.

    Attributes
    ----------
    shown : names it for people
    """

    documents: Documents
    name: str
    shown: str
    is_file: bool

    @classmethod
    def of_file(cls, path: Path) -> KeyPlace:
        """A file. Hashes of random keys are no secret, and a service under another user must see what is revoked."""
        return cls(documents_in(path.parent, mode=0o644), path.name, str(path), is_file=True)

    @classmethod
    def of(cls, settings: Settings, file: Path | None = None) -> KeyPlace | None:
        """The file, else that of ``SURETY_API_KEYS_FILE``, else the home's own document; None where it has none."""
        path, home = file or settings.api_keys_file, open_home(settings)
        if path is not None:
            return cls.of_file(path)
        return None if home.api_keys is None else cls(home.documents, home.api_keys, "the home's keys", is_file=False)

    def parsed(self, raw: bytes | None) -> ApiKeys:
        """The keys in its content.

        Raises
        ------
        ConfigError
            There is none, or it holds something else.
        """
        if raw is None:
            raise ConfigError(self.shown, f"there is no such {self._kind}; `surety keys add` makes it")
        try:
            return parsed_document(raw, self.name, ApiKeys)
        except ArtefactError as error:
            raise self._spoilt() from error

    def read(self) -> bytes | None:
        """Its content; None where there is none.

        Raises
        ------
        ConfigError
            It cannot be read.
        HomeUnreachable
            The home cannot be asked now.
        """
        try:
            return self.documents.read(self.name)
        except ArtefactError as error:
            raise self._spoilt() from error

    @property
    def _kind(self) -> str:
        return "file" if self.is_file else "document"

    def _spoilt(self) -> ConfigError:
        return ConfigError(self.shown, f"is no {self._kind} of API keys; `surety keys add` makes one")


def _place(where: Path | KeyPlace) -> KeyPlace:
    return KeyPlace.of_file(where) if isinstance(where, Path) else where


def read_api_keys(where: Path | KeyPlace) -> ApiKeys:
    """The keys that lie there.

    Raises
    ------
    ConfigError
        There are none, or something else lies there.
    HomeUnreachable
        The home cannot be asked now.
    """
    place = _place(where)
    return place.parsed(place.read())


def is_guarded(settings: Settings) -> bool:
    """Whether callers of a service with these settings need keys; also where that cannot be known now.

    Raises
    ------
    ConfigError
        The file that is named is no file of keys.
    """
    place = KeyPlace.of(settings)
    if place is None:
        return False
    try:
        raw = place.read()
    except HomeUnreachable:
        return True
    if raw is not None or place.is_file:
        place.parsed(raw)
    return raw is not None


def add_key(
    where: Path | KeyPlace,
    name: str,
    roles: Iterable[KeyRole],
    *,
    expires_at: datetime | None = None,
    per_second: float | None = None,
) -> str:
    """Make a key, add its hash to the others (the first makes their place) and give the key back, for the only time.

    Raises
    ------
    ConfigError
        The name is taken or cannot be one, or something else than keys lies there.
    HomeUnreachable, OSError
        It cannot be written.
    """
    place = _place(where)
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
    with place.documents.locked(f".{place.name}.lock"):
        raw = place.read()
        known = () if raw is None else place.parsed(raw).keys
        if any(k.name == name for k in known):
            raise ConfigError(place.shown, f"has a key named {name} already: revoke it, or choose another name")
        place.documents.save(place.name, ApiKeys(keys=(*known, entry)))
    return key


def revoke_key(where: Path | KeyPlace, name: str) -> ApiKey:
    """Take a key away; running services refuse it within a second.

    Raises
    ------
    ConfigError
        There is no key of that name, or there are none at all.
    HomeUnreachable, OSError
        It cannot be written.
    """
    place = _place(where)
    with place.documents.locked(f".{place.name}.lock"):
        known = read_api_keys(place).keys
        found = next((k for k in known if k.name == name), None)
        if found is None:
            raise ConfigError(place.shown, f"has no key named {name}; `surety keys list` shows the names")
        place.documents.save(place.name, ApiKeys(keys=tuple(k for k in known if k.name != name)))
    return found


class KeyRing:
    """The keys as a worker knows them: read when it starts, and again whenever they have changed.

    Keys that are damaged or gone later on change nothing: those known last stay valid, and ``problem`` and a warning
    say so.

    Parameters
    ----------
    where : they lie
    look_every_s : shortest time between two looks at it, s
    clock : seconds, monotonic

    Raises
    ------
    ConfigError
        There is no such file, or something else than keys lies there.
    """

    def __init__(
        self, where: Path | KeyPlace, look_every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._place = _place(where)
        self._look_every_s = look_every_s
        self._clock = clock
        seen = self._place.documents.glimpse(self._place.name) if not self._place.is_file else None
        self._raw = self._place.read() if seen is None else seen.content
        self._is_known = seen is None or not math.isinf(seen.seen_s)
        self._keys: tuple[ApiKey, ...] = ()
        if self._raw is not None or self._place.is_file:
            self._keys = self._place.parsed(self._raw).keys
        self._looked_at = clock()
        self.problem: str | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def guards(self) -> bool:
        """Whether callers need keys: always where a file was named, and once the home has any.

        Raises
        ------
        HomeUnreachable
            The home has never been reached, so that it is not known.
        """
        self._look()
        if not self._is_known:
            raise HomeUnreachable(self._place.shown, "who may ask is not known yet")
        return self._place.is_file or self._raw is not None

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
        try:
            seen = self._place.documents.glimpse(self._place.name)
            self._is_known = self._is_known or not math.isinf(seen.seen_s)
            if seen.content == self._raw and self.problem is None:
                return
            if seen.content is None and not self._is_known:
                return
            keys = self._place.parsed(seen.content).keys
        except (ArtefactError, ConfigError) as error:
            self._keep(str(error))
            return
        self._raw, self._keys, self.problem = seen.content, keys, None
        logger.info("keys.read", extra={"keys": len(self._keys)})

    def _keep(self, problem: str) -> None:
        """Go on with the keys that are known, and say once why."""
        if problem != self.problem:
            logger.warning("keys.kept", extra={"reason": problem})
        self.problem = problem
