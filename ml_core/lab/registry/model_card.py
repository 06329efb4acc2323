"""The card of a registered version: what was recorded of it, in words for people, kept in MLflow beside its artefact.

After Mitchell et al. (2019), "Model Cards for Model Reporting", FAT* '19, doi 10.1145/3287560.3287596. Every number
comes from the verified artefact, from what registration recorded, or from the gate's report; one that is in none of
them is told as not recorded. The same version with the same verdict has the same card.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import orjson
from pydantic import ValidationError

from ml_core.base.documents import Document
from ml_core.base.errors import ArtefactError, SuretyError
from ml_core.lab.config import CardConfig
from ml_core.lab.registry.card_record import CardRecord, ModelCard
from ml_core.lab.registry.card_text import card_text
from ml_core.lab.registry.model_registry import ModelRegistry, RegisteredVersion
from ml_core.serve.model.bundle import read_bundle
from ml_core.serve.model.promotion_record import GateReport

__all__ = ["CARD_FILE", "GATE_FOLDER", "RECORD_FILE", "keep_card", "read_card"]

CARD_FILE = "model_card.md"
RECORD_FILE = "model_card.json"
GATE_FOLDER = "gate"
"""Where, in a version's run, the gate's reports are: one for each artefact that was found behind the version."""

_OURS = "Model card: "

D = TypeVar("D", bound=Document)


def keep_card(
    registry: ModelRegistry,
    version: RegisteredVersion,
    folder: Path,
    *,
    record: CardRecord | None = None,
    words: CardConfig | None = None,
) -> None:
    """Write the card of a version to its run, as it is known by now, and let the version say where it is.

    The artefact is only read. A description that a person gave the version stays.

    Parameters
    ----------
    folder : the version's model folder
    record : of a registration; the one kept in MLflow if None
    words : to stand on the card from now on; those of the record if None
    """
    if not version.run_id:
        return
    kept = record or _record(registry, version) or CardRecord(model_hash=version.model_hash)
    if words is not None:
        kept = kept.model_copy(update={"words": words})
    registry.log_document(version, RECORD_FILE, kept.model_dump(mode="json"))
    registry.log_text(version, CARD_FILE, card_text(read_card(registry, version, folder)))
    registry.set_tags(version, {"model_card": f"runs:/{version.run_id}/{CARD_FILE}"})
    registry.describe(
        version,
        f"{_OURS}{CARD_FILE} among the artefacts of run {version.run_id}; "
        f"`surety models card --model {version.name} --version {version.version}` prints it.",
        instead_of=_OURS,
    )


def read_card(registry: ModelRegistry, version: RegisteredVersion, folder: Path) -> ModelCard:
    """The card's facts as they are recorded now.

    Parameters
    ----------
    folder : the version's model folder; one that cannot be trusted is told as not recorded

    Raises
    ------
    RegistryError
        MLflow does not give what it holds.
    ArtefactError
        A record or a gate's report in MLflow is not what it should be.
    """
    try:
        bundle = read_bundle(folder, version.model_hash or None)
    except SuretyError:
        bundle = None
    reports = [_document(registry, version, path, GateReport) for path in registry.run_files(version, GATE_FOLDER)]
    gate = max((r for r in reports if r is not None), key=lambda r: r.judged_at, default=None)
    model_hash = version.model_hash or (bundle.model_hash if bundle is not None else "")
    return ModelCard(version.name, version.version, model_hash, bundle, _record(registry, version), gate)


def _record(registry: ModelRegistry, version: RegisteredVersion) -> CardRecord | None:
    record = _document(registry, version, RECORD_FILE, CardRecord)
    return record if record is not None and record.model_hash == version.model_hash else None


def _document(registry: ModelRegistry, version: RegisteredVersion, path: str, kind: type[D]) -> D | None:
    raw = registry.run_file(version, path)
    if raw is None:
        return None
    try:
        return kind.model_validate(orjson.loads(raw))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise ArtefactError(path, f"is no {kind.__name__} (run {version.run_id})") from error
