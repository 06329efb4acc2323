"""Promotion: gate a challenger, compare it with the champion on the same patients, move the alias, write the record."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml_core.base.clock import utc_now, utc_text
from ml_core.base.errors import RegistryError
from ml_core.base.files import locked
from ml_core.base.journal import who
from ml_core.base.settings import Settings
from ml_core.lab.config import ModelConfig
from ml_core.lab.judging.deployment_gate import rows_of, validate_deployment
from ml_core.lab.judging.promotion_rules import GATE_RULE, compare, gate_rule, score, shared_rows
from ml_core.lab.judging.recalibration_rules import CalibratedAnew, has_the_same_scorer, restores_coverage
from ml_core.lab.judging.rule_verdicts import coverage_floor_rules, enough_rows_rules
from ml_core.lab.measuring.coverage_verdicts import CoverageOf, coverage_verdict
from ml_core.lab.measuring.group_coverage import cells_verdict
from ml_core.lab.measuring.weighted_coverage import weighted_verdict
from ml_core.lab.registry.model_registry import CHAMPION, RegisteredVersion
from ml_core.lab.registry.registry_protocol import Registry
from ml_core.lab.training.counted_rows import weighted_rows
from ml_core.lab.training.declared_groups import cell_rows
from ml_core.lab.training.labelled_rows import LabelledRows
from ml_core.serve.home.homes import open_home
from ml_core.serve.model.bundle import Bundle, read_bundle, verify_folder
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.promotion_record import GateReport, PromotionRecord, RuleVerdict, bento_tag, plain_promotion
from ml_core.serve.model.vouching import keep_promotion
from ml_core.serve.rollout.monitor_state import MonitorView

__all__ = ["ModelPromoter", "Promotion", "promote_version"]

_STAGE = {"stage": "Production"}  # read by tools that know the old stages; the stage interface itself is deprecated


@dataclass(frozen=True, slots=True)
class Promotion:
    """The decision on a version.

    Attributes
    ----------
    decision : ``promoted``, ``already champion`` or ``refused``; with a dry run what it would be
    version, model_hash, bento_tag : of the challenger
    champion_version : that held the place before; None if nobody did
    rules : every rule with its numbers
    compared_on : the rows
    gate : the report of the deployment gate on it
    """

    decision: str
    version: str
    model_hash: str
    bento_tag: str
    champion_version: str | None
    rules: tuple[RuleVerdict, ...]
    compared_on: str
    gate: GateReport

    @property
    def failed(self) -> tuple[RuleVerdict, ...]:
        """The rules that said no: those of the gate one by one, then those of the comparison with the champion."""
        of_gate = tuple(rule for rule in self.gate.rules if not rule.passed)
        return of_gate + tuple(rule for rule in self.rules if not rule.passed and rule.rule != GATE_RULE)


def promote_version(
    registry: Registry,
    version: RegisteredVersion,
    config: ModelConfig,
    settings: Settings,
    *,
    data: Path | None = None,
    dry_run: bool = False,
) -> Promotion:
    """Gate the version afresh, compare it with the champion, and promote it if every rule passes.

    Parameters
    ----------
    data : rows to judge a foreign model on
    dry_run : change and keep nothing

    Raises
    ------
    DataError, ArtefactError, ConfigError
        As ``validate_deployment``.
    RegistryError
        Somebody else moved the alias meanwhile.
    """
    gate = validate_deployment(registry, version, config, settings, data=data, keep=not dry_run)
    rows = None
    if all(rule.passed for rule in gate.rules if rule.rule == "artefact"):
        with registry.bundle_folder(version) as folder:
            manifest, _, _ = verify_folder(folder, gate.model_hash)
        rows = rows_of(manifest, config, settings, data)
    promoter = ModelPromoter(registry, settings, config, _champions_alarms(registry, version.name, settings))
    return promoter.promote(version, gate, rows, dry_run=dry_run)


class ModelPromoter:
    """Decides and carries out promotions of one registry.

    Parameters
    ----------
    registry, settings : where aliases, records and the journal are
    config : of the model: criteria and split
    alarms : coverage and drift alarms of the champion that are on
    """

    def __init__(
        self, registry: Registry, settings: Settings, config: ModelConfig, alarms: tuple[str, ...] = ()
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._config = config
        self._alarms = alarms

    def promote(
        self, version: RegisteredVersion, gate: GateReport, rows: LabelledRows | None, *, dry_run: bool = False
    ) -> Promotion:
        """Judge the version and, if every rule passes, make it the champion.

        Done again on the champion it changes nothing, but completes what a killed promotion left undone.

        Parameters
        ----------
        gate : fresh report on this version
        rows : the version's rows, all parts; only test patients are looked at. None where the gate found no artefact to
            trust: then only its refusal is told
        dry_run : decide only

        Raises
        ------
        RegistryError
            Somebody else moved the alias meanwhile; nothing was changed.
        """
        with locked(self._settings.home / "promote.lock"):
            champion = self._registry.find_alias(version.name, CHAMPION)
            is_champion = champion is not None and champion.version == version.version
            rules = self._rules(version, None if is_champion else champion, gate, rows)
            passed = all(rule.passed for rule in rules)
            decision = "refused" if not passed else "already champion" if is_champion else "promoted"
            outcome = Promotion(
                decision=decision,
                version=version.version,
                model_hash=gate.model_hash,
                bento_tag=bento_tag(version.name, version.version, gate.model_hash),
                champion_version=champion.version if champion else None,
                rules=tuple(rules),
                compared_on=gate.judged_on,
                gate=gate,
            )
            if not dry_run:
                self._carry_out(version, champion, gate, outcome)
        return outcome

    def decide(self, challenger: Bundle, champion: Bundle, rows: LabelledRows, gate: GateReport) -> list[RuleVerdict]:
        """Every rule's verdict on a challenger that meets a champion; without one the gate alone decides.

        Parameters
        ----------
        rows : all parts of the split
        """
        rules = [gate_rule(gate)]
        if has_the_same_scorer(challenger, champion):
            return [*rules, *self._recalibrated(challenger, champion, rows)]
        test, columns, shared = shared_rows(challenger, champion, rows.part("test"))
        rules += [shared, *enough_rows_rules(test.y_index, rows.classes, self._config.gate.min_positives)]
        if not all(rule.passed for rule in rules[1:]) or columns is None:
            return rules
        new = score(challenger, test, Predictor(challenger).proba(test.columns))
        old = score(champion, test, Predictor(champion).proba(columns))
        rules += compare(self._config.promotion, test.y_index, test.groups, new, old, self._alarms, test.weights)
        return rules + coverage_floor_rules(self._coverage(challenger, rows, new.proba))

    def _recalibrated(self, challenger: Bundle, champion: Bundle, rows: LabelledRows) -> list[RuleVerdict]:
        """The rules for a challenger that is the champion with another calibration."""
        proba = Predictor(challenger).score(rows.matrix)
        alarms = self._alarms if self._config.promotion.yield_to_alarm else ()
        rules = restores_coverage(CalibratedAnew(challenger, champion, rows, proba), alarms)
        return rules + coverage_floor_rules(self._coverage(challenger, rows, proba[rows.parts == "test"]))

    def _rules(
        self,
        version: RegisteredVersion,
        champion: RegisteredVersion | None,
        gate: GateReport,
        rows: LabelledRows | None,
    ) -> list[RuleVerdict]:
        if champion is None or rows is None:
            return [gate_rule(gate)]
        with self._registry.bundle_folder(version) as folder:
            challenger = read_bundle(folder, gate.model_hash)
        with self._registry.bundle_folder(champion) as folder:
            return self.decide(challenger, read_bundle(folder, champion.model_hash or None), rows, gate)

    def _coverage(self, bundle: Bundle, rows: LabelledRows, proba: npt.NDArray[np.float64]) -> tuple[CoverageOf, ...]:
        """Coverage on the test rows, of which the model gave these probabilities."""
        level: Decimal = bundle.manifest.confidence_level
        test = rows.part("test")
        about = (proba, test.y_index, test.groups, level, self._config.promotion.min_coverage, test.classes)
        if bundle.weighted is not None:
            calibration = rows.part("calibration")
            ours = weighted_rows(bundle.weighted, level, calibration, Predictor(bundle).score(calibration.matrix))
            theirs = weighted_rows(bundle.weighted, level, test, proba)
            return weighted_verdict(ours, theirs, level, self._config.promotion.min_coverage, test.classes)
        if bundle.grouped is None:
            return coverage_verdict(bundle.calibration, *about)
        cells, _ = cell_rows(bundle.manifest.groups, bundle.calibration, bundle.grouped, test)
        return cells_verdict(cells, *about)

    def _carry_out(
        self, version: RegisteredVersion, champion: RegisteredVersion | None, gate: GateReport, outcome: Promotion
    ) -> None:
        """Journal the decision, then set alias, tags and record. A second run completes what is missing."""
        journal = open_home(self._settings).journal
        facts = {
            "model": version.name,
            "version": version.version,
            "model_hash": outcome.model_hash,
            "champion_version": outcome.champion_version,
            "decision": outcome.decision,
            "compared_on": outcome.compared_on,
            "rules": [rule.model_dump() for rule in outcome.rules],
        }
        if outcome.decision != "already champion":
            journal.append("promotion.decided", facts)
        if outcome.decision == "refused":
            return
        if outcome.decision == "promoted":
            self._move_alias(version, champion)
        for other in self._registry.versions(version.name):
            if other.version == version.version:
                self._registry.set_tags(other, _STAGE)
            elif _STAGE.keys() & other.tags.keys():
                self._registry.set_tags(other, dict.fromkeys(_STAGE))
        if self._write_record(version, gate, outcome):
            moved = {k: facts[k] for k in ("model", "version", "model_hash", "champion_version")}
            journal.append("promotion.recorded", moved)

    def _move_alias(self, version: RegisteredVersion, champion: RegisteredVersion | None) -> None:
        now = self._registry.find_alias(version.name, CHAMPION)
        if (now.version if now else None) != (champion.version if champion else None):
            raise RegistryError(
                f"{version.name}@{CHAMPION}", "was moved by somebody else meanwhile; nothing was changed"
            )
        self._registry.set_alias(version, CHAMPION)

    def _write_record(self, version: RegisteredVersion, gate: GateReport, outcome: Promotion) -> bool:
        """Write the promotion record unless it names this version already."""
        old = plain_promotion(self._settings, version.name)
        if old is not None and (old.bento_tag, old.model_hash) == (outcome.bento_tag, outcome.model_hash):
            return False
        record = PromotionRecord(
            model_name=version.name,
            model_version=version.version,
            model_hash=outcome.model_hash,
            bento_tag=outcome.bento_tag,
            run_id=version.run_id,
            promoted_at=utc_text(utc_now()),
            promoted_by=who(),
            replaced_version=old.model_version if old is not None else outcome.champion_version,
            gate=gate,
        )
        keep_promotion(self._settings, record)
        return True


def _champions_alarms(registry: Registry, name: str, settings: Settings) -> tuple[str, ...]:
    """Coverage and drift alarms of the registered champion that are on."""
    champion = registry.find_alias(name, CHAMPION)
    view = MonitorView(settings.model_copy(update={"model_name": name}))
    view.look()
    if champion is None or view.state is None:
        return ()
    health = view.state.models.get(champion.model_hash)
    alarms = () if health is None else health.alarms
    return tuple(alarm.reason for alarm in alarms if alarm.reason == "drift" or alarm.reason.startswith("coverage:"))
