"""The copies of signed papers that lie beside models: brought up to date, and which models hang on one key alone.

A copy is only ever made from the home's own paper. What lies beside a model may have been put there by whoever has
stolen a key, so it is never signed anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ml_core.base.errors import SuretyError
from ml_core.base.files import locked, read_plain_file
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.model.loader import BUNDLE_IN_BENTO_MODEL, ModelLoader
from ml_core.serve.model.promotion_record import gate_name
from ml_core.serve.model.vouching import (
    GATE_IN_BENTO_MODEL,
    PROMOTION_IN_BENTO_MODEL,
    Vouchers,
    copy_papers,
    signed_name,
)
from ml_core.serve.trust.statements import MAX_BYTES

__all__ = ["RenewedCopies", "hanging_on", "renew_copies"]


class RenewedCopies(NamedTuple):
    """Tags of models whose copies are those of the home now; and those that could not be written, with the reason."""

    renewed: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


class _Stored(NamedTuple):
    tag: str
    folder: Path
    name: str
    model_hash: str


def renew_copies(settings: Settings) -> RenewedCopies:
    """Replace the copies beside all models of the Bento store and of ``SURETY_HOME/models`` by the home's papers.

    Models without a copy get none, and copies of what the home knows nothing of stay as they are.

    Raises
    ------
    ArtefactError
        A paper of the home is damaged.
    """
    documents = open_home(settings).documents
    renewed, failed = [], []
    for model in _stored(settings):
        has_copy = any((model.folder / paper).exists() for paper in (GATE_IN_BENTO_MODEL, PROMOTION_IN_BENTO_MODEL))
        if not has_copy or documents.read(signed_name(gate_name(model.model_hash))) is None:
            continue
        try:
            with locked(settings.home / "import.lock"):
                copy_papers(model.folder, model.name, model.model_hash, settings)
        except OSError as error:
            failed.append((model.tag, error.strerror or type(error).__name__))
        else:
            renewed.append(model.tag)
    return RenewedCopies(tuple(sorted(set(renewed))), tuple(failed))


def hanging_on(settings: Settings, fingerprint: str) -> tuple[str, ...]:
    """Tags of models that may answer now, and no longer once the key with that fingerprint is removed."""
    now, later = Vouchers(settings), Vouchers(settings, without=fingerprint)
    return tuple(sorted({m.tag for m in _stored(settings) if _may_answer(now, m) and not _may_answer(later, m)}))


def _may_answer(vouchers: Vouchers, model: _Stored) -> bool:
    try:
        gate = vouchers.gate(model.tag, model.model_hash, model.folder, is_pinned=True)
    except SuretyError:
        return False
    return gate is not None and gate.passed


def _stored(settings: Settings) -> Iterator[_Stored]:
    """All stored models, of every name, as their folders say; nothing of it is verified."""
    for tag, folder in ModelLoader(settings).folders():
        try:
            raw = read_plain_file(folder / BUNDLE_IN_BENTO_MODEL / "manifest.json", MAX_BYTES)
            name = json.loads(raw)["name"]
        except (SuretyError, OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(name, str) and name.lower() == tag.partition(":")[0]:
            yield _Stored(tag, folder, name, hashlib.sha256(raw).hexdigest())
