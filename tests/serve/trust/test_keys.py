"""The keys that are believed, and the home's own."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ml_core.base.errors import ConfigError
from ml_core.base.settings import Settings, load_settings
from ml_core.serve.trust.keys import SigningKey, TrustedKey, TrustedKeys, home_keys, key_fingerprint, trusted_keys


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(home=tmp_path / "home")


def stranger() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.generate())


def made(settings: Settings) -> SigningKey:
    with TrustedKeys(settings) as keys:
        return keys.signing_key(lambda _: None)


def test_the_home_makes_its_key_once_and_trusts_it(settings):
    assert trusted_keys(settings) == ()
    key = made(settings)
    assert made(settings).public == key.public
    (trusted,) = trusted_keys(settings)
    assert (trusted.key, trusted.source, trusted.fingerprint) == (key.public, "home", home_keys(settings).signs)
    assert trusted.verifies(key.sign(b"yes"), b"yes")
    assert not trusted.verifies(key.sign(b"yes"), b"no")
    assert not trusted.verifies(stranger().sign(b"yes"), b"yes")


def test_the_private_key_is_the_owners_alone(settings):
    made(settings)
    assert (settings.trust / "signing.key").stat().st_mode & 0o777 == 0o600
    assert settings.trust.stat().st_mode & 0o777 == 0o700


def test_keys_come_from_home_environment_and_image(settings):
    own, environment, image = made(settings).public, stranger().public, stranger().public
    asked = settings.model_copy(update={"trusted_keys": f" {environment},\n"})
    assert [(k.key, k.source) for k in trusted_keys(asked, (image,))] == [
        (own, "home"),
        (environment, "environment"),
        (image, "image"),
    ]


@pytest.mark.parametrize("text", ["ed25519:", "ed25519:AAAA", "rsa:" + "A" * 44, "A" * 64, "ed25519:" + "?" * 43 + "="])
def test_what_is_no_public_key_is_refused_by_name(text, monkeypatch):
    with pytest.raises(ConfigError, match="public key"):
        key_fingerprint(text)
    monkeypatch.setenv("SURETY_TRUSTED_KEYS", text)
    with pytest.raises(ConfigError, match="SURETY_TRUSTED_KEYS"):
        load_settings()


def test_a_new_key_signs_and_the_old_one_stays_trusted_until_it_is_removed(settings):
    old = made(settings)
    seen = []
    with TrustedKeys(settings) as keys:
        new = keys.make("next year", lambda key: seen.append((key.public, home_keys(settings).signs)))
    assert seen == [(new.public, key_fingerprint(old.public))]  # while papers are signed anew, the old key signs
    assert made(settings).public == new.public
    assert {k.key for k in trusted_keys(settings)} == {old.public, new.public}
    with TrustedKeys(settings) as keys:
        assert keys.remove(key_fingerprint(old.public)[:10]).key == old.public
    assert [k.key for k in trusted_keys(settings)] == [new.public]


def test_the_key_that_signs_an_unknown_key_and_no_key_are_not_removed(settings):
    key = made(settings)
    with TrustedKeys(settings) as keys:
        for fingerprint, problem in ((key_fingerprint(key.public), "rotate"), ("0" * 64, "0 keys"), ("", "keys")):
            with pytest.raises(ConfigError, match=problem):
                keys.remove(fingerprint)
    assert [k.key for k in trusted_keys(settings)] == [key.public]


def test_a_key_is_added_once(settings):
    key = stranger().public
    with TrustedKeys(settings) as keys:
        assert (keys.add(key, "training host"), keys.add(key, "again")) == (True, False)
    assert [k.name for k in trusted_keys(settings)] == ["training host"]


def test_a_lost_or_foreign_private_key_signs_nothing(settings):
    made(settings)
    path = settings.trust / "signing.key"
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(ConfigError, match="surety trust rotate"):
        made(settings)
    other = settings.model_copy(update={"home": settings.home / "other"})
    made(other)
    path.write_bytes((other.trust / "signing.key").read_bytes())
    with pytest.raises(ConfigError, match="is no key"):
        made(settings)
    path.write_bytes(kept)
    made(settings)


def test_statements_are_numbered_and_never_go_back_in_time(settings, monkeypatch):
    with TrustedKeys(settings) as keys:
        first = keys.next_statement()
    monkeypatch.setattr("ml_core.serve.trust.keys.utc_text", lambda _: "2001-01-01T00:00:00.000000Z")
    with TrustedKeys(settings) as keys:
        second = keys.next_statement()
    assert (first[0], second[0], second[1]) == (1, 2, first[1])


def test_a_key_of_a_published_test_vector():
    """RFC 8032, section 7.1, test 2."""
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    import base64

    key = TrustedKey("ed25519:" + base64.b64encode(public).decode(), "home")
    assert key.verifies(signature, b"\x72")
    assert not key.verifies(signature, b"\x73")
