"""What lets a model answer: signed verdicts and promotions, read wherever they lie and believed by their signature.

In the home each paper lies twice: plain, for people and older versions (``gates/HASH.json``), and signed
(``gates/HASH.signed.json``), which is what counts. Beside an artefact lies a copy of the signed one, as ``gate.json``
and ``promotion.json``. A home that has never signed anything is believed as it is, since whoever writes there is
trusted. The first signature signs what lies there, and from then on only signed papers count.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from ml_core.base.documents import Document, write_document
from ml_core.base.errors import ArtefactError, NotGated
from ml_core.base.files import read_plain_file
from ml_core.base.settings import Settings
from ml_core.serve.home.homes import open_home
from ml_core.serve.home.stores import Documents
from ml_core.serve.model.promotion_record import (
    GateReport,
    PromotionRecord,
    bento_tag,
    gate_name,
    plain_promotion,
    promotion_name,
)
from ml_core.serve.trust.keys import HomeKey, SigningKey, TrustedKeys, home_keys, key_fingerprint, trusted_keys
from ml_core.serve.trust.statements import MAX_BYTES, Envelope, Statement, believed, signed, signed_anew

__all__ = [
    "GATE_IN_BENTO_MODEL",
    "PROMOTION_IN_BENTO_MODEL",
    "Vouchers",
    "copy_papers",
    "distrust_key",
    "keep_gate",
    "keep_promotion",
    "papers_without_weight",
    "rotate_key",
    "sign_old_home",
    "signed_name",
    "trust_key",
]

logger = logging.getLogger(__name__)

GATE_IN_BENTO_MODEL = "gate.json"
PROMOTION_IN_BENTO_MODEL = "promotion.json"
"""Signed copies that travel beside the artefact: a bento needs no other place to vouch for its model, only the key."""
_SIGNED = ".signed.json"
_FOLDERS = ("gates", "promotions")
Kind = Literal["gate", "promotion"]
_Paper = TypeVar("_Paper", bound=Document)


class Vouchers:
    """Reads what is said of models, and believes what a trusted key has signed.

    Parameters
    ----------
    settings : of the home
    image : public keys that the running bento brought with it
    without : fingerprint of a key that is not believed, to see what hangs on it
    """

    def __init__(self, settings: Settings, image: tuple[str, ...] = (), without: str = "") -> None:
        self._settings = settings
        self._image = image
        self._without = without

    def gate(self, tag: str, model_hash: str, folder: Path | None, *, is_pinned: bool) -> GateReport | None:
        """The newest verdict on that hash under that tag; None where nobody who is trusted has judged it.

        Parameters
        ----------
        folder : of the model in a store; None where it is in none
        is_pinned : the full hash was asked for, not only the eight digits in the tag

        Raises
        ------
        NotGated
            The tag is not the hash's, or stands for several models that were judged.
        ArtefactError
            A paper in the home is damaged.
        """
        name, _, rest = tag.partition(":v")
        version, _, digits = rest.rpartition("-")
        if not model_hash.startswith(digits) or len(digits) != 8:
            raise NotGated(tag, f"its hash is {model_hash[:12]}…, which is not the one in its tag")
        found = [s for s in self._verdicts(digits, folder) if s.model_name.lower() == name and _is_of(s, version)]
        others = {s.model_hash for s in found} - {model_hash}
        if others and not is_pinned:
            raise NotGated(tag, f"its tag stands for {len(others) + 1} models that were judged: none is taken for it")
        about = [s for s in found if s.model_hash == model_hash]
        if not about:
            return None
        newest = max(about, key=lambda s: (s.stated_at, s.sequence, not s.facts.get("passed", False)))
        return _facts_of(newest, GateReport)

    def promotion(self) -> PromotionRecord | None:
        """The promotion record of the configured model in the home; None where nothing was promoted.

        Raises
        ------
        ArtefactError
            It is damaged, or signed by no trusted key.
        """
        name = self._settings.model_name
        signed_one = signed_name(promotion_name(name))
        raw = open_home(self._settings).documents.read(signed_one)
        if raw is not None:
            return _promotion_of(self._believed(raw, signed_one, "promotion"), name)
        if home_keys(self._settings).signs:
            return None
        return plain_promotion(self._settings, name)

    def promotion_beside(self, folder: Path) -> PromotionRecord | None:
        """The promotion record that travelled with a model, where a trusted key has signed it."""
        statement = self._beside(folder / PROMOTION_IN_BENTO_MODEL, "promotion")
        return None if statement is None else _promotion_of(statement, statement.model_name)

    def verdict_beside(self, folder: Path) -> GateReport | None:
        """The verdict that travelled with a model, where a trusted key has signed it."""
        statement = self._beside(folder / GATE_IN_BENTO_MODEL, "gate")
        return None if statement is None else _facts_of(statement, GateReport)

    def _verdicts(self, digits: str, folder: Path | None) -> Iterator[Statement]:
        """Every believed verdict on a hash that begins with those digits: in the home, and beside the artefact."""
        if home_keys(self._settings).signs:
            documents = open_home(self._settings).documents
            names = [n for n in documents.names("gates") if n.startswith(f"gates/{digits}") and n.endswith(_SIGNED)]
            papers = ((name, documents.read(name)) for name in names)
            in_home = (self._believed(raw, name, "gate") for name, raw in papers if raw is not None)
        else:
            in_home = (statement for _, statement in _unsigned_papers(self._settings) if statement.kind == "gate")
        beside = None if folder is None else self._beside(folder / GATE_IN_BENTO_MODEL, "gate")
        for statement in (*in_home, *(() if beside is None else (beside,))):
            if statement.model_hash.startswith(digits):
                yield statement

    def _believed(self, raw: bytes, name: str, kind: Kind) -> Statement:
        """The signed paper that these bytes are.

        Raises
        ------
        ArtefactError
            They are none, or signed by no trusted key.
        """
        keys = [k for k in trusted_keys(self._settings, self._image) if k.fingerprint != self._without]
        short = name.rpartition("/")[2]
        statement = believed(raw, short, keys)
        if statement.kind != kind:
            raise ArtefactError(short, f"is a signed {statement.kind}, where a {kind} should be")
        return statement

    def _beside(self, path: Path, kind: Kind) -> Statement | None:
        """What lies there, where it is believed. It may be anything: what is not believed is told and passed over."""
        if not path.is_file():
            return None
        try:
            return self._believed(read_plain_file(path, MAX_BYTES), path.name, kind)
        except ArtefactError as error:
            logger.info("paper.not_believed", extra={"reason": str(error)})
            return None


def signed_name(plain: str) -> str:
    """Name of the signed paper that belongs to a plain one in the home."""
    return plain.removesuffix(".json") + _SIGNED


def keep_gate(settings: Settings, report: GateReport, version: str) -> None:
    """Sign the verdict and keep it in the home.

    Parameters
    ----------
    version : the registered version that was judged
    """
    _keep(settings, gate_name(report.model_hash), "gate", report, version)


def keep_promotion(settings: Settings, record: PromotionRecord) -> None:
    """Sign the record and keep it in the home."""
    _keep(settings, promotion_name(record.model_name), "promotion", record, record.model_version)


def copy_papers(folder: Path, name: str, model_hash: str, settings: Settings) -> GateReport | None:
    """Put the home's signed papers of a hash beside the artefact in that folder; the verdict that then lies there.

    Raises
    ------
    ArtefactError
        A paper of the home is damaged.
    """
    sign_old_home(settings)
    documents = open_home(settings).documents
    vouchers = Vouchers(settings.model_copy(update={"model_name": name}))
    promoted = vouchers.promotion()
    papers = [(gate_name(model_hash), GATE_IN_BENTO_MODEL)]
    if promoted is not None and promoted.model_hash == model_hash:
        papers.append((promotion_name(name), PROMOTION_IN_BENTO_MODEL))
    for paper, beside in papers:
        envelope = documents.load(signed_name(paper), Envelope)
        if envelope is not None:
            write_document(folder / beside, envelope)
    verdict = vouchers.verdict_beside(folder)
    return verdict if verdict is not None and verdict.model_hash == model_hash else None


def sign_old_home(settings: Settings) -> None:
    """Sign what lies in a home that has never signed anything; nothing where it has, or where nothing lies there.

    Raises
    ------
    OSError
        The home cannot be written to.
    """
    if not home_keys(settings).signs and next(_unsigned_papers(settings), None) is not None:
        with TrustedKeys(settings) as keys:
            _signing_key(settings, keys)


def rotate_key(settings: Settings, name: str, *, why: str = "") -> tuple[str, int]:
    """Make a new signing key and sign every current paper of the home with it; its public key, and how many papers.

    The old key stays trusted until it is removed.

    Raises
    ------
    ArtefactError
        A paper of the home is damaged, or signed by no trusted key. The old key goes on signing.
    """
    count = 0

    def sign_anew(key: SigningKey) -> None:
        nonlocal count
        trusted = trusted_keys(settings)
        for paper in (n for folder in _FOLDERS for n in home.documents.names(folder) if n.endswith(_SIGNED)):
            raw = home.documents.read(paper)
            if raw is not None:
                believed(raw, paper.rpartition("/")[2], trusted)
                home.documents.save(paper, signed_anew(Envelope.model_validate_json(raw), key))
                count += 1

    sign_old_home(settings)
    home = open_home(settings)
    with TrustedKeys(settings) as keys:
        key = keys.make(name, sign_anew)
        home.journal.append("trust.rotated", {"key": key.public, "signed_anew": count, "why": why})
    return key.public, count


def trust_key(settings: Settings, key: str, name: str, *, why: str = "") -> bool:
    """Trust another machine's public key from now on; False where it was trusted already.

    Raises
    ------
    ConfigError
        It is no public key.
    """
    key_fingerprint(key)
    with TrustedKeys(settings) as keys:
        _signing_key(settings, keys)  # from here on the home is one that signs
        is_new = keys.add(key, name)
    if is_new:
        open_home(settings).journal.append("trust.added", {"key": key, "name": name, "why": why})
    return is_new


def distrust_key(settings: Settings, fingerprint: str, *, why: str = "") -> HomeKey:
    """Trust a key of the home no longer; the removed key.

    Raises
    ------
    ConfigError
        The first digits of a fingerprint name no key, several, or the key that signs.
    """
    with TrustedKeys(settings) as keys:
        removed = keys.remove(fingerprint)
    open_home(settings).journal.append("trust.removed", {"key": removed.key, "name": removed.name, "why": why})
    return removed


def papers_without_weight(settings: Settings) -> list[str]:
    """Plain papers of a home that signs which are not what was signed, by file name: they count for nothing.

    A version from before signatures leaves such papers, or somebody who edits them.
    """
    if not home_keys(settings).signs:
        return []
    documents = open_home(settings).documents
    found = []
    for plain in (name for folder in _FOLDERS for name in _plain(documents, folder)):
        envelope, raw = documents.load(signed_name(plain), Envelope), documents.read(plain)
        statement = None if envelope is None else json.loads(base64.b64decode(envelope.payload))
        if raw is not None and (statement is None or statement["facts"] != json.loads(raw)):
            found.append(plain.rpartition("/")[2])
    return found


def _keep(settings: Settings, plain: str, kind: Kind, paper: GateReport | PromotionRecord, version: str) -> None:
    """The signed paper first: it is the one that counts."""
    documents, name = open_home(settings).documents, signed_name(plain)
    with TrustedKeys(settings) as keys:
        key = _signing_key(settings, keys)
        versions = {version}
        if kind == "gate" and (raw := documents.read(name)) is not None:
            versions.update(believed(raw, name.rpartition("/")[2], trusted_keys(settings)).versions)
        sequence, stated_at = keys.next_statement()
        statement = _statement(kind, paper, tuple(sorted(versions)), stated_at, sequence)
        documents.save(name, signed(statement, key))
        documents.save(plain, paper)


def _signing_key(settings: Settings, keys: TrustedKeys) -> SigningKey:
    """The key that signs; when it is made, what lies in the home is signed with it before it counts."""

    def sign_what_lies_here(key: SigningKey) -> None:
        home = open_home(settings)
        papers = list(_unsigned_papers(settings))
        for name, statement in papers:
            home.documents.save(name, signed(statement, key))
        facts = {"key": key.public, "papers_signed": [name.rpartition("/")[2] for name, _ in papers]}
        home.journal.append("trust.began", facts)

    return keys.signing_key(sign_what_lies_here)


def _unsigned_papers(settings: Settings) -> Iterator[tuple[str, Statement]]:
    """What lies in a home that has never signed: each paper as a statement, and the name of the signed one."""
    documents = open_home(settings).documents
    promotions = (documents.load(name, PromotionRecord) for name in _plain(documents, "promotions"))
    records = [record for record in promotions if record is not None]
    reports = {name: documents.load(name, GateReport) for name in _plain(documents, "gates")}
    for record in records:
        reports.setdefault(gate_name(record.gate.model_hash), record.gate)
        name = signed_name(promotion_name(record.model_name))
        yield name, _statement("promotion", record, (record.model_version,), record.promoted_at)
    known = _versions_known(settings, records) if reports else {}
    for name, report in reports.items():
        if report is not None and name == gate_name(report.model_hash):
            versions = tuple(sorted(known.get(report.model_hash, ())))
            yield signed_name(name), _statement("gate", report, versions, report.judged_at)


def _plain(documents: Documents, folder: str) -> list[str]:
    return [name for name in documents.names(folder) if not name.endswith(_SIGNED)]


def _statement(
    kind: Kind, paper: GateReport | PromotionRecord, versions: tuple[str, ...], stated_at: str, sequence: int = 0
) -> Statement:
    return Statement(
        kind=kind,
        model_name=paper.model_name,
        model_hash=paper.model_hash,
        versions=versions,
        stated_at=stated_at,
        sequence=sequence,
        facts=paper.model_dump(mode="json"),
    )


def _versions_known(settings: Settings, records: Sequence[PromotionRecord]) -> dict[str, set[str]]:
    """Registered versions by hash, by the home's promotion records and journal."""
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(record.model_hash, set()).add(record.model_version)
    for entry in open_home(settings).journal.entries():
        model_hash, version = entry.get("model_hash"), entry.get("version")
        if isinstance(model_hash, str) and isinstance(version, str):
            found.setdefault(model_hash, set()).add(version)
    return found


def _is_of(statement: Statement, version: str) -> bool:
    """Whether the judged hash is known as that version; old homes may not know, and then it may be any."""
    return not statement.versions or version in statement.versions


def _promotion_of(statement: Statement, name: str) -> PromotionRecord:
    """The record in a believed promotion.

    Raises
    ------
    ArtefactError
        It is of another model than it should be.
    """
    record = _facts_of(statement, PromotionRecord)
    tag = bento_tag(name, record.model_version, record.model_hash)
    if (record.model_name, record.model_hash, record.bento_tag) != (name, statement.model_hash, tag):
        raise ArtefactError("promotion", f"is signed, but not for {name}")
    return record


def _facts_of(statement: Statement, kind: type[_Paper]) -> _Paper:
    try:
        return kind.model_validate(statement.facts)
    except ValidationError as error:
        raise ArtefactError(statement.kind, f"is signed, but is no {kind.__name__}") from error
