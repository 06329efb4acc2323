"""Recalibration in one call: newest outcomes, the champion's scorer calibrated anew, registered, judged, imported.

It takes minutes and some hundred outcomes where retraining takes thousands, because nothing is trained. It brings back
the coverage of the sets after the patients have changed. It makes the scores no better.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ml_core.base.clock import microseconds
from ml_core.base.errors import DataError
from ml_core.base.settings import Settings
from ml_core.features.columns import Column
from ml_core.lab.config import ModelConfig
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.raw_tables import columns_beside
from ml_core.lab.journeys.matured_rows import Outcomes, live_rows, newest_outcomes
from ml_core.lab.journeys.retrain import alone, start_shadow
from ml_core.lab.judging.deployment_gate import rows_of, validate_deployment
from ml_core.lab.registry.importer import import_version
from ml_core.lab.registry.model_registry import CHAMPION, ModelRegistry, RegisteredVersion
from ml_core.lab.registry.tracking import register
from ml_core.lab.training.labelled_rows import LabelledRows, outcome_rows, outcome_rows_from_store, outcome_table
from ml_core.lab.training.packing import Note, PackedModel
from ml_core.lab.training.recalibrating import recalibrate_model, trained_people
from ml_core.lab.training.weighting import weight_model
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.home.homes import open_home
from ml_core.serve.model.bundle import verify_folder
from ml_core.serve.model.manifest import Manifest
from ml_core.serve.model.promotion_record import GateReport

__all__ = ["Recalibrated", "recalibrate"]


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """What recalibration did.

    Attributes
    ----------
    champion : version whose scorer it is
    rows : answered records by part (``calibration``, ``test``)
    class_rows : by part and label
    of_trained, without_input : answers left out: of people who trained the scorer; without a kept input, or repeated
    live : answers whose outcomes were not asked for, which weigh the calibration rows; 0 where nothing is weighted
    version, model_hash, is_new : in the registry; None and "" after a dry run
    gate : the verdict on it
    tag : in the Bento store; None where the gate refused it and no shadow was asked for
    shadow : whether it runs in shadow now
    metrics : on the records that did not calibrate it
    """

    champion: str
    rows: dict[str, int]
    class_rows: dict[str, dict[str, int]]
    of_trained: int
    without_input: int
    live: int = 0
    version: str | None = None
    model_hash: str = ""
    is_new: bool = False
    gate: GateReport | None = None
    tag: str | None = None
    shadow: bool = False
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def outcome(self) -> Literal["possible", "passed", "refused"]:
        """``possible`` is that of a dry run."""
        if self.gate is None:
            return "possible"
        return "passed" if self.gate.passed else "refused"

    def as_dict(self) -> dict[str, Any]:
        """What was done, as JSON values."""
        gate = self.gate
        return {
            "outcome": self.outcome,
            "recalibrated_from": self.champion,
            "rows": self.rows,
            "class_rows": self.class_rows,
            "live_rows": self.live,
            "left_out": {"trained_the_scorer": self.of_trained, "without_input_or_repeated": self.without_input},
            "version": self.version,
            "model_hash": self.model_hash or None,
            "is_new": self.is_new,
            "gate": None if gate is None else "passed" if gate.passed else "refused",
            "failed_rules": [] if gate is None else list(gate.failed_rules),
            "tag": self.tag,
            "shadow": self.shadow,
            "metrics": self.metrics,
        }

    def in_words(self) -> str:
        """What was done, for the person who waits."""
        counts = " and ".join(
            f"{self.rows.get(part, 0):,} {to}" for part, to in (("calibration", "to calibrate"), ("test", "to judge"))
        )
        if self.live:
            counts += f", weighted by {self.live:,} answers"
        if self.gate is None:
            return f"The scorer of version {self.champion} can be calibrated anew: {counts}. Nothing was made."
        model = f"Version {self.version} has the scorer of version {self.champion}, calibrated anew ({counts})"
        if not self.gate.passed:
            rules = ", ".join(self.gate.failed_rules)
            return f"{model}, and is refused by the gate: {rules}. The champion stays; somebody has to look."
        return f"{model}, has passed the gate and is the challenger. Promoting it is a decision: surety promote."


def recalibrate(
    config: ModelConfig,
    settings: Settings,
    note: Note,
    *,
    rows: int | None = None,
    since: datetime | None = None,
    weighted: bool = False,
    shadow: bool = False,
    dry_run: bool = False,
) -> Recalibrated:
    """Calibrate the champion's scorer on the newest answers of known outcome, and register it as challenger.

    Test patients of the configured split judge the new coverage; all other people calibrate. Answers about people who
    trained the scorer are left out. Killed anywhere, the same call ends with the same model.

    Parameters
    ----------
    rows : newest answers used, at most; as configured if None (``recalibrate.rows``; weighted: ``live_rows``)
    since : use answers given then or later; None for all
    weighted : without outcomes: weigh the rows that calibrated the champion by how often such patients come now
    shadow : let the new model score every request beside the champion
    dry_run : say what would be used; make nothing

    Raises
    ------
    RetrainBusy
        Another run makes a challenger of this model.
    DataError, CalibrationTooSmall
        There is no champion, its training rows cannot be read, or too few outcomes are known.
    CannotJudge
        Weighted: too few answers, or so large a shift that too few calibration rows would count.
    ArtefactError, RegistryError, LogDamaged
        A step failed.
    """
    with alone(settings):
        registry = ModelRegistry(settings)
        champion = registry.by_alias(config.model, CHAMPION)
        with registry.bundle_folder(champion) as folder:
            manifest, _, _ = verify_folder(folder, champion.model_hash or None)
            since_us = 0 if since is None else microseconds(since)
            make: Callable[[Path], PackedModel]
            if weighted:
                live = live_rows(settings, config.feature_version, rows or config.recalibrate.live_rows, since_us)
                kept = rows_of(manifest, config, settings, None)
                done = _counted(champion, kept, live=len(live.matrix))

                def make(place: Path) -> PackedModel:
                    return weight_model(folder, champion.model_hash or None, config, kept, live, place, note)

            else:
                found, beside = _newest(config, settings, manifest, rows, since_us, note)
                kept = outcome_rows(found.frame, config)
                done = _counted(champion, kept, found)
                if not dry_run:
                    kept = _stored(config, settings, found, beside)

                def make(place: Path) -> PackedModel:
                    return recalibrate_model(folder, champion.model_hash or None, config, kept, place, note)

            if dry_run:
                return done
            with tempfile.TemporaryDirectory(prefix="surety-recalibrate-") as place:
                model = make(Path(place) / "bundle")
                version, is_new = _register(registry, model, config, kept, champion, settings)
        note("judging it")
        gate = validate_deployment(registry, version, config, settings)
        tag = None
        if gate.passed or shadow:
            note("bringing it into the Bento store")
            tag = import_version(registry, version, settings).tag
        in_shadow = shadow and tag is not None and start_shadow(settings, tag, f"recalibrated: {version}")
        facts = {
            "model": config.model,
            "version": version.version,
            "model_hash": model.model_hash,
            "recalibrated_from": champion.version,
            "table_version": kept.table_version,
            "rows": done.rows,
            "gate": gate.passed,
            "shadow": in_shadow,
        }
        open_home(settings).journal.append("model.recalibrated", facts)
        return replace(
            done,
            version=version.version,
            model_hash=model.model_hash,
            is_new=is_new,
            gate=gate,
            tag=tag,
            shadow=in_shadow,
            metrics=model.evaluation.metrics,
        )


def _newest(
    config: ModelConfig, settings: Settings, manifest: Manifest, rows: int | None, since_us: int, note: Note
) -> tuple[Outcomes, tuple[Column, ...]]:
    """The newest outcomes of people who did not train the scorer, and the columns that only tell groups."""
    trained = trained_people(manifest, config, settings)
    beside = columns_beside(config.conformal.groups, get_feature_version(config.feature_version).columns)
    most = rows or config.recalibrate.rows
    found = newest_outcomes(settings, config.feature_version, most, trained, since_us, beside)
    _tell_left_out(found, note)
    if not len(found.frame):
        raise DataError("matured answers", "none can calibrate: send outcomes in and run `surety monitor`")
    return found, beside


def _counted(
    champion: RegisteredVersion, rows: LabelledRows, found: Outcomes | None = None, live: int = 0
) -> Recalibrated:
    """What is known before the model is made."""
    judging = {part: n for part, n in rows.counts.items() if part in ("calibration", "test")}
    left_out = (0, 0) if found is None else (found.of_trained, found.without_input)
    return Recalibrated(champion.version, judging, _class_rows(rows, judging), *left_out, live=live)


def _tell_left_out(found: Outcomes, note: Note) -> None:
    if found.of_trained:
        note(f"{found.of_trained} answers are left out: they are about people whose rows trained the scorer")
    if found.without_input:
        note(f"{found.without_input} answers are left out: the log keeps no input of them, or they repeat another")


def _stored(config: ModelConfig, settings: Settings, found: Outcomes, beside: Sequence[Column]) -> LabelledRows:
    """The rows as a version of their own in the feature store, so that the gate finds the very same."""
    table = outcome_table(config.feature_version)
    version = FeatureStore.of(settings, config.model).overwrite(table, found.frame, beside)
    return outcome_rows_from_store(config, settings, version)


def _class_rows(rows: LabelledRows, parts: Iterable[str]) -> dict[str, dict[str, int]]:
    return {
        part: {str(label): int((rows.part(part).y_index == k).sum()) for k, label in enumerate(rows.classes)}
        for part in sorted(parts)
    }


def _register(
    registry: ModelRegistry,
    model: PackedModel,
    config: ModelConfig,
    rows: LabelledRows,
    champion: RegisteredVersion,
    settings: Settings,
) -> tuple[RegisteredVersion, bool]:
    version, is_new = register(registry, model, config, rows, {"recalibrated_from": champion.version})
    if is_new:
        facts = {
            "model": version.name,
            "version": version.version,
            "model_hash": model.model_hash,
            "data": rows.origin,
            "recalibrated_from": champion.version,
        }
        open_home(settings).journal.append("model.registered", facts)
    return version, is_new
