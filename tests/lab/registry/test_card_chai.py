"""The applied model card of the Coalition for Health AI: valid by its schema, and told from the facts of the card alone."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from ml_core.lab.config import CardConfig
from ml_core.lab.registry.card_chai import CHAI_NAMESPACE, chai_card
from ml_core.lab.registry.card_facts import NOT_RECORDED, ModelCard
from ml_core.lab.registry.model_card import card_record
from ml_core.serve.model.promotion_record import RuleVerdict
from tests.oracles import ROOT, oracle
from tests.toy_models import grouped_rows, grouped_toy, passed_gate, toy_model, toy_rows

SCHEMA = ROOT / "tests" / "data" / "chai_model_card_v0.2.xsd"
_VALID = """
import json, sys, xmlschema
# The schema imports that of XML signatures, for an element that no card here has; nothing is fetched.
signatures = '''<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema"
  targetNamespace="http://www.w3.org/2000/09/xmldsig#"><xs:element name="Signature"/></xs:schema>'''
place, cards = sys.argv[1], json.load(sys.stdin)
text = open(place).read().replace(
    'schemaLocation="http://www.w3.org/TR/xmldsig-core/xmldsig-core-schema.xsd"', f'schemaLocation="{sys.argv[2]}"')
open(sys.argv[2], "w").write(signatures)
schema = xmlschema.XMLSchema(text, base_url=place, allow="local")
print(json.dumps([[error.reason for error in schema.iter_errors(card)] for card in cards]))
"""

RULES = (
    RuleVerdict(rule="roc_auc", value=0.8, limit=0.75, passed=True, note=""),
    RuleVerdict(rule="coverage_class_1", value=0.91, limit=0.88, passed=True, note=""),
    RuleVerdict(rule="coverage_by_sex", value=0.4, limit=0.5, passed=False, note=""),
)


def card_of(words: CardConfig | None = None, packed=None, rows=None) -> ModelCard:
    packed, rows = packed or toy_model(), rows or toy_rows()
    record = card_record(packed, words or CardConfig(), rows)
    gate = passed_gate(packed.model_hash).model_copy(update={"rules": RULES})
    return ModelCard("toy_risk", "9", packed.model_hash, packed.bundle, record, gate)


FULL = CardConfig(
    **{name: f"Said of {name} & <more>." for name, field in CardConfig.model_fields.items() if field.annotation is str},
    owners=("Ward 3", "ward3@example.org"),
    keywords=("sepsis", "ward"),
    demographics={"sex": "sex"},
)
CARDS = {
    "of words": lambda: card_of(FULL),
    "without a word": card_of,
    "by group": lambda: card_of(FULL, grouped_toy(), grouped_rows()),
    "never judged": lambda: replace(card_of(), gate=None),
    "not verified": lambda: replace(card_of(), bundle=None, gate=None),
    "nothing known": lambda: ModelCard("toy_risk", "9", "", None, None, None),
}


def element(xml: str, path: str) -> list[str | None]:
    names = "/".join(f"{{{CHAI_NAMESPACE}}}{name}" for name in path.split("/"))
    return [found.text for found in ET.fromstring(xml).findall(names)]


def test_every_card_is_valid_by_the_schema(tmp_path):
    cards = [chai_card(made()) for made in CARDS.values()]
    broken = [cards[0].replace("<ReleaseStage>", "<Stage>").replace("</ReleaseStage>", "</Stage>")]
    done = oracle("python", "-c", _VALID, SCHEMA, tmp_path / "signatures.xsd", text=json.dumps([*cards, *broken]))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert dict(zip(CARDS, found[:-1], strict=True)) == {name: [] for name in CARDS}
    assert found[-1]


def test_what_nobody_recorded_reads_so_in_every_element():
    xml = chai_card(CARDS["nothing known"]())
    told = [
        e.text.strip()
        for e in ET.fromstring(xml).iter()
        if not len(e) and e.text and e.tag != f"{{{CHAI_NAMESPACE}}}Keywords"
    ]
    assert {text for text in told if text not in ("toy_risk", "9", "null")} == {NOT_RECORDED}


def test_elements_come_from_the_facts():
    xml = chai_card(CARDS["of words"]())
    assert element(xml, "BasicInfo/ModelDeveloper") == ["Ward 3"]
    assert element(xml, "BasicInfo/DeveloperContact") == ["ward3@example.org"]
    assert element(xml, "TrustIngredients/TransparencyInformation/FundingSource") == ["Said of funding & <more>."]
    assert element(xml, "ModelSummary/Keywords/Keyword") == ["sepsis", "ward"]
    assert element(xml, "ReleaseInfo/ReleaseVersion") == [f"9 (sha256 {toy_model().model_hash})"]
    labels = element(xml, "KeyMetrics/UsefulnessUsabilityEfficacy/Results/MetricResult/Label")
    values = element(xml, "KeyMetrics/UsefulnessUsabilityEfficacy/Results/MetricResult/ValueJson")
    auc = json.loads(values[labels.index("area under the ROC curve")])
    assert auc["value"] == toy_model().bundle.manifest.metrics["roc_auc"]
    assert auc["lower"] < auc["value"] < auc["upper"]


def test_goals_and_interpretations_are_those_of_the_gate():
    xml = chai_card(CARDS["by group"]())
    for part, rule, verdict in (
        ("UsefulnessUsabilityEfficacy", "roc_auc: limit 0.75", "roc_auc: passed"),
        ("SafetyReliability", "coverage_class_1: limit 0.88", "coverage_class_1: passed"),
        ("FairnessEquity", "coverage_by_sex: limit 0.5", "coverage_by_sex: refused"),
    ):
        assert element(xml, f"KeyMetrics/{part}/MetricGoal") == [rule]
        assert element(xml, f"KeyMetrics/{part}/Interpretation") == [f"By the gate: {verdict}."]
    never = chai_card(CARDS["never judged"]())
    assert element(never, "KeyMetrics/FairnessEquity/Interpretation") == [NOT_RECORDED]


def test_group_figures_are_in_it():
    xml = chai_card(CARDS["by group"]())
    labels = element(xml, "KeyMetrics/FairnessEquity/Results/MetricResult/Label")
    values = element(xml, "KeyMetrics/FairnessEquity/Results/MetricResult/ValueJson")
    female = next(found for found in grouped_toy().evaluation.by_group if found.cell == "female")
    at = labels.index("coverage, 1; sex = female")
    assert json.loads(values[at]) == {"value": female.metrics["coverage_class_1"], "rows": female.metrics["n_class_1"]}


@given(st.text(max_size=40))
def test_any_word_gives_a_document_that_can_be_read(word):
    card = replace(CARDS["nothing known"](), record=card_of().record)
    xml = chai_card(replace(card, record=card.record.model_copy(update={"words": CardConfig(summary=word)})))
    expected = "".join(c if is_fit(c) else f"\\u{ord(c):04x}" for c in word.strip()) or NOT_RECORDED
    assert element(xml, "ModelSummary/Summary") == [expected.replace("\r\n", "\n").replace("\r", "\n")]


def is_fit(character: str) -> bool:
    """Whether XML 1.0 allows it."""
    return character in "\t\n\r" or (character >= " " and character not in "\ufffe\uffff")
