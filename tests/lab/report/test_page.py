from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import orjson
import pytest
from hatchling.builders.wheel import WheelBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.base.errors import DataError
from ml_core.lab.report.facts import Gap
from ml_core.lab.report.facts_drift import FeatureDrift
from ml_core.lab.report.facts_outcomes import Labels
from ml_core.lab.report.facts_upkeep import LogStore, ShadowPair
from ml_core.lab.report.page import report_json, report_page, write_page
from tests.lab.report.example_facts import NOW, bare_facts, drift_of, example_facts, facts_with
from tests.lab.report.outline import Outline

PARTS = (
    "status",
    "models",
    "drift",
    "answers",
    "coverage",
    "performance",
    "shadow",
    "circuits",
    "rollout",
    "log",
    "lineage",
)
MOST_BYTES = 5_000_000
NASTY = "<script>alert(1)</script><img src=http://x.example/y onerror=alert(1)>'\"&{{ 7 * 7 }}`x"


@pytest.fixture(scope="module")
def facts():
    return example_facts()


@pytest.fixture(scope="module")
def page(facts):
    return report_page(facts)


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


# --- form -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [example_facts, bare_facts])
def test_every_tag_is_closed_and_every_name_is_given_once(made):
    found = Outline(report_page(made()))
    assert found.problems == []
    assert len(found.ids) == len(set(found.ids))


@pytest.mark.parametrize("made", [example_facts, bare_facts])
def test_every_part_is_there_under_its_name_and_in_the_list_of_parts(made):
    found = Outline(report_page(made()))
    assert set(PARTS) <= set(found.ids)
    assert {f"#{part}" for part in PARTS[1:]} <= set(found.addresses)


def test_nothing_is_fetched(page, outline):
    assert all(address.startswith("#") for address in outline.addresses)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(outline.tags)
    assert not re.search(r"@import|https?:|url\((?!#)|@font-face", page)
    assert "default-src 'none'" in page


def test_same_facts_are_the_same_page_whatever_was_drawn_before(facts, page):
    report_page(bare_facts())
    assert report_page(facts) == page


def test_same_facts_are_the_same_page_in_another_process(page, pytestconfig):
    program = (
        "import sys; from ml_core.lab.report.page import report_page; from tests.lab.report.example_facts import example_facts;"
        "sys.stdout.buffer.write(report_page(example_facts()).encode())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, capture_output=True, check=True, cwd=pytestconfig.rootpath, env=environment)
    assert done.stdout.decode() == page


def test_a_page_of_sixty_features_and_four_hundred_days_can_be_mailed():
    page = report_page(example_facts(features=60, days=400))
    assert len(page.encode()) <= MOST_BYTES
    assert Outline(page).text.count("lab_ value_") == 46  # every feature is in it


def test_pictures_are_described_and_tables_have_heads(outline):
    described = {value for tag, name, value in outline.attributes if (tag, name) == ("svg", "aria-label")}
    assert outline.tags.count("svg") == sum((tag, name) == ("svg", "aria-label") for tag, name, _ in outline.attributes)
    assert all(described)
    assert outline.tags.count("table") == outline.tags.count("thead")
    assert {v for t, n, v in outline.attributes if (t, n) == ("th", "scope")} == {"col", "row"}


def test_headings_descend_without_a_gap(outline):
    levels = [int(tag[1]) for tag in outline.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_templates_and_style_are_in_the_wheel(pytestconfig):
    builder = WheelBuilder(str(pytestconfig.rootpath))
    packed = {file.distribution_path for file in builder.recurse_included_files()}
    folder = pytestconfig.rootpath / "ml_core" / "lab" / "report"
    needed = {f"ml_core/lab/report/{p.name}" for p in folder.iterdir() if p.suffix in {".jinja", ".css"}}
    assert "ml_core/lab/report/report.html.jinja" in needed <= packed


# --- content --------------------------------------------------------------------------------------------------------


def test_status_stands_at_the_top_in_plain_words(outline):
    before = outline.text.split("Models")[0]
    assert "Needs a look 3 things need somebody to look." in before
    assert "Coverage alarm for class 1 (readmitted within 30 days)" in before
    assert "First: See below which features changed." in before


@pytest.mark.parametrize(
    "expected",
    [
        "Champion: answers Version 3",
        "passed, 14 Jul 2026",
        "20 Jul 2026 by mkeller",
        "3,187 rows of class 0, 1,204 rows of class 1",
        "2,318 records from 16 Nov 2026 to 23 Nov 2026 against 13,120 from training.",
        "the share of missing values moved by more than five points, and not by chance",
        "2 values, 30 are needed",
        "31,204 counted, 9,871 waiting for their day, 214 due but not sent in.",
        "Class 1 (readmitted within 30 days)",
        "Alarm on since 21 Nov 2026, 05:15 UTC",
        "On average less than one false alarm in 50,000 outcomes of this class.",
        "Calibration slope 0.86 (0.8 to 0.92): 1 is right",
        "Intercept 0.05 (0.01 to 0.09): 0 is right",
        "female class 0 (not readmitted within 30 days) 90 % 5,210 5,210 90.5 % 87.5 % 92.2 %",
        "below 50 class 1 (readmitted within 30 days) measured only 150 150",
        "unknown class 1 (readmitted within 30 days) measured only below 10",
        "1,150 requests; 12 left out, the queue was full",
        "same prediction 95.5 %",
        "half open last: latency p95",
        "guard fallback_share: 0.083 over 0.05 in 412 observations",
        "shadow_share=0.5",
        "hold, verified 23 Nov 2026, 02:15 UTC",
        "The newest 60 of 122 files; all of them are in the JSON form of this report.",
        "93610e73c2f40b1c7f6a5a90d0f4b1f2f54e2f58d3a6b7c8d9e0f1a2b3c4d5e6",
        "6f0c1d2b9a4e4b0fb2c6d1b1f7c3a055",
    ],
)
def test_facts_are_told(outline, expected):
    assert expected in outline.text


def test_drifted_features_come_first_then_noticed_then_unjudged_then_the_rest():
    features = (
        FeatureDrift("calm", "ok", is_drifted=False, shift_sd=0.01),
        FeatureDrift("few", "too_few", is_drifted=False, is_tested=False),
        FeatureDrift("little", "drifted", is_drifted=True, shift_sd=-0.2),
        FeatureDrift("noticed", "warned", is_drifted=False, is_warned=True),
        FeatureDrift("much", "drifted", is_drifted=True, shift_sd=1.2),
        FeatureDrift("moved", "ok", is_drifted=False, shift_sd=-0.09),
    )
    text = Outline(report_page(replace(bare_facts(), drift=drift_of(*features)))).text
    table = text[text.index("feature finding") :]
    places = [table.index(f"{name} ") for name in ("much", "little", "noticed", "few", "moved", "calm")]
    assert places == sorted(places)
    assert "2 features have not changed" in table


@pytest.mark.parametrize(("steady", "is_open"), [(12, True), (13, False)])
def test_many_unchanged_features_are_folded_away(steady, is_open):
    features = (FeatureDrift(f"f{n}", "ok", is_drifted=False) for n in range(steady))
    page = report_page(replace(bare_facts(), drift=drift_of(*features)))
    assert ("<details open>" in page) == is_open


@pytest.mark.parametrize(
    "expected",
    [
        "There is no model of this name yet. surety train makes one",
        "No drift check has been made yet.",
        "No answer of this period is in the prediction log.",
        "Coverage cannot be judged yet. It takes outcomes",
        "Realised performance is not known yet. It takes outcomes",
        "No version has been scored in shadow.",
        "No process reports a circuit",
        "Nothing has been decided yet.",
        "There is no prediction log yet",
        "There is no model whose origin could be told.",
    ],
)
def test_empty_parts_say_why_and_what_would_fill_them(expected):
    assert expected in Outline(report_page(bare_facts())).text


def test_long_tables_show_the_newest_and_say_so(facts):
    one = facts.answers.buckets[-1]
    long = replace(facts.answers, buckets=(replace(one, answers=123_456), *(one,) * 400))
    text = Outline(report_page(replace(bare_facts(), answers=long))).text
    assert "The newest 400 of 401 buckets" in text
    assert "123,456" not in text.split("The numbers")[1]


def test_parts_that_wait_for_outcomes_say_until_when():
    waiting = replace(bare_facts(), labels=Labels(waiting=12, horizon_days=30.0, next_at=NOW))
    assert Outline(report_page(waiting)).text.count("12 predictions wait for the day their outcome counts") == 3


def test_empty_histories_within_a_part_are_no_error(facts):
    hollow = replace(
        facts,
        answers=replace(facts.answers, buckets=()),
        coverage=replace(facts.coverage, classes=()),
        performance=replace(facts.performance, buckets=()),
        drift=replace(facts.drift, features=(), scores=(), detector=None),
        shadow=(ShadowPair("v3", "v4", 0, 0, 0),),
        store=LogStore(0, 0, "standard"),
        models=(replace(facts.models[0], gate=None, metrics={}, lineage={}, rows={}, trained_at=None),),
    )
    found = Outline(report_page(hollow))
    assert found.problems == []
    assert "Nothing has been scored by this pair yet" in found.text
    assert "not walked for this report" in found.text


@pytest.mark.parametrize("part", PARTS[1:])
def test_a_part_that_could_not_be_read_says_so_instead_of_what_would_fill_it(part):
    page = report_page(replace(bare_facts(), gaps=(Gap(part, "w01.db: is no prediction log."),)))
    section = page[page.index(f'<section id="{part}"') :].partition("</section>")[0]
    assert "Not all could be read: w01.db: is no prediction log." in section
    assert 'class="nothing"' not in section
    assert page.count('class="nothing"') == report_page(bare_facts()).count('class="nothing"') - 1


def test_a_promise_to_all_classes_together_is_told_as_one(facts):
    one = replace(facts.coverage.classes[1], label="all")
    model = replace(facts.models[0], guarantee="marginal", calibration_rows={"all": 4_391})
    text = Outline(report_page(replace(facts, coverage=replace(facts.coverage, classes=(one,)), models=(model,)))).text
    assert "Coverage alarm for all classes together since" in text
    assert "coverage, all classes" in text
    assert "4,391 rows of all classes" in text


# --- written to files -----------------------------------------------------------------------------------------------


def test_page_and_json_are_written_whole(tmp_path, facts):
    page, json = tmp_path / "new" / "report.html", tmp_path / "report.json"
    written = write_page(facts, page, json)
    assert (page.read_text(), json.read_bytes()) == (report_page(facts), report_json(facts))
    assert (written.bytes, written.status.overall) == (page.stat().st_size, "attention")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "report.html", "report.json"]


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_page(bare_facts(), tmp_path / "file" / "report.html", tmp_path / "report.json")


def test_one_file_cannot_be_both(tmp_path):
    with pytest.raises(DataError, match="different names"):
        write_page(bare_facts(), tmp_path / "x", tmp_path / "x")
    assert not list(tmp_path.iterdir())


# --- hostile values -------------------------------------------------------------------------------------------------


def test_values_are_text_and_never_markup():
    page = report_page(facts_with(NASTY))
    found = Outline(page)
    assert found.problems == []
    assert not {"script", "img"} & set(found.tags)
    assert all(address.startswith("#") for address in found.addresses)
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    assert "<script>alert(1)</script>" in found.text
    assert "{{ 7 * 7 }}" in found.text


def around(page):
    """Tags outside pictures, without those that only help to break and to mark words."""
    bare = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    return [tag for tag in Outline(bare).tags if tag not in {"wbr", "code"}]


@pytest.fixture(scope="module")
def around_a_word():
    return around(report_page(facts_with("word")))


@settings(max_examples=15, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_no_text_changes_the_page_around_it(around_a_word, text):
    page = report_page(facts_with(text))
    assert Outline(page).problems == []
    assert around(page) == around_a_word


# --- JSON -----------------------------------------------------------------------------------------------------------


def test_json_holds_every_fact_and_the_status(facts):
    found = orjson.loads(report_json(facts))
    assert found["status"]["overall"] == "attention"
    assert found["facts"].keys() == set(facts.__dataclass_fields__)
    assert found["facts"]["written_at"] == "2026-11-23T10:15:30.000000Z"
    assert len(found["facts"]["store"]["files"]) == 122
    assert found["facts"]["drift"]["features"][0]["shares"]["edges"] == list(facts.drift.features[0].shares.edges)


def test_json_is_the_same_for_the_same_facts(facts):
    assert report_json(facts) == report_json(facts)


def test_json_of_nothing_is_whole():
    assert orjson.loads(report_json(bare_facts()))["facts"]["models"] == []


def test_json_holds_no_nan():
    feature = FeatureDrift("x", "ok", is_drifted=False, statistic=float("nan"), p_value=float("inf"))
    raw = report_json(replace(bare_facts(), drift=drift_of(feature)))
    assert orjson.loads(raw)["facts"]["drift"]["features"][0]["p_value"] is None


def test_json_refuses_what_is_no_fact():
    with pytest.raises(TypeError):
        report_json(replace(bare_facts(), label_words={"1": object()}))
