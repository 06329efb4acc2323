"""Models among the objects of a home: by full hash, verified before they are believed, kept in a cache on this machine.

``models/<hash>/<file>`` are the files of an artefact, each written once. ``tags/<name>/<version>`` says which hash a
tag stands for. A tag is a name for people: whoever loads a model checks the hash that the rollout, the promotion or a
signed verdict names, wherever the model came from.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ml_core.base.errors import ArtefactError, ChecksumMismatch
from ml_core.base.files import locked, read_plain_file
from ml_core.base.settings import Settings
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL
from ml_core.serve.model.model_home import home_folder

if TYPE_CHECKING:
    from ml_core.serve.home.stores import Objects

__all__ = ["fetch_model", "upload_model"]

_HASH_BYTES, _TAG_LIMIT = 64, 128


def upload_model(objects: Objects, tag: str, source: Path) -> str:
    """Store a model of the Bento store or of the home among the objects; its hash. Done twice, it is there once.

    The tag is written last, so that whoever finds it finds the whole model.

    Parameters
    ----------
    source : its folder there

    Raises
    ------
    ArtefactError
        The folder cannot be trusted.
    HomeUnreachable, OSError
        The objects cannot be written to now.
    """
    from ml_core.serve.model.bundle import MANIFEST_FILE, MAX_MANIFEST_BYTES, verify_folder

    bundle = source / BUNDLE_IN_BENTO_MODEL
    _, model_hash, content = verify_folder(bundle)
    manifest = read_plain_file(bundle / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    if hashlib.sha256(manifest).hexdigest() != model_hash:
        raise ChecksumMismatch(MANIFEST_FILE, "was changed while it was copied")
    for name, raw in {**content, MANIFEST_FILE: manifest}.items():
        # Replaced, since an object of that name that is another one would keep the model from ever being loaded.
        objects.put(f"models/{model_hash}/{name}", raw, replace=True)
    objects.put(_tag_object(tag), model_hash.encode(), replace=True)
    return model_hash


def fetch_model(objects: Objects, tag: str, model_hash: str, settings: Settings) -> Path | None:
    """Bring a model into ``SURETY_HOME/models``, whole or not at all; its folder, None where no object has that tag.

    Parameters
    ----------
    model_hash : that it must have, in full; "" takes what its tag says

    Raises
    ------
    ArtefactError
        An object is missing, or is not the one that the manifest, or the hash, names.
    HomeUnreachable, OSError
        The objects cannot be read, or the home cannot be written to.
    """
    from ml_core.serve.model.bundle import MANIFEST_FILE, MAX_MANIFEST_BYTES, verify_folder
    from ml_core.serve.model.manifest import parse_manifest

    wanted = model_hash or _hash_of(objects, tag)
    if wanted is None:
        return None
    manifest = _object(objects, wanted, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    if hashlib.sha256(manifest).hexdigest() != wanted:
        raise ChecksumMismatch(MANIFEST_FILE, f"among the objects is not the one of the model {wanted[:12]}…")
    target = home_folder(tag, settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(settings.home / "import.lock"), TemporaryDirectory(dir=settings.models, prefix=".placing-") as draft:
        made = Path(draft) / "model"
        bundle = made / BUNDLE_IN_BENTO_MODEL
        bundle.mkdir(parents=True)
        for name, entry in parse_manifest(manifest).files.items():
            if Path(name).name != name:
                raise ArtefactError(name, "is no file of a model folder")
            (bundle / name).write_bytes(_object(objects, wanted, name, entry.size))
        (bundle / MANIFEST_FILE).write_bytes(manifest)
        verify_folder(bundle, wanted)
        if target.exists():
            target.rename(Path(draft) / "old")
        made.rename(target)
    return target


def _object(objects: Objects, model_hash: str, name: str, limit: int) -> bytes:
    found = objects.get(f"models/{model_hash}/{name}", limit)
    if found is None:
        raise ArtefactError(name, f"of the model {model_hash[:12]}… is not among the objects: import the model again")
    return found


def _hash_of(objects: Objects, tag: str) -> str | None:
    found = objects.get(_tag_object(tag), _TAG_LIMIT)
    if found is None:
        return None
    text = found.decode("ascii", "replace").strip()
    digits = tag.rpartition("-")[2]
    if len(text) != _HASH_BYTES or not text.startswith(digits) or set(text) - set("0123456789abcdef"):
        raise ArtefactError(tag, "among the objects names another model than the one of its tag")
    return text


def _tag_object(tag: str) -> str:
    name, _, version = tag.partition(":")
    return f"tags/{name}/{version}"
