"""The card of a registered version: what was recorded of it, in words for people, kept in MLflow beside its artefact.

After Mitchell et al. (2019), "Model Cards for Model Reporting", FAT* '19, doi 10.1145/3287560.3287596. Every number
comes from the verified artefact, from what registration recorded, or from the gate's report; one that is in none of
them is given as not recorded. The same version with the same verdict has the same card.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydantic import Field, ValidationError

from ml_core.base.documents import Document
from ml_core.base.errors import ArtefactError, SuretyError
from ml_core.lab.config import CardConfig
from ml_core.lab.measuring.calibration import needed_rows
from ml_core.lab.measuring.coverage_law import DesignEffects
from ml_core.lab.measuring.evaluation import GroupMetrics
from ml_core.lab.measuring.group_coverage import CellRows
from ml_core.lab.measuring.metric_ranges import MetricRange, metric_ranges
from ml_core.lab.registry.card_groups import group_tables, shared_metrics
from ml_core.lab.registry.model_registry import RegisteredVersion
from ml_core.lab.registry.registry_protocol import Registry
from ml_core.lab.training.declared_groups import cell_rows
from ml_core.lab.training.labelled_rows import PARTS, LabelledRows
from ml_core.lab.training.packing import PackedModel
from ml_core.serve.model.bundle import Bundle, read_bundle
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.model.promotion_record import GateReport
from ml_core.serve.model.trees import TreeForm

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
NOT_RECORDED = "not recorded"

_PARTS_SHOWN = (*PARTS, "left_out")
_OURS = "Model card: "
_TEMPLATE = "model_card.md.jinja"
_NONE = "\N{EN DASH}"
_D = TypeVar("_D", bound=Document)


class CardRecord(Document):
    """The facts of the card that the artefact does not hold (``model_card.json`` of the run); counts, never a value.

    Attributes
    ----------
    model_hash : of the artefact it belongs to
    words : what the configuration says of the model
    origin : where the rows came from, for people
    patients : groups per part of the split; empty where they were not counted
    class_rows : rows per part of the split and label
    ranges : of the metrics on test rows; None where they were not computed
    by_group : metrics on the test rows of each group of patients; empty for a model without groups
    code : commit of the code that trained, and whether it was changed since; empty where git did not keep it
    """

    model_hash: str
    words: CardConfig = CardConfig()
    origin: str = ""
    patients: dict[str, int] = Field(default_factory=dict)
    class_rows: dict[str, dict[str, int]] = Field(default_factory=dict)
    ranges: tuple[MetricRange, ...] | None = None
    by_group: tuple[GroupMetrics, ...] = ()
    code: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """All facts of a card; None where a fact was not recorded, or cannot be trusted.

    Attributes
    ----------
    name, version, model_hash : as registered
    bundle : the verified artefact
    record : what registration recorded
    gate : the last verdict
    """

    name: str
    version: str
    model_hash: str
    bundle: Bundle | None
    record: CardRecord | None
    gate: GateReport | None


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
    names = [part for part in _PARTS_SHOWN if part in rows.counts]
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
        explained=_explained(card),
        parts=_parts(card),
        over=_over_calibrations(card),
        in_time=_split_fact(card, "split_by") == "time",
        order_by=_split_fact(card, "split_order_by") or "the time of the row",
        measured=[(words, _value(card, key), _range_text(card, key), n) for key, words, n in _measured(card)],
        calibrated=_calibrated(card),
        groups=None if card.bundle is None else card.bundle.manifest.groups,
        by_group=[]
        if card.record is None or card.bundle is None
        else group_tables(card.record.by_group, card.bundle.manifest.classes, none=_NONE),
    )


def card_json(card: ModelCard) -> dict[str, Any]:
    """The card's facts as JSON values, for programs."""
    return {
        "model": card.name,
        "version": card.version,
        "model_hash": card.model_hash,
        "manifest": None if card.bundle is None else card.bundle.manifest.content(),
        "calibration_rows": {label: rows for label, rows, _, _ in _calibrated(card)},
        "record": None if card.record is None else card.record.model_dump(mode="json"),
        "gate": None if card.gate is None else card.gate.model_dump(mode="json"),
    }


def _explained(card: ModelCard) -> str:
    """What an explanation of an answer takes apart; empty for a model that cannot be explained."""
    if card.bundle is None or not card.bundle.trees:
        return ""
    form = TreeForm.from_bytes(card.bundle.trees)
    if form.link == "mean":
        return "probability of a label"
    return "log-odds" if form.n_classes == 2 else "score of the predicted label"


# --- tables of the card -------------------------------------------------------------------------------------------


def _over_calibrations(card: ModelCard) -> str:
    """Of how many calibrations the promise is true."""
    sure = None if card.bundle is None else card.bundle.manifest.training_conditional
    return "in the mean over calibrations" if sure is None else f"with confidence {sure} over calibrations"


def _split_fact(card: ModelCard, name: str) -> str:
    """What the manifest says of a split in time; empty where it says nothing."""
    return "" if card.bundle is None else str(card.bundle.manifest.training.params.get(name, ""))


def _parts(card: ModelCard) -> list[tuple[str, int | None, int | None, str]]:
    """(part, patients, rows, rows per class in words) of each part of the split that has rows."""
    if card.bundle is None:
        return []
    rows, record = card.bundle.manifest.training.rows, card.record
    found: list[tuple[str, int | None, int | None, str]] = []
    for part in [*(p for p in _PARTS_SHOWN if p in rows), *(p for p in rows if p not in _PARTS_SHOWN)]:
        classes = {} if record is None else record.class_rows.get(part, {})
        words = "; ".join(f"{label}: {n:,}" for label, n in classes.items())
        found.append((part, None if record is None else record.patients.get(part), rows[part], words))
    return found


def _measured(card: ModelCard) -> list[tuple[str, str, int | None]]:
    """(metric, how people call it, test rows it was measured on), in the order of the page."""
    if card.bundle is None:
        return []
    manifest = card.bundle.manifest
    n_test, classes = manifest.training.rows.get("test"), manifest.classes
    n_of = {label: _rows_of(manifest.metrics.get(f"n_class_{label}")) for label in classes}
    found: list[tuple[str, str, int | None]] = [("roc_auc", "area under the ROC curve", n_test)]
    if len(classes) > 2:
        found += [(f"roc_auc_class_{label}", f"… of {label} against the rest", n_test) for label in classes]
    found += [
        ("brier", "Brier score", n_test),
        ("brier_skill", "Brier skill (gain over the base rate)", n_test),
        ("log_loss", "log loss, nats", n_test),
        ("coverage", "coverage, all", n_test),
        *((f"coverage_class_{label}", f"coverage, {label}", n_of[label]) for label in classes),
        *(
            (f"coverage_returning_class_{label}", f"coverage, {label}, patients seen before", _rows_of(n))
            for label in classes
            if (n := manifest.metrics.get(f"n_returning_class_{label}")) is not None
        ),
        ("mean_set_size", "mean set size, all", n_test),
        *((f"mean_set_size_class_{label}", f"mean set size, {label}", n_of[label]) for label in classes),
        ("singleton_share", "share of sets with one label", n_test),
        ("empty_share", "share of empty sets", n_test),
    ]
    return found


def _rows_of(value: float | None) -> int | None:
    return None if value is None else int(value)


def _range(card: ModelCard, key: str) -> MetricRange | None:
    ranges = card.record.ranges if card.record is not None else None
    return next((r for r in ranges or () if r.metric == key), None)


def _value(card: ModelCard, key: str) -> float | None:
    """The metric in the manifest, which is hashed; one that only the record has, from there."""
    if card.bundle is not None and key in card.bundle.manifest.metrics:
        return card.bundle.manifest.metrics[key]
    found = _range(card, key)
    return None if found is None else found.value


def _range_text(card: ModelCard, key: str) -> str:
    """The range of a metric; a dash where one was looked for and the rows could not give it."""
    if card.record is None or card.record.ranges is None:
        return NOT_RECORDED
    found = _range(card, key)
    if found is None or found.lower is None or found.upper is None:
        return _NONE
    return f"{found.lower:.4f} to {found.upper:.4f}{' (band)' if found.kind == 'band' else ''}"


def _calibrated(card: ModelCard) -> list[tuple[str, int, int, float | None]]:
    """(class, calibration rows, fewest for the level, independent rows they are worth)."""
    if card.bundle is None:
        return []
    manifest, calibration = card.bundle.manifest, card.bundle.calibration
    marginal = calibration.guarantee == "marginal"
    labels = ["all classes"] if marginal else [str(label) for label in manifest.classes]
    keys = ["calibration_effect"] if marginal else [f"calibration_effect_class_{label}" for label in labels]
    needed = needed_rows(manifest.confidence_level, manifest.training_conditional)
    return [
        (label, n, needed, _worth(manifest, label, n) / effect if (effect := manifest.metrics.get(key)) else None)
        for label, key, n in zip(labels, keys, calibration.sizes, strict=False)  # a marginal one has its size K times
    ]


def _worth(manifest: Manifest, label: str, rows: int) -> float:
    """Equally weighted rows that the calibration rows of a class are worth."""
    return rows if manifest.weighting is None else manifest.weighting.effective_rows[label]


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
