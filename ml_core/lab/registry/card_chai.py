"""A model card as the applied model card of the Coalition for Health AI, an XML document of its schema v0.2.

Every element is told from the facts of the card, or reads "not recorded". Elements that the schema lets be left out are
there only where there is something to say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from ml_core.lab.registry.card_attributes import group_results, source_attributes
from ml_core.lab.registry.card_facts import NOT_RECORDED, ModelCard
from ml_core.lab.registry.card_tables import (
    card_parts,
    explained_as,
    kind_of_model,
    measured_metrics,
    metric_range,
    metric_value,
    split_fact,
)
from ml_core.serve.model.promotion_record import RuleVerdict

__all__ = ["CHAI_NAMESPACE", "chai_card"]

CHAI_NAMESPACE = "https://mc.chai.org/v0.2/schema.xsd"

_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML 1.0 document may hold."""
_HOW_TO_USE = (
    "The answer is a set of labels. One: act on it. Several: the model cannot tell them apart, refer to a person. "
    "None: the record is unlike everything the model was calibrated on, refer to a person; it never means no risk."
)

_Results = Sequence[tuple[str, object]]


def chai_card(card: ModelCard) -> str:
    """The card as XML, with a line for each element."""
    ET.register_namespace("", CHAI_NAMESPACE)
    root = ET.Element(_name("AppliedModelCard"))
    said = {told.paragraph: told.text for told in source_attributes(card)}
    _basics(root, card)
    _uses(root, card, said)
    _trust(root, card, said)
    _key_metrics(root, card)
    _resources(root, card, said)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _basics(root: ET.Element, card: ModelCard) -> None:
    owners = () if card.record is None else card.record.words.owners
    reached = [owner for owner in owners if "@" in owner or "://" in owner]
    basic = _part(root, "BasicInfo")
    _add(basic, "ModelName", card.name)
    _add(basic, "ModelDeveloper", ", ".join(owner for owner in owners if owner not in reached))
    _add(basic, "DeveloperContact", ", ".join(reached))
    release = _part(root, "ReleaseInfo")
    _add(release, "ReleaseStage", _word(card, "release_stage"))
    _add(release, "ReleaseDate", _word(card, "release_date"))
    _add(release, "ReleaseVersion", f"{card.version} (sha256 {card.model_hash})" if card.model_hash else card.version)
    _add(release, "GlobalAvailability", _word(card, "availability"))
    _add_known(release, "RegulatoryApproval", _word(card, "regulatory_approval"))
    summary = _part(root, "ModelSummary")
    _add(summary, "Summary", _word(card, "summary"))
    keywords = _part(summary, "Keywords")
    for keyword in () if card.record is None else card.record.words.keywords:
        _add(keywords, "Keyword", keyword)


def _uses(root: ET.Element, card: ModelCard, said: dict[str, str]) -> None:
    uses = _part(root, "UsesAndDirections")
    role = said["(2)(iv)"]
    _add(uses, "IntendedUseAndWorkflow", said["(2)(i)"] if role == NOT_RECORDED else f"{said['(2)(i)']} {role}")
    _add(uses, "PrimaryIntendedUsers", said["(2)(iii)"])
    _add(uses, "HowToUse", "" if card.bundle is None else _HOW_TO_USE)
    _add(uses, "TargetedPatientPopulation", said["(2)(ii)"])
    _add(uses, "CautionedOutOfScopeSettings", said["(3)(i)"])
    warnings = _part(root, "Warnings")
    _add(warnings, "KnownRisksAndLimitations", said["(3)(ii)"])
    _add(warnings, "KnownBiasesOrEthicalConsiderations", _word(card, "ethical_considerations"))
    _add(warnings, "ClinicalRiskLevel", _word(card, "clinical_risk_level"))


def _trust(root: ET.Element, card: ModelCard, said: dict[str, str]) -> None:
    trust = _part(root, "TrustIngredients")
    facts = _part(trust, "AISystemFacts")
    _add(facts, "OutcomesAndOutputs", said["(1)(iii)"])
    _add(facts, "ModelType", kind_of_model(card))
    _add(facts, "InputDataSource", _word(card, "data"))
    _add(facts, "OutputAndInputDataTypes", _types(card))
    _add(facts, "DevelopmentDataCharacterization", _development(card, said))
    _add(facts, "BiasMitigationApproaches", said["(5)(ii)"])
    _add(facts, "OngoingMaintenance", _joined(said["(8)(i)"], said["(8)(iii)"], said["(9)(i)"], said["(9)(ii)"]))
    explained = explained_as(card)
    if explained:
        added = f"what each raw column raised or lowered the {explained} by"
        _add(facts, "Transparency", f"On request an answer says {added}. That is no statement of causes.")
    about = _part(trust, "TransparencyInformation")
    _add(about, "FundingSource", said["(1)(ii)"])
    _add_known(about, "ThirdPartyInformation", _word(card, "third_parties"))
    _add(about, "StakeholdersConsulted", _word(card, "stakeholders"))


def _key_metrics(root: ET.Element, card: ModelCard) -> None:
    """Usefulness by discrimination and error, fairness by group, safety by what the sets promise."""
    metrics = _part(root, "KeyMetrics")
    measured = [
        (key, words, {"value": value, **_ends(card, key), "rows": n})
        for key, words, n in measured_metrics(card)
        if (value := metric_value(card, key)) is not None
    ]
    rules = () if card.gate is None else card.gate.rules
    of_groups = [rule for rule in rules if rule.rule.startswith("coverage_by_")]
    of_sets = [rule for rule in rules if rule.rule.startswith("coverage") and rule not in of_groups]
    of_scores = [rule for rule in rules if rule not in of_groups and rule not in of_sets]
    scores: _Results = [(words, told) for key, words, told in measured if not _is_of_sets(key)]
    sets: _Results = [(words, told) for key, words, told in measured if _is_of_sets(key)]
    groups: _Results = [(words, {"value": value, "rows": n}) for words, value, n in group_results(card)]
    for name, results, judged in (
        ("UsefulnessUsabilityEfficacy", scores, of_scores),
        ("FairnessEquity", groups, of_groups),
        ("SafetyReliability", sets, of_sets),
    ):
        _key_metric(_part(metrics, name), card, results, judged)


def _key_metric(part: ET.Element, card: ModelCard, results: _Results, rules: Sequence[RuleVerdict]) -> None:
    with_limit = [rule for rule in rules if rule.limit is not None]
    _add(part, "MetricGoal", "; ".join(f"{rule.rule}: limit {rule.limit:.6g}" for rule in with_limit))
    listed = _part(part, "Results")
    for label, told in results or [(NOT_RECORDED, None)]:
        one = _part(listed, "MetricResult")
        _add(one, "Label", label)
        _add(one, "ValueJson", json.dumps(told))
    verdicts = "; ".join(f"{rule.rule}: {'passed' if rule.passed else 'refused'}" for rule in rules)
    _add(part, "Interpretation", f"By the gate: {verdicts}." if verdicts else "")
    _add(
        part,
        "TestType",
        "internal: rows of the source that trained it, which trained and calibrated nothing" if results else "",
    )
    _add(part, "TestingDataDescription", _tested_on(card) if results else "")
    _add(part, "ValidationProcessAndJustification", _process(card) if results else "")


def _resources(root: ET.Element, card: ModelCard, said: dict[str, str]) -> None:
    resources = _part(root, "Resources")
    _add_known(resources, "EvaluationReferences", said["(7)(v)"])
    _add(resources, "PeerReviewedPublications", _word(card, "publications"))
    _add(resources, "PatientConsentOrDisclosure", _word(card, "consent"))
    _add(root, "Bibliography", _word(card, "bibliography"))


# --- texts ----------------------------------------------------------------------------------------------------------


def _is_of_sets(metric: str) -> bool:
    return metric.startswith(("coverage", "mean_set_size")) or metric in ("singleton_share", "empty_share")


def _ends(card: ModelCard, key: str) -> dict[str, float | str | None]:
    found = metric_range(card, key)
    return {} if found is None else {"lower": found.lower, "upper": found.upper, "range": found.kind}


def _types(card: ModelCard) -> str:
    if card.bundle is None:
        return ""
    columns = [c for c in card.bundle.features.columns if c.role == "feature"]
    inputs = ", ".join(f"{c.name} ({c.dtype}{f', {c.unit}' if c.unit else ''})" for c in columns)
    return f"Inputs: {inputs}. Output: one of {', '.join(map(str, card.bundle.manifest.classes))}, or a set of these."


def _development(card: ModelCard, said: dict[str, str]) -> str:
    told = []
    for part, people, rows, classes in card_parts(card):
        facts = [
            f"{rows:,} rows" if rows is not None else "",
            f"{people:,} people" if people is not None else "",
            classes,
        ]
        told.append(f"{part}: {', '.join(filter(None, facts))}")
    rows_told = f"{'. '.join(told)}." if told else NOT_RECORDED
    return _joined(rows_told, said["(4)(i)"], said["(4)(iii)"])


def _test_type(card: ModelCard) -> str:
    adopted = card.bundle is not None and card.bundle.manifest.source is not None
    made = "calibrated" if adopted else "trained"
    return f"on rows of the source that {made} it, none of which trained or calibrated it"


def _tested_on(card: ModelCard) -> str:
    found = [(people, rows) for part, people, rows, _ in card_parts(card) if part == "test"]
    if not found:
        return ""
    people, rows = found[0]
    origin = "" if card.record is None or not card.record.origin else f", of {card.record.origin}"
    return f"{rows or 0:,} rows{'' if people is None else f' of {people:,} people'}{origin}"


def _process(card: ModelCard) -> str:
    if split_fact(card, "split_by") == "time":
        shared = "Rows are shared out in time: the oldest train, the newest test."
    else:
        shared = "People, not rows, are shared out by a salted hash: nobody is in two parts."
    judged = "" if card.gate is None else f" The gate judged it on {card.gate.judged_on} at {card.gate.judged_at}."
    return f"{shared}{judged}" if card.bundle is not None else ""


def _joined(*texts: str) -> str:
    """The texts that were recorded."""
    return " ".join(text for text in texts if text != NOT_RECORDED)


def _word(card: ModelCard, name: str) -> str:
    return "" if card.record is None else str(getattr(card.record.words, name))


# --- elements -------------------------------------------------------------------------------------------------------


def _name(tag: str) -> str:
    return f"{{{CHAI_NAMESPACE}}}{tag}"


def _part(parent: ET.Element, tag: str) -> ET.Element:
    return ET.SubElement(parent, _name(tag))


def _add(parent: ET.Element, tag: str, text: str) -> None:
    """An element with that text, or that it is not recorded."""
    _part(parent, tag).text = _UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", text.strip()) or NOT_RECORDED


def _add_known(parent: ET.Element, tag: str, text: str) -> None:
    """The same where the schema lets it be left out."""
    if text.strip() and text != NOT_RECORDED:
        _add(parent, tag, text)
