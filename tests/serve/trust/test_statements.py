"""A statement is what its signature covers, or nothing."""

from __future__ import annotations

import base64
import json
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ml_core.base.errors import ArtefactError
from ml_core.serve.trust.keys import SigningKey, TrustedKey
from ml_core.serve.trust.statements import Statement, believed, pae, signed, signed_anew

STATEMENT = Statement(
    kind="gate", model_name="risk", model_hash="ab" * 32, versions=("3",), stated_at="2026-01-01T00:00:00.000000Z",
    sequence=4, facts={"passed": True, "value": 0.1},
)  # fmt: skip


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.generate())


def trusted(key: SigningKey) -> list[TrustedKey]:
    return [TrustedKey(key.public, "home")]


def test_what_was_signed_is_believed(key):
    raw = signed(STATEMENT, key).model_dump_json().encode()
    assert believed(raw, "gate.json", trusted(key)) == STATEMENT


def test_pae_is_that_of_the_standard():
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_another_key_signs_the_same_bytes(key):
    other = SigningKey(Ed25519PrivateKey.generate())
    envelope = signed(STATEMENT, key)
    anew = signed_anew(envelope, other)
    assert anew.payload == envelope.payload
    assert believed(anew.model_dump_json().encode(), "gate.json", trusted(other)) == STATEMENT
    with pytest.raises(ArtefactError, match="no key that is trusted"):
        believed(anew.model_dump_json().encode(), "gate.json", trusted(key))


def test_no_change_of_a_byte_is_believed_as_something_else(key):
    """Every byte once, and 2,000 times any: refused, or the very statement."""
    raw = signed(STATEMENT, key).model_dump_json().encode()
    dice = random.Random(5)
    changed = [raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :] for at in range(len(raw)) for bit in (0, 5)]
    for _ in range(2_000):
        at, n = dice.randrange(len(raw)), dice.randrange(4)
        changed.append(raw[:at] + dice.randbytes(n) + raw[at + dice.randrange(4) :])
    refused = 0
    for other in changed:
        try:
            assert believed(other, "gate.json", trusted(key)) == STATEMENT
        except ArtefactError:
            refused += 1
    assert refused > 0.9 * len(changed)


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"payloadType":"x"}'])
def test_what_is_no_envelope_is_refused(raw, key):
    with pytest.raises(ArtefactError, match=r"gate\.json"):
        believed(raw, "gate.json", trusted(key))


def test_a_signed_payload_that_is_no_statement_is_refused(key):
    payload = b'{"kind": "gate"}'
    envelope = json.loads(signed(STATEMENT, key).model_dump_json())
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(key.sign(pae(envelope["payloadType"], payload))).decode()
    with pytest.raises(ArtefactError, match="cannot be read"):
        believed(json.dumps(envelope).encode(), "gate.json", trusted(key))
