"""Signed statements about models: a gate's verdict, a promotion. Believed by their signature, wherever they lie.

A statement travels in a DSSE envelope (https://github.com/secure-systems-lab/dsse). The signature covers the type of
the payload and its very bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, ValidationError

from ml_core.base.documents import Document
from ml_core.base.errors import ArtefactError
from ml_core.serve.trust.keys import SigningKey, TrustedKey, key_fingerprint

__all__ = ["MAX_BYTES", "Envelope", "EnvelopeSignature", "Statement", "believed", "pae", "signed", "signed_anew"]

MAX_BYTES = 1 << 20
"""No file with a statement is larger."""
_TYPE = "application/vnd.surety.statement+json"


class Statement(Document):
    """What the owner of a key says about one model.

    Attributes
    ----------
    kind : which decision it is
    model_name, model_hash : of the model, the hash in full
    versions : registered versions that are known to have this hash; a hash under the tag of another version is refused
    stated_at, sequence : the newest statement about a hash decides, by its time, then by its number
    facts : the gate report or promotion record
    """

    kind: Literal["gate", "promotion"]
    model_name: str
    model_hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    versions: tuple[str, ...]
    stated_at: str
    sequence: int = Field(ge=0)
    facts: dict[str, Any]


class EnvelopeSignature(Document):
    """One signature: the fingerprint of the key, and the signature in base64."""

    keyid: str
    sig: str


class Envelope(Document):
    """A file with a statement.

    Attributes
    ----------
    payloadType, payload : the kind of payload, and its bytes in base64
    signatures : each by itself is enough
    """

    payloadType: str  # noqa: N815 - DSSE names it so
    payload: str
    signatures: tuple[EnvelopeSignature, ...] = Field(max_length=16)


def pae(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs: the payload with its type and both lengths."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def signed(statement: Statement, key: SigningKey) -> Envelope:
    """The statement, signed."""
    return _signed(statement.model_dump_json().encode(), key)


def signed_anew(envelope: Envelope, key: SigningKey) -> Envelope:
    """The same statement, byte for byte, signed by another key. Whoever calls it has verified it before."""
    return _signed(base64.b64decode(envelope.payload), key)


def believed(raw: bytes, file: str, keys: Iterable[TrustedKey]) -> Statement:
    """The statement in those bytes.

    Parameters
    ----------
    raw : content of a file that anybody may have written
    file : its name, for the message
    keys : whose statements are believed

    Raises
    ------
    ArtefactError
        It is no signed statement, or no key of these has signed it.
    """
    try:
        envelope = Envelope.model_validate_json(raw)
        payload = base64.b64decode(envelope.payload, validate=True)
        signatures = [(s.keyid, base64.b64decode(s.sig, validate=True)) for s in envelope.signatures]
    except ValueError as error:
        raise ArtefactError(file, "is no signed statement") from error
    if envelope.payloadType != _TYPE:
        raise ArtefactError(file, "is signed, but is no statement about a model")
    by_id = {key.fingerprint: key for key in keys}
    message = pae(_TYPE, payload)
    if not any(keyid in by_id and by_id[keyid].verifies(signature, message) for keyid, signature in signatures):
        raise ArtefactError(file, "is signed by no key that is trusted here: see `surety trust show`")
    try:
        return Statement.model_validate_json(payload)
    except ValidationError as error:
        raise ArtefactError(file, "holds a statement that cannot be read") from error


def _signed(payload: bytes, key: SigningKey) -> Envelope:
    signature = EnvelopeSignature(
        keyid=key_fingerprint(key.public), sig=base64.b64encode(key.sign(pae(_TYPE, payload))).decode()
    )
    return Envelope(payloadType=_TYPE, payload=base64.b64encode(payload).decode(), signatures=(signature,))
