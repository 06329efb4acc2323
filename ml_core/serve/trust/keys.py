"""The public keys that are believed, where each comes from, and the home's own key, which signs.

The document ``trust/keys.json`` of the home lists public keys. ``SURETY_HOME/trust/signing.key`` is the private key
(PEM, mode 0600): a file also where the home is a database, and so one of its own on each machine that signs. Nothing
here reads a model store.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.documents import Document
from ml_core.base.errors import ConfigError
from ml_core.base.files import write_whole
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home

if TYPE_CHECKING:
    from types import TracebackType

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "HomeKey",
    "HomeKeys",
    "SigningKey",
    "TrustedKey",
    "TrustedKeys",
    "home_keys",
    "key_fingerprint",
    "trusted_keys",
]

_KEYS, _LOCK = "trust/keys.json", "trust/keys.lock"
_PREFIX = "ed25519:"
_BYTES = 32
KeySource = Literal["home", "environment", "image"]


class HomeKey(Document):
    """One public key that the home trusts.

    Attributes
    ----------
    key : ``ed25519:`` and 32 bytes in base64
    name : for people
    added_at : UTC
    """

    key: str
    name: str = ""
    added_at: str


class HomeKeys(Document):
    """Content of ``trust/keys.json``.

    Attributes
    ----------
    keys : the public keys
    signs : fingerprint of the newest key made here to sign with
    sequence, stated_at : of the newest statement signed here; both only grow, also where the clock is set back
    """

    keys: tuple[HomeKey, ...] = ()
    signs: str = ""
    sequence: int = Field(0, ge=0)
    stated_at: str = ""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key that is believed here.

    Attributes
    ----------
    key : ``ed25519:`` and 32 bytes in base64
    source : where it comes from
    name, added_at : of a key in the home
    """

    key: str
    source: KeySource
    name: str = ""
    added_at: str = ""

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of the 32 bytes."""
        return key_fingerprint(self.key)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether the owner of this key has signed the message."""
        # Imported here: 20 ms and 8 MB that only a process which judges a model needs.
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(_raw(self.key)).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def key_fingerprint(key: str) -> str:
    """sha256 (hex) of the 32 bytes of a public key.

    Raises
    ------
    ConfigError
        The text is no public key.
    """
    return hashlib.sha256(_raw(key)).hexdigest()


def trusted_keys(settings: Settings, image: Iterable[str] = ()) -> tuple[TrustedKey, ...]:
    """Every key that is believed: of the home, of ``SURETY_TRUSTED_KEYS``, and of the image.

    Parameters
    ----------
    image : public keys that ``bento.yaml`` of the running bento names

    Raises
    ------
    ArtefactError
        ``trust/keys.json`` is damaged.
    """
    home = (TrustedKey(k.key, "home", k.name, k.added_at) for k in home_keys(settings).keys)
    environment = (TrustedKey(key, "environment") for key in settings.trusted_keys.replace(",", " ").split())
    return (*home, *environment, *(TrustedKey(key, "image") for key in image))


def home_keys(settings: Settings) -> HomeKeys:
    """The keys of the home; none where it has never signed.

    Raises
    ------
    ArtefactError
        ``trust/keys.json`` is damaged.
    """
    return open_home(settings).documents.load(_KEYS, HomeKeys) or HomeKeys()


class SigningKey:
    """The home's private key, held in memory to sign with.

    Attributes
    ----------
    public : its public key, ``ed25519:`` and 32 bytes in base64
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = _PREFIX + base64.b64encode(private.public_key().public_bytes_raw()).decode()

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._private.sign(message)


class TrustedKeys:
    """The keys of the home, to change them and to sign with them; one process at a time.

    Parameters
    ----------
    settings : of the home

    Notes
    -----
    To be used as a context manager, which holds the lock of ``trust/``.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.trust
        self._settings = settings
        self._home = open_home(settings)
        self._documents = self._home.documents
        self.known = HomeKeys()

    def __enter__(self) -> Self:
        with ExitStack() as held:
            held.enter_context(self._documents.locked(_LOCK))
            self.known = home_keys(self._settings)
            self._held = held.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def signing_key(self, before_first: Callable[[SigningKey], None]) -> SigningKey:
        """The key that signs; made on first use, on each machine that has the home one of its own.

        Parameters
        ----------
        before_first : called with the first key before it counts as the home's

        Raises
        ------
        ConfigError
            The home has signed here before and the private key is gone.
        """
        if not self.known.signs:
            return self.make(self._own_name, before_first)
        if self._home.machine and not self._has_signed_here:
            return self.make(self._own_name, self._tell_of)
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        path = self._folder / "signing.key"
        try:
            private = load_pem_private_key(path.read_bytes(), None)
            key = SigningKey(private)  # type: ignore[arg-type]  # the fingerprint below tells whether it is the right one
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError("trust/signing.key", "cannot be read: `surety trust rotate` makes a new one") from error
        if key_fingerprint(key.public) not in {key_fingerprint(k.key) for k in self.known.keys}:
            raise ConfigError("trust/signing.key", "is no key that trust/keys.json names")
        return key

    @property
    def _own_name(self) -> str:
        return f"machine {self._home.machine}" if self._home.machine else "this home"

    @property
    def _has_signed_here(self) -> bool:
        return (self._folder / "signing.key").exists() or any(k.name == self._own_name for k in self.known.keys)

    def _tell_of(self, key: SigningKey) -> None:
        facts = {"key": key.public, "name": self._own_name, "why": "a machine of the home signs for the first time"}
        self._home.journal.append("trust.added", facts)

    def make(self, name: str, before: Callable[[SigningKey], None]) -> SigningKey:
        """Make a new key that signs from now on; keys that signed before stay trusted.

        Parameters
        ----------
        before : called with the new key, which is trusted by then and does not sign yet
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        private = Ed25519PrivateKey.generate()
        key = SigningKey(private)
        self.add(key.public, name)
        before(key)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with write_whole(self._folder / "signing.key", durable=True, mode=0o600) as draft:
            draft.write_bytes(pem)
        self._folder.chmod(0o700)
        self._write(signs=key_fingerprint(key.public))
        return key

    def add(self, key: str, name: str) -> bool:
        """Trust a public key from now on; False where it was trusted already.

        Raises
        ------
        ConfigError
            It is no public key.
        """
        if key_fingerprint(key) in {key_fingerprint(k.key) for k in self.known.keys}:
            return False
        self._write(keys=(*self.known.keys, HomeKey(key=key, name=name, added_at=utc_text(utc_now()))))
        return True

    def remove(self, fingerprint: str) -> HomeKey:
        """Trust a key of the home no longer; the removed key.

        Parameters
        ----------
        fingerprint : its first digits, enough to name one key

        Raises
        ------
        ConfigError
            They name no key of the home, or several, or the key that signs.
        """
        found = [k for k in self.known.keys if key_fingerprint(k.key).startswith(fingerprint.lower())]
        if len(found) != 1 or not fingerprint:
            raise ConfigError(fingerprint, f"names {len(found)} keys of the home: see `surety trust show`")
        if key_fingerprint(found[0].key) == self.known.signs:
            raise ConfigError(fingerprint, "is the key that signs: run `surety trust rotate` first")
        self._write(keys=tuple(k for k in self.known.keys if k != found[0]))
        return found[0]

    def next_statement(self) -> tuple[int, str]:
        """Sequence number and time of the next statement, kept at once; later than every one before."""
        now = max(utc_text(utc_now()), self.known.stated_at)
        self._write(sequence=self.known.sequence + 1, stated_at=now)
        return self.known.sequence, now

    def _write(self, **changes: object) -> None:
        self.known = self.known.model_copy(update=changes)
        self._documents.save(_KEYS, self.known)


def _raw(key: str) -> bytes:
    try:
        raw = base64.b64decode(key.removeprefix(_PREFIX), validate=True) if key.startswith(_PREFIX) else b""
    except ValueError:
        raw = b""
    if len(raw) != _BYTES:
        raise ConfigError("public key", "is not `ed25519:` and 32 bytes in base64, as `surety trust show` prints it")
    return raw
