"""Signatures of a model folder in the format of OpenSSF's model-signing 1.0, written and read.

An in-toto statement lists every file with its sha256. It is signed with an elliptic-curve key inside a DSSE envelope,
and lies in a Sigstore bundle: one JSON file, outside the folder. `model_signing verify key` reads it. These signatures
are for other people's tools; what lets a model answer here is in ``ml_core/serve/model/vouching.py``.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ml_core.base.errors import ArtefactError, ConfigError
from ml_core.base.files import read_plain_file, write_whole
from ml_core.base.settings import Settings
from ml_core.serve.trust.statements import pae

__all__ = ["SIGNATURE_SUFFIX", "public_key_path", "sign_folder", "signing_key_path", "verify_folder_signature"]

SIGNATURE_SUFFIX = ".sig"
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_IN_TOTO = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_HASHES: dict[str, type[HashAlgorithm]] = {"secp256r1": SHA256, "secp384r1": SHA384, "secp521r1": SHA512}
_MAX_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 34


def signing_key_path(settings: Settings) -> Path:
    """The home's private key for these signatures (P-256, PEM, mode 0600); made on first use, with its public key."""
    path = settings.trust / "model-signing.key"
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        with write_whole(public_key_path(settings), durable=True) as draft:
            draft.write_bytes(_public_pem(key.public_key()))
        with write_whole(path, durable=True, mode=0o600) as draft:
            draft.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        settings.trust.chmod(0o700)
    return path


def public_key_path(settings: Settings) -> Path:
    """The public key (PEM) to give to those who check the home's signatures."""
    return settings.trust / "model-signing.pub"


def sign_folder(folder: Path, signature: Path, key: Path) -> dict[str, str]:
    """Sign every file of a folder; sha256 by file.

    Parameters
    ----------
    signature : file to write, outside the folder
    key : PEM of an elliptic-curve private key on P-256, P-384 or P-521

    Raises
    ------
    ConfigError
        The key cannot be used, or the signature would lie inside the folder.
    ArtefactError
        The folder holds something that is no plain file.
    """
    if signature.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(str(signature), "would lie inside the folder, which may hold nothing but the model")
    private = _private_key(key)
    files = _hashed(folder)
    payload = orjson.dumps(_statement(folder.resolve().name, files))
    signed = private.sign(pae(_IN_TOTO, payload), ec.ECDSA(_HASHES[private.curve.name]()))
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": _hint(private.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _IN_TOTO,
            "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
        },
    }
    with write_whole(signature, durable=True) as draft:
        draft.write_bytes(orjson.dumps(bundle))
    return files


def verify_folder_signature(folder: Path, signature: Path, key: Path) -> dict[str, str]:
    """Check that a folder holds exactly the files that were signed; sha256 by file.

    Parameters
    ----------
    key : PEM of the public key that must have signed

    Raises
    ------
    ArtefactError
        The signature is none, of another key or of another kind, or the folder is not what was signed.
    ConfigError
        The key cannot be used.
    """
    public = _public_key(key)
    raw = read_plain_file(signature, _MAX_BYTES)
    try:
        bundle = orjson.loads(raw)
        envelope = bundle["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signed = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        kinds = (bundle["mediaType"], envelope["payloadType"], len(envelope["signatures"]))
        hint = bundle["verificationMaterial"].get("publicKey", {}).get("hint") or ""
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ArtefactError(signature.name, "is no signature of a model") from error
    if kinds != (_BUNDLE, _IN_TOTO, 1) or hint not in ("", _hint(public)):
        raise ArtefactError(signature.name, "is of another key, or another kind of signature")
    try:
        public.verify(signed, pae(_IN_TOTO, payload), ec.ECDSA(_HASHES[public.curve.name]()))
    except InvalidSignature as error:
        raise ArtefactError(signature.name, "is not by this key, or was changed") from error
    expected = _resources(payload, signature.name)
    found = _hashed(folder)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            why = "was not signed" if name not in expected else "is missing" if name not in found else "was changed"
            raise ArtefactError(name, why)
    return found


def _statement(name: str, files: dict[str, str]) -> dict[str, Any]:
    return {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": _root(files)}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [{"name": n, "algorithm": "sha256", "digest": d} for n, d in files.items()],
        },
    }


def _resources(payload: bytes, file: str) -> dict[str, str]:
    """The files of a signed statement by name, in its order."""
    try:
        statement = orjson.loads(payload)
        predicate, (subject,) = statement["predicate"], statement["subject"]
        how = predicate["serialization"]
        kinds = (statement["_type"], statement["predicateType"], how["method"], how["hash_type"])
        files = {r["name"]: r["digest"] for r in predicate["resources"] if r["algorithm"] == "sha256"}
        root, n = subject["digest"]["sha256"], len(predicate["resources"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(file, "is signed, but is no list of files") from error
    if kinds != (_STATEMENT, _PREDICATE, "files", "sha256"):
        raise ArtefactError(file, f"lists {how['method']} by {how['hash_type']}; files by sha256 are read here")
    if len(files) != n or root != _root(files):
        raise ArtefactError(file, "contradicts itself")
    return files


def _root(files: dict[str, str]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in files.values())).hexdigest()


def _hashed(folder: Path) -> dict[str, str]:
    """sha256 of every file of the folder by its path within, in the order of the format."""
    found: dict[PurePosixPath, str] = {}
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise ArtefactError(path.name, "is no plain file")
        if path.is_file():
            name = PurePosixPath(path.relative_to(folder).as_posix())
            found[name] = hashlib.sha256(read_plain_file(path, _MAX_FILE_BYTES)).hexdigest()
    if not found:
        raise ArtefactError(folder.name, "holds no files")
    return {str(name): found[name] for name in sorted(found)}


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(str(path), "is no private key without a password, in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _HASHES:
        raise ConfigError(str(path), "is no key on the curves P-256, P-384 or P-521")
    return key


def _public_key(path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), "is no public key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise ConfigError(str(path), "is no key on the curves P-256, P-384 or P-521")
    return key


def _public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _hint(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(_public_pem(key)).hexdigest()
