"""Signatures of a folder in OpenSSF's format, held against OpenSSF's own tool."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ml_core.base.errors import ArtefactError, ConfigError
from ml_core.base.settings import Settings
from ml_core.lab.registry.model_signature import (
    public_key_path,
    sign_folder,
    signing_key_path,
    verify_folder_signature,
)
from tests.oracles import oracle
from tests.toy_models import copied_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A toy artefact."""
    return copied_bundle(tmp_path / "bundle")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def keys(folder: Path, curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """Files with a private and a public key."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    folder.mkdir(exist_ok=True)
    private, public = folder / "key.pem", folder / "key.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


CURVES = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]


@pytest.mark.parametrize("curve", CURVES, ids=lambda c: c.name)
def test_the_tool_reads_what_we_sign_and_we_read_what_it_signs(folder: Path, tmp_path: Path, curve) -> None:
    private, public = keys(tmp_path / "keys", curve)
    ours, theirs = tmp_path / "ours.sig", tmp_path / "theirs.sig"
    files = sign_folder(folder, ours, private)
    assert set(files) == {path.name for path in folder.iterdir()}
    read = oracle("model_signing", "verify", "key", folder, "--signature", ours, "--public_key", public)
    assert read.returncode == 0, read.stdout + read.stderr
    written = oracle("model_signing", "sign", "key", folder, "--signature", theirs, "--private_key", private)
    assert written.returncode == 0, written.stdout + written.stderr
    assert verify_folder_signature(folder, theirs, public) == files


def test_a_folder_in_a_folder_is_listed_in_the_tools_order(folder: Path, tmp_path: Path) -> None:
    for name in ("a.txt", "a/b", "a-b/c", "a/a/z", "Z"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    private, public = keys(tmp_path / "keys")
    sign_folder(folder, tmp_path / "ours.sig", private)
    read = oracle(
        "model_signing", "verify", "key", folder, "--signature", tmp_path / "ours.sig", "--public_key", public
    )
    assert read.returncode == 0, read.stdout + read.stderr


def more(folder: Path) -> None:
    (folder / "extra.txt").write_text("x")


def less(folder: Path) -> None:
    (folder / "golden.json").unlink()


def other(folder: Path) -> None:
    (folder / "golden.json").write_text("[]")


def linked(folder: Path) -> None:
    (folder / "golden.json").rename(folder.parent / "kept")
    (folder / "golden.json").symlink_to(folder.parent / "kept")


@pytest.mark.parametrize("change", [more, less, other, linked])
def test_a_changed_folder_is_refused_by_both(folder: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    private, public = keys(tmp_path / "keys")
    signature = tmp_path / "m.sig"
    sign_folder(folder, signature, private)
    change(folder)
    with pytest.raises(ArtefactError, match=r"extra\.txt|golden\.json"):
        verify_folder_signature(folder, signature, public)
    assert (
        oracle("model_signing", "verify", "key", folder, "--signature", signature, "--public_key", public).returncode
        != 0
    )


def test_another_key_and_a_changed_statement_are_refused(folder: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path / "keys")
    _, stranger = keys(tmp_path / "other")
    signature = tmp_path / "m.sig"
    sign_folder(folder, signature, private)
    with pytest.raises(ArtefactError, match="another key"):
        verify_folder_signature(folder, signature, stranger)
    bundle = json.loads(signature.read_bytes())
    del bundle["verificationMaterial"]["publicKey"]["hint"]
    signature.write_text(json.dumps(bundle))
    assert verify_folder_signature(folder, signature, public)  # as older tools wrote it
    with pytest.raises(ArtefactError, match="not by this key"):
        verify_folder_signature(folder, signature, stranger)
    (folder / "golden.json").write_text("[]")
    shutil.copy(signature, tmp_path / "before.sig")
    sign_folder(folder, tmp_path / "second.sig", private)
    second = json.loads((tmp_path / "second.sig").read_bytes())
    bundle["dsseEnvelope"]["payload"] = second["dsseEnvelope"]["payload"]
    signature.write_text(json.dumps(bundle))
    with pytest.raises(ArtefactError, match="was changed"):
        verify_folder_signature(folder, signature, public)


def test_a_list_that_contradicts_itself_is_refused(folder: Path, tmp_path: Path, monkeypatch) -> None:
    private, public = keys(tmp_path / "keys")
    monkeypatch.setattr("ml_core.lab.registry.model_signature._root", lambda _: "0" * 64)
    sign_folder(folder, tmp_path / "m.sig", private)
    monkeypatch.undo()
    with pytest.raises(ArtefactError, match="contradicts"):
        verify_folder_signature(folder, tmp_path / "m.sig", public)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"{", b'{"dsseEnvelope": {"payload": 1, "signatures": []}}'])
def test_what_is_no_signature_is_refused(folder: Path, tmp_path: Path, raw: bytes) -> None:
    _, public = keys(tmp_path / "keys")
    (tmp_path / "m.sig").write_bytes(raw)
    with pytest.raises(ArtefactError, match=r"m\.sig"):
        verify_folder_signature(folder, tmp_path / "m.sig", public)


def test_only_elliptic_keys_sign(folder: Path, tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError, match="P-256"):
        sign_folder(folder, tmp_path / "m.sig", tmp_path / "key")
    with pytest.raises(ConfigError, match="inside the folder"):
        sign_folder(folder, folder / "m.sig", keys(tmp_path / "keys")[0])


def test_the_homes_key_is_made_once_and_is_private(folder: Path, tmp_path: Path, settings: Settings) -> None:
    key = signing_key_path(settings)
    before = key.read_bytes()
    assert signing_key_path(settings).read_bytes() == before
    assert key.stat().st_mode & 0o777 == 0o600
    sign_folder(folder, tmp_path / "m.sig", key)
    assert verify_folder_signature(folder, tmp_path / "m.sig", public_key_path(settings))
    assert b"PRIVATE" not in base64.b64decode(json.loads((tmp_path / "m.sig").read_bytes())["dsseEnvelope"]["payload"])
