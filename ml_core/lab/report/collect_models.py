"""The models of a report: those in the rollout's slots, or the promoted one, each with its training and its gate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from ml_core.base.settings import Settings
from ml_core.features.columns import with_role
from ml_core.lab.report.collect_journal import Entry, time_of
from ml_core.lab.report.facts import GateVerdict, Model
from ml_core.lab.report.gaps import Gaps
from ml_core.serve.features.versions import FeatureVersion
from ml_core.serve.model.loader import LoadedModel, ModelLoader
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.model.promotion_record import GateReport
from ml_core.serve.rollout.rollout_state import RolloutState, Slot

__all__ = ["KnownModel", "known_models", "label_words", "model_facts"]

_EITHER_OR = re.compile(r"(?P<one>\w+) if (?P<words>[^(,]+?)(?: \([^)]*\))?, else (?P<other>\w+)\.?")
"""How a label column's sentence says what its levels mean, e.g. ``1 if readmitted, else 0.``"""
_PARTS = ("train", "validation", "calibration", "test")
_MADE = ("model.registered", "model.retrained")

_Entries = Sequence[Entry]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that is in some slot, and could be loaded."""

    slot: Slot
    tag: str
    loaded: LoadedModel

    @property
    def manifest(self) -> Manifest:
        """What its folder says about itself."""
        return self.loaded.predictor.bundle.manifest

    @property
    def features(self) -> FeatureVersion:
        """What it was trained with."""
        return self.loaded.predictor.bundle.features


def known_models(
    settings: Settings, loader: ModelLoader, state: RolloutState | None, gaps: Gaps
) -> tuple[KnownModel, ...]:
    """The models in the rollout's slots; before there is a rollout, the promoted one. The others leave a gap."""
    found: dict[str, KnownModel] = {}
    none: list[tuple[Slot, str]] = []
    for slot, tag in gaps.asked(("models", "lineage"), lambda: _slots(settings, loader, state), none):
        try:
            found.setdefault(tag, KnownModel(slot, tag, loader.verified(tag, gated=False)))
        except Exception as error:  # noqa: BLE001 - whatever a damaged model makes a library raise
            gaps.add(("models", "lineage"), error, f"the {slot}, {tag}")
    return tuple(found.values())


def model_facts(model: KnownModel, entries: _Entries) -> Model:
    """A model's training, gate and promotion, from its manifest, the gate report, the promotion record and the journal.

    Parameters
    ----------
    entries : of the journal, oldest first
    """
    loaded, manifest = model.loaded, model.manifest
    of_model = [entry for entry in entries if entry.get("model_hash") == loaded.model_hash]
    promoted, rows = _promotion(loaded, of_model), manifest.training.rows
    return Model(
        slot=model.slot,
        name=manifest.name,
        version=loaded.version,
        model_hash=loaded.model_hash,
        feature_version=manifest.feature_version,
        confidence_level=float(manifest.confidence_level),
        guarantee=manifest.guarantee,
        calibration_id=manifest.calibration_id,
        calibration_rows=_calibration_rows(loaded),
        bento_tag=model.tag,
        trained_at=next((time_of(entry) for entry in of_model if entry.get("event") in _MADE), None),
        trained_on=_trained_on(manifest),
        rows={part: rows[part] for part in (*_PARTS, *sorted(rows.keys() - set(_PARTS))) if part in rows},
        gate=None if loaded.gate is None else _gate(loaded.gate),
        promoted_at=promoted[0],
        promoted_by=promoted[1],
        metrics=dict(manifest.metrics),
        lineage=_lineage(loaded),
    )


def label_words(models: Sequence[KnownModel]) -> dict[str, str]:
    """What the labels of the first model mean, where its label column says so in the form "1 if …, else 0"."""
    if not models:
        return {}
    label = with_role(models[0].features.columns, "label")
    said = None if label is None else _EITHER_OR.match(label.doc)
    return {} if said is None else {said["one"]: said["words"], said["other"]: f"not {said['words']}"}


def _slots(settings: Settings, loader: ModelLoader, state: RolloutState | None) -> list[tuple[Slot, str]]:
    if state is None:
        tag = settings.model or (loader.promoted() or ("", ""))[0]
        return [("champion", tag)] if tag else []
    named: list[tuple[Slot, str | None]] = [
        ("champion", settings.model or state.champion),
        ("challenger", state.challenger),
        ("previous", state.previous),
    ]
    return [(slot, tag) for slot, tag in named if tag is not None]


def _calibration_rows(loaded: LoadedModel) -> dict[str, int]:
    """Rows by label; under a marginal promise all of them, by the name ``all``."""
    bundle = loaded.predictor.bundle
    sizes = [len(scores) for scores in bundle.calibration.scores]
    if bundle.manifest.guarantee == "marginal":
        return {"all": sizes[0]}
    return dict(zip(map(str, bundle.manifest.classes), sizes, strict=True))


def _trained_on(manifest: Manifest) -> str:
    training = manifest.training
    if training.table:
        return f"table {training.table} version {training.table_version}"
    return "" if manifest.source is None else manifest.source.uri


def _gate(report: GateReport) -> GateVerdict:
    return GateVerdict(report.passed, datetime.fromisoformat(report.judged_at), report.judged_on, report.rules)


def _promotion(loaded: LoadedModel, of_model: _Entries) -> tuple[datetime | None, str]:
    """When the model was promoted last, and by whom: by its record, else by the journal."""
    if loaded.promotion is not None:
        return datetime.fromisoformat(loaded.promotion.promoted_at), loaded.promotion.promoted_by
    moved = [entry for entry in of_model if entry.get("event") == "promotion.recorded"]
    return (time_of(moved[-1]), str(moved[-1].get("by", ""))) if moved else (None, "")


def _lineage(loaded: LoadedModel) -> dict[str, str]:
    manifest = loaded.predictor.bundle.manifest
    training, source = manifest.training, manifest.source
    found = {
        "mlflow_run": "" if loaded.promotion is None else loaded.promotion.run_id,
        "source": "" if source is None else f"{source.model_class} ({source.flavor}), sha256 {source.model_sha256}",
        "seed": str(training.seed),
        "split": training.split_salt,
        "feature_module_sha256": manifest.feature_module_sha256,
        "column_table_sha256": manifest.column_table_sha256,
        "parameters": ", ".join(f"{name}={value}" for name, value in sorted(training.params.items())),
        **dict(sorted(manifest.libraries.items())),
    }
    return {name: value for name, value in found.items() if value}
