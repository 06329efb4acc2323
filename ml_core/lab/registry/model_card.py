"""The card of a registered version: what was recorded of it, in words for people, kept in MLflow beside its artefact.

After Mitchell et al. (2019), "Model Cards for Model Reporting", FAT* '19, doi 10.1145/3287560.3287596. Every number
comes from the verified artefact, from what registration recorded, or from the gate's report; one that is in none of
them is given as not recorded. The same version with the same verdict has the same card.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydantic import ValidationError

from ml_core.base.documents import Document
from ml_core.base.errors import ArtefactError, SuretyError
from ml_core.lab.config import CardConfig
from ml_core.lab.measuring.coverage_law import DesignEffects
from ml_core.lab.measuring.group_coverage import CellRows
from ml_core.lab.measuring.metric_ranges import metric_ranges
from ml_core.lab.registry.card_attributes import source_attributes
from ml_core.lab.registry.card_facts import NOT_RECORDED, CardRecord, ModelCard
from ml_core.lab.registry.card_groups import group_tables, shared_metrics
from ml_core.lab.registry.card_tables import (
    NO_FIGURE,
    PARTS_SHOWN,
    calibrated_classes,
    card_parts,
    explained_as,
    kind_of_model,
    measured_metrics,
    metric_value,
    over_calibrations,
    range_text,
    split_fact,
)
from ml_core.lab.registry.model_registry import RegisteredVersion
from ml_core.lab.registry.registry_protocol import Registry
from ml_core.lab.training.declared_groups import cell_rows
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.lab.training.packing import PackedModel
from ml_core.serve.model.bundle import Bundle, read_bundle
from ml_core.serve.model.promotion_record import GateReport

__all__ = [
    "CARD_FILE",
    "GATE_FOLDER",
    "RECORD_FILE",
    "CardRecord",
    "ModelCard",
    "card_json",
    "card_record",
    "card_text",
    "keep_card",
    "read_card",
]

CARD_FILE = "model_card.md"
RECORD_FILE = "model_card.json"
GATE_FOLDER = "gate"
"""Where, in a version's run, the gate's reports are: one for each artefact that was found behind the version."""

_OURS = "Model card: "
_TEMPLATE = "model_card.md.jinja"
_D = TypeVar("_D", bound=Document)


def keep_card(
    registry: Registry,
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
    words : of the configuration, for the card from now on; those of the record if None
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


def read_card(registry: Registry, version: RegisteredVersion, folder: Path) -> ModelCard:
    """The card's facts as they are recorded now.

    Parameters
    ----------
    folder : the version's model folder; the card of one that cannot be trusted says not recorded

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


def card_record(model: PackedModel, words: CardConfig, rows: LabelledRows, code: str = "") -> CardRecord:
    """What is known of a model only while its rows are at hand.

    Parameters
    ----------
    rows : all parts of the split, as it was packed with
    """
    manifest = model.bundle.manifest
    names = [part for part in PARTS_SHOWN if part in rows.counts]
    of_part = {part: rows.part(part) for part in names}
    effects = DesignEffects(
        manifest.metrics["calibration_effect"],
        tuple(manifest.metrics[f"calibration_effect_class_{label}"] for label in manifest.classes),
    )
    return CardRecord(
        model_hash=model.model_hash,
        words=words,
        origin=rows.origin,
        patients={part: int(np.unique(chosen.groups).size) for part, chosen in of_part.items()},
        class_rows={part: _class_rows(chosen) for part, chosen in of_part.items()},
        ranges=None
        if rows.weights is not None
        else metric_ranges(
            model.test_proba,
            model.test_y_index,
            model.test_groups,
            model.bundle.calibration,
            manifest.confidence_level,
            manifest.classes,
            effects,
            None if model.bundle.grouped is None else _cells(model.bundle, rows),
        ),
        by_group=tuple(map(shared_metrics, model.evaluation.by_group)),
        code=code,
    )


def _cells(bundle: Bundle, rows: LabelledRows) -> CellRows:
    """The calibrations behind the test rows."""
    return cell_rows(bundle.manifest.groups, bundle.calibration, bundle.grouped, rows.part("test"))[0]


def _class_rows(rows: LabelledRows) -> dict[str, int]:
    counts = np.bincount(rows.y_index, minlength=len(rows.classes))
    return {str(label): int(n) for label, n in zip(rows.classes, counts, strict=True)}


def _record(registry: Registry, version: RegisteredVersion) -> CardRecord | None:
    record = _document(registry, version, RECORD_FILE, CardRecord)
    return record if record is not None and record.model_hash == version.model_hash else None


def _document(registry: Registry, version: RegisteredVersion, path: str, kind: type[_D]) -> _D | None:
    raw = registry.run_file(version, path)
    if raw is None:
        return None
    try:
        return kind.model_validate(orjson.loads(raw))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise ArtefactError(path, f"is no {kind.__name__} (run {version.run_id})") from error


# --- the card as text -----------------------------------------------------------------------------------------------


def card_text(card: ModelCard) -> str:
    """The card as Markdown."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(),  # by the template's ending: Markdown has nothing to escape but its own signs
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"known": _known, "cell": _cell, "count": _count, "number": _number, "share": _share}
    return environment.get_template(_TEMPLATE).render(
        card=card,
        manifest=None if card.bundle is None else card.bundle.manifest,
        columns=() if card.bundle is None else card.bundle.features.columns,
        record=card.record,
        gate=card.gate,
        kind=kind_of_model(card),
        explained=explained_as(card),
        attributes=source_attributes(card),
        parts=card_parts(card),
        over=over_calibrations(card),
        in_time=split_fact(card, "split_by") == "time",
        order_by=split_fact(card, "split_order_by") or "the time of the row",
        measured=[
            (words, metric_value(card, key), range_text(card, key), n) for key, words, n in measured_metrics(card)
        ],
        calibrated=calibrated_classes(card),
        groups=None if card.bundle is None else card.bundle.manifest.groups,
        by_group=[]
        if card.record is None or card.bundle is None
        else group_tables(card.record.by_group, card.bundle.manifest.classes, none=NO_FIGURE),
    )


def card_json(card: ModelCard) -> dict[str, Any]:
    """The card's facts as JSON values, for programs."""
    return {
        "model": card.name,
        "version": card.version,
        "model_hash": card.model_hash,
        "manifest": None if card.bundle is None else card.bundle.manifest.content(),
        "calibration_rows": {label: rows for label, rows, _, _ in calibrated_classes(card)},
        "record": None if card.record is None else card.record.model_dump(mode="json"),
        "gate": None if card.gate is None else card.gate.model_dump(mode="json"),
        "source_attributes": [
            {
                "paragraph": f"170.315(b)(11)(iv)(B){told.paragraph}",
                "asks": told.asks,
                "text": told.text,
                "sources": sorted({source for _, source in told.parts}),
            }
            for told in source_attributes(card)
        ],
    }


def _known(value: Any) -> str:
    """What there is, as one paragraph or cell; else that it is not recorded."""
    text = "" if value is None else str(value).strip()
    return text or NOT_RECORDED


def _cell(value: Any) -> str:
    """The same, fit for a cell of a table."""
    return " ".join(_known(value).split()).replace("|", "\\|")


def _count(value: float | None) -> str:
    return NOT_RECORDED if value is None else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return NOT_RECORDED if value is None else f"{value:.4f}"


def _share(value: Any) -> str:
    return f"{100 * float(value):g} %"
