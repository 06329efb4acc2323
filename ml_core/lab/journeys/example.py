"""From data to a model that can be served: data, features, training, gate, promotion, import, where missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ml_core.base.errors import DataError, PromotionRefused
from ml_core.base.settings import Settings
from ml_core.lab.batch.table_places import is_address
from ml_core.lab.config import ModelConfig
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.data.table_frames import write_table
from ml_core.lab.journeys.run_project import Project, run_project
from ml_core.lab.judging.rule_advice import refusal
from ml_core.lab.registry.importer import import_version, stored_path
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.lab.training.packing import Note
from ml_core.serve.model.promotion_record import PromotionRecord, plain_promotion

__all__ = ["Example", "make_example"]

COHORT_ROWS = 20_000
_COHORT_VERSION = "v1"  # the feature version that the synthetic cohort has columns for


@dataclass(frozen=True, slots=True)
class Example:
    """A model ready to be served.

    Attributes
    ----------
    tag : its Bento tag
    was_ready : nothing had to be made
    """

    tag: str
    model_hash: str
    was_ready: bool


def make_example(project: Project, note: Note) -> Example:
    """Data, features, training, gate, promotion and import, as far as they are missing.

    Raises
    ------
    DataError
        The configured file is missing and is not the synthetic cohort, or a column gives every class away.
    PromotionRefused
        A rule of the gate said no; nothing is served.
    """
    config, settings = project.config, project.settings
    record = _promotion(config, settings)
    if record is not None:
        if stored_path(record.bento_tag) is not None:
            return Example(record.bento_tag, record.model_hash, was_ready=True)
        registry = ModelRegistry(settings)
        imported = import_version(registry, registry.by_alias(config.model, "champion"), settings)
        return Example(imported.tag, imported.model_hash, was_ready=False)
    _make_data(config, note)
    found = run_project(project, note, lambda _step: None)
    if found.status == "asked":
        names = ", ".join(one.column for one in found.telling)
        raise DataError(str(config.data.source), f"{names}: each alone tells every class apart; see `surety run`")
    if found.status == "refused":
        for rule in found.failed:
            note(refusal(rule))
        raise PromotionRefused(config.model, [rule.rule for rule in found.failed])
    return Example(found.tag, found.model_hash, was_ready=False)


def _promotion(config: ModelConfig, settings: Settings) -> PromotionRecord | None:
    return plain_promotion(settings, config.model)


def _make_data(config: ModelConfig, note: Note) -> None:
    source = Path(config.data.source)
    if source.exists() or is_address(source):
        return
    if config.data.adapter == "diabetes130":
        raise DataError(str(source), "there is no such file: run `surety data fetch`")
    if config.feature_version != _COHORT_VERSION:
        raise DataError(str(source), "there is no such file: data.source of the configuration names it; put it there")
    note(f"making a synthetic cohort of {COHORT_ROWS} encounters in {source}: a demonstration, never evidence")
    frame, _ = make_cohort(COHORT_ROWS, config.seed)
    write_table(frame, source)
