"""The 31 source attributes: told from what was recorded, from the words of the configuration, or as not recorded."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import get_args

import pytest

from ml_core.lab.config import CardConfig, Demographic
from ml_core.lab.registry.card_attributes import group_results, source_attributes
from ml_core.lab.registry.card_facts import NOT_RECORDED, ModelCard
from ml_core.lab.registry.model_card import card_json, card_record, card_text
from ml_core.serve.model.manifest import Source
from tests.toy_models import grouped_rows, grouped_toy, toy_model, toy_rows

PARAGRAPHS = [
    *(f"(1)({n})" for n in ("i", "ii", "iii", "iv")), *(f"(2)({n})" for n in ("i", "ii", "iii", "iv")),
    *(f"(3)({n})" for n in ("i", "ii")), *(f"(4)({n})" for n in ("i", "ii", "iii", "iv")),
    *(f"(5)({n})" for n in ("i", "ii")), *(f"(6)({n})" for n in ("i", "ii", "iii", "iv")),
    *(f"(7)({n})" for n in ("i", "ii", "iii", "iv", "v")), *(f"(8)({n})" for n in ("i", "ii", "iii", "iv")),
    *(f"(9)({n})" for n in ("i", "ii")),
]  # fmt: skip
BY_EVIDENCE = {"(1)(iii)", "(1)(iv)", "(3)(ii)", "(7)(i)"}
"""What the artefact and its test rows tell of every model."""


def card_of(words: CardConfig | None = None, packed=None, rows=None) -> ModelCard:
    packed, rows = packed or toy_model(), rows or toy_rows()
    record = card_record(packed, words or CardConfig(), rows)
    return ModelCard("toy_risk", "9", packed.model_hash, packed.bundle, record, None)


def texts(card: ModelCard) -> dict[str, str]:
    return {told.paragraph: told.text for told in source_attributes(card)}


def test_there_are_the_31_of_the_rule_in_its_order():
    assert [told.paragraph for told in source_attributes(card_of())] == PARAGRAPHS
    assert len(PARAGRAPHS) == 31


def test_without_a_word_only_evidence_is_told():
    """Nothing is filled in silently."""
    assert {paragraph for paragraph, text in texts(card_of()).items() if text != NOT_RECORDED} == BY_EVIDENCE


def test_of_a_model_that_cannot_be_verified_nothing_is_told():
    assert set(texts(replace(card_of(), bundle=None, record=None)).values()) == {NOT_RECORDED}


WORDS = {
    "owners": "(1)(i)", "funding": "(1)(ii)", "intended_use": "(2)(i)", "intended_population": "(2)(ii)",
    "intended_users": "(2)(iii)", "decision_role": "(2)(iv)", "out_of_scope": "(3)(i)", "caveats": "(3)(ii)",
    "inclusion_criteria": "(4)(i)", "representativeness": "(4)(iii)", "relevance": "(4)(iv)",
    "fairness_approach": "(5)(i)", "bias_approach": "(5)(ii)", "external_data": "(6)(i)", "external_party": "(6)(ii)",
    "external_representativeness": "(6)(iii)", "external_process": "(6)(iv)", "external_validity": "(7)(iii)",
    "external_fairness": "(7)(iv)", "outcome_evaluations": "(7)(v)", "validity_monitoring": "(8)(i)",
    "local_validity": "(8)(ii)", "fairness_monitoring": "(8)(iii)", "local_fairness": "(8)(iv)",
    "update_schedule": "(9)(i)", "correction_schedule": "(9)(ii)",
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_a_word_of_the_configuration_tells_its_attribute_and_no_other(name):
    word = f"said of {name}"
    before, after = texts(card_of()), texts(card_of(CardConfig(**{name: (word,) if name == "owners" else word})))
    assert {paragraph for paragraph in PARAGRAPHS if before[paragraph] != after[paragraph]} == {WORDS[name]}
    assert word in after[WORDS[name]]


def test_words_and_evidence_cover_all_31():
    assert {*WORDS.values(), *BY_EVIDENCE, "(4)(ii)", "(7)(ii)"} == set(PARAGRAPHS)


def test_use_of_demographic_variables_is_told_one_by_one():
    words = CardConfig(demographics={"date_of_birth": "age", "race": "", "sex": "gender"})
    told = texts(card_of(words))["(4)(ii)"]
    assert "date of birth: `age`, an input" in told
    assert "race: no column holds it" in told
    assert "sex: `gender`, which is no column of this model" in told
    assert told.count(NOT_RECORDED) == len(get_args(Demographic)) - 3


def test_groups_tell_fairness_and_who_was_in_the_test_rows():
    words = CardConfig(demographics={"sex": "sex", "date_of_birth": "age"})
    card = card_of(words, grouped_toy(), grouped_rows())
    told = texts(card)
    assert "sex: `sex`, no input" in told["(4)(ii)"]
    female = next(found for found in grouped_toy().evaluation.by_group if found.cell == "female")
    assert f"Test rows by sex (`sex`): female {female.n:,}, " in told["(4)(iii)"]
    assert "Test rows by date of birth (`age`): " in told["(4)(iii)"]
    assert "promised for each class in each group by `sex`" in told["(5)(i)"]
    covered = female.metrics["coverage_class_1"]
    assert f"coverage, 1; sex = female: {covered:.3f} ({female.metrics['n_class_1']:,.0f} rows)" in told["(7)(ii)"]


def test_figures_that_few_rows_share_are_in_no_form():
    card = card_of(packed=grouped_toy(), rows=grouped_rows())
    assert "coverage, 1; sex = unknown" not in {words for words, _, _ in group_results(card)}


def test_of_an_adopted_model_nobody_says_that_its_test_rows_are_of_its_training_source():
    card = card_of()
    source = Source(uri="models:/a/1", flavor="sklearn", model_class="sklearn.A", model_sha256="0" * 64)
    adopted = replace(
        card, bundle=replace(card.bundle, manifest=card.bundle.manifest.model_copy(update={"source": source}))
    )
    assert texts(adopted)["(7)(i)"].startswith("What trained the model is not known here")


def test_text_and_json_tell_the_same():
    card = card_of(CardConfig(funding="The ward's | own budget.", owners=("Ward 3", "ward3@example.org")))
    shown = card_text(card).split("\n## Source attributes\n")[1]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in shown.splitlines() if line.startswith("| (")]
    told = card_json(card)["source_attributes"]
    assert [row[0].strip() for row in rows] == PARAGRAPHS
    assert [row[2].strip().replace("\\|", "|") for row in rows] == [" ".join(one["text"].split()) for one in told]
    assert {one["paragraph"] for one in told} == {f"170.315(b)(11)(iv)(B){p}" for p in PARAGRAPHS}
    assert {tuple(one["sources"]) for one in told if one["text"] == NOT_RECORDED} == {()}
    assert told[1]["sources"] == ["configuration"]
