"""The pre-deployment gate: whether a registered version may answer at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.errors import ArtefactError, ConfigError, DataError, SuretyError
from ml_core.base.settings import Settings
from ml_core.lab.config import ModelConfig
from ml_core.lab.judging.gate_rules import GateCase, gate_verdicts
from ml_core.lab.judging.rule_verdicts import claim
from ml_core.lab.registry.model_card import GATE_FOLDER, keep_card
from ml_core.lab.registry.model_registry import RegisteredVersion
from ml_core.lab.registry.registry_protocol import Registry
from ml_core.lab.training.labelled_rows import (
    LabelledRows,
    outcome_rows_from_store,
    rows_from_file,
    rows_from_store,
)
from ml_core.lab.training.recalibrating import trained_people
from ml_core.serve.home.homes import open_home
from ml_core.serve.model.bundle import read_bundle, verify_folder
from ml_core.serve.model.manifest import MANIFEST_FILE, Manifest
from ml_core.serve.model.predictor import Predictor, check_golden
from ml_core.serve.model.promotion_record import GateReport, RuleVerdict
from ml_core.serve.model.vouching import keep_gate

__all__ = ["judge_folder", "rows_of", "validate_deployment"]


def validate_deployment(
    registry: Registry,
    version: RegisteredVersion,
    config: ModelConfig,
    settings: Settings,
    *,
    data: Path | None = None,
    keep: bool = True,
) -> GateReport:
    """Judge a registered version by its artefact and by patients it never saw; keep the report.

    The report goes to ``settings.gates``, to the version's run, card and tags in MLflow, and to the journal.

    Parameters
    ----------
    config : says limits and split, and the words of the card; the split recorded in the artefact must be the same one
    data : rows to judge a foreign model on, which has no table of its own
    keep : False only looks

    Raises
    ------
    ConfigError
        The configuration is of another model.
    DataError
        The rows cannot be had.
    ArtefactError
        The version has no manifest that could be named in a report.
    """
    if config.model != version.name:
        raise ConfigError("model", f"the configuration is of {config.model}, not of {version.name}")
    with registry.bundle_folder(version) as folder:
        report = judge_folder(folder, config, settings, expected_hash=version.model_hash or None, data=data)
        if keep:
            _keep(registry, version, report, settings)
            keep_card(registry, version, folder, words=config.card)
    return report


def judge_folder(
    folder: Path, config: ModelConfig, settings: Settings, *, expected_hash: str | None = None, data: Path | None = None
) -> GateReport:
    """The report on a model folder; nothing is kept.

    Raises
    ------
    DataError, ArtefactError
        As ``validate_deployment``.
    """
    model_hash = _hash_of(folder)
    try:
        manifest, _, _ = verify_folder(folder, expected_hash)
        if (manifest.name, manifest.feature_version) != (config.model, config.feature_version):
            asked = f"the configuration is of {config.model} on {config.feature_version}"
            raise ArtefactError(MANIFEST_FILE, f"is of {manifest.name} on {manifest.feature_version}; {asked}")
        rows = rows_of(manifest, config, settings, data)
        predictor = _checked_predictor(folder, expected_hash, rows)
        trained = () if manifest.recalibration is None else trained_people(manifest, config, settings)
    except (ConfigError, DataError):
        raise
    except SuretyError as error:
        return _report(config, model_hash, [claim("artefact", passed=False, note=str(error))], "nothing: the artefact")
    whole = claim("artefact", passed=True, note="verified, parsed, and gave its golden answers")
    return _report(
        config,
        model_hash,
        [whole, *gate_verdicts(GateCase(predictor, rows, config, folder, trained))],
        f"{rows.origin}, {'the newest rows' if config.split.by == 'time' else f'test {config.subjects}'}",
    )


def rows_of(manifest: Manifest, config: ModelConfig, settings: Settings, data: Path | None) -> LabelledRows:
    """The rows a model is judged on: of its training table, of the answers that calibrated it anew, or of a file.

    They are split as the configuration says.

    Raises
    ------
    DataError
        A foreign model without ``data``, or rows that cannot be read.
    """
    if data is not None:
        return rows_from_file(data, config)
    if manifest.recalibration is not None:
        return outcome_rows_from_store(config, settings, manifest.recalibration.table_version)
    if not manifest.training.table:
        raise DataError(manifest.name, "is a foreign model without a training table: give the rows with --data FILE")
    return rows_from_store(config, settings, manifest.training.table_version)


def _checked_predictor(folder: Path, expected_hash: str | None, rows: LabelledRows) -> Predictor:
    predictor = Predictor(read_bundle(folder, expected_hash))
    check_golden(predictor)
    if predictor.classes != rows.classes:
        raise ArtefactError(MANIFEST_FILE, f"its classes are not those of {rows.origin}")
    return predictor


def _hash_of(folder: Path) -> str:
    try:
        return hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    except OSError as error:
        raise ArtefactError(MANIFEST_FILE, "is missing") from error


def _report(config: ModelConfig, model_hash: str, rules: list[RuleVerdict], judged_on: str) -> GateReport:
    return GateReport(
        model_name=config.model,
        model_hash=model_hash,
        passed=all(rule.passed for rule in rules),
        rules=tuple(rules),
        judged_at=utc_text(utc_now()),
        judged_on=judged_on,
    )


def _keep(registry: Registry, version: RegisteredVersion, report: GateReport, settings: Settings) -> None:
    document = report.model_dump(mode="json")
    keep_gate(settings, report, version.version)
    open_home(settings).journal.append("gate.judged", {"model": version.name, "version": version.version, **document})
    registry.log_document(version, f"{GATE_FOLDER}/{report.model_hash[:12]}.json", document)
    tags = {
        "gate": "passed" if report.passed else "refused",
        "gate_failed_rules": ", ".join(report.failed_rules) or None,
        "gate_judged_at": report.judged_at,
    }
    registry.set_tags(version, tags)
