"""Prometheus takes configuration and rules; every alert is tested, explained, and about metrics that exist."""

from __future__ import annotations

import re

import pytest
import yaml

from ml_core.base.settings import Settings
from ml_core.serve.http.replies import STATUS_OF_CODE
from ml_core.serve.log.prediction_store import MOST_WAITING_ROWS
from ml_core.serve.rollout.rollout_state import GuardLimits
from tests.deploy.conftest import Promtool
from tests.deploy.queries import (
    CONFIG,
    GIVEN,
    OF_THE_HOME,
    ROOT,
    RULES,
    RULES_TEST,
    aggregated_by,
    alerts,
    board,
    declared,
    named_metrics,
    panels,
    recorded,
    rules,
    selected,
)

RUNBOOK = ROOT / "docs" / "runbook.md"
ALERTS = alerts()
TESTS = yaml.safe_load(RULES_TEST.read_text())["tests"]


def test_prometheus_takes_the_configuration(promtool: Promtool) -> None:
    assert "1 rule files found" in promtool("check", "config", CONFIG)


def test_prometheus_takes_the_rules(promtool: Promtool) -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_alerts_fire_when_they_should_and_only_then(promtool: Promtool) -> None:
    promtool("test", "rules", RULES_TEST)


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_is_tested_firing_and_quiet(alert: str) -> None:
    tried = [case for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == alert]
    assert {bool(case["exp_alerts"]) for case in tried} == {True, False}


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_says_how_bad_what_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{alert.lower()}"


def test_runbook_has_a_paragraph_for_every_alert_and_no_other() -> None:
    alerts_alone = RUNBOOK.read_text().partition("\n## Alarms\n")[0]
    sections = re.split(r"^### ", alerts_alone, flags=re.MULTILINE)[1:]
    told = {heading: text.strip() for heading, _, text in (section.partition("\n") for section in sections)}
    assert list(told) == list(ALERTS)
    for heading, text in told.items():
        severity = ALERTS[heading]["labels"]["severity"]
        assert text.startswith(f"*{severity.capitalize()}.* "), heading
        assert "**First:**" in text, heading
        assert "\n\n**Over:** " in text, heading


def test_runbook_names_panels_of_the_dashboard() -> None:
    named = set(re.findall(r'"([A-Z][^"]+)"', RUNBOOK.read_text()))
    assert named <= {board()["title"], *(panel["title"] for panel in panels())}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rule_names_only_what_exists(rule: dict[str, str]) -> None:
    ours = declared()
    known = ours.keys() | recorded() | GIVEN
    assert {name for name in named_metrics(rule["expr"]) if not name.startswith("bentoml_service_")} <= known
    for name, labels in selected(rule["expr"]):
        if name in ours:
            assert labels - {"job"} <= ours[name], name


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rule_is_about_one_job(rule: dict[str, str]) -> None:
    """The chart puts the name of a release there, so that the rules of two releases do not look at each other."""
    jobs = re.findall(r'\{job="surety"', rule["expr"])
    names = re.sub(r'"[^"]*"', "", re.sub(r"\{[^}]*\}", "{", rule["expr"]))
    assert len(jobs) == sum(
        len(re.findall(rf"(?<![\w:]){name}(?![\w:])", names)) for name in named_metrics(rule["expr"])
    )


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_what_all_machines_tell_alike_is_not_added_up(rule: dict[str, str]) -> None:
    for name in OF_THE_HOME & named_metrics(rule["expr"]):
        assert set(aggregated_by(rule["expr"], name)) <= {"max", ""}, name


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_names_a_machine_where_it_is_about_one_and_is_one_alert_otherwise(alert: str) -> None:
    tried = [case for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == alert]
    told = ALERTS[alert]["annotations"]["description"]
    for fired in (found for case in tried for found in case["exp_alerts"]):
        assert ("instance" in fired["exp_labels"]) == ("$labels.instance" in told)


def test_what_is_around_a_metric_is_read() -> None:
    query = "sum by (a) (rate(x[5m])) + max by (a) (x - min_over_time(x[1h])) / y and sum(max by (a) (y)) or avg ((x))"
    assert aggregated_by(query, "x") == ["sum", "max", "max", "avg"]
    assert aggregated_by(query, "y") == ["", "max"]


def test_reading_of_queries_finds_all_names() -> None:
    query = 'sum by (job) (rate(a_total{x=~"b|c{2}", y!="d"}[5m])) / on (e) group_left (f) g:h > 1.5e3 unless i offset 30m or vector(0)'
    assert named_metrics(query) == {"a_total", "g:h", "i"}
    assert selected(query) == [("a_total", {"x", "y"})]


def test_every_recorded_series_is_used() -> None:
    assert recorded() <= {name for rule in rules() for name in named_metrics(rule["expr"])}


def limit(alert: str) -> float:
    """The first number that an alert compares with."""
    found = re.search(r"> ([\d.]+)", ALERTS[alert]["expr"])
    assert found is not None
    return float(found[1])


def test_limits_are_those_of_the_code() -> None:
    settings = Settings()
    assert limit("SuretyMonitorSilent") == limit_of_silence() == settings.monitor_timeout_s
    assert limit("SuretySlow") * 1000 == settings.circuit_p95_ms
    assert limit("SuretyFallbacks") == GuardLimits(set_size=1.0).fallback_share
    assert limit("SuretyAnswersPending") * 10 == MOST_WAITING_ROWS


def limit_of_silence() -> float:
    found = re.search(r'surety_monitor_age_seconds\{job="surety"\} > (\d+)', ALERTS["SuretyAnswersUnmonitored"]["expr"])
    assert found is not None
    return float(found[1])


def test_codes_of_refusals_are_those_of_the_service() -> None:
    (too_many,) = re.findall(r'code=~"([^"]+)"', rule_of("surety:overloaded:share5m"))
    (mistaken,) = re.findall(r'code=~"([^"]+)"', rule_of("surety:mistaken:share15m"))
    assert codes_like(too_many) == {code for code, status in STATUS_OF_CODE.items() if status == 429}
    routing = {"not_found", "method_not_allowed"}
    keys = {"unauthorized", "forbidden"}  # anybody who scans addresses gets these; no caller of ours need be wrong
    client_errors = {code for code, status in STATUS_OF_CODE.items() if 400 <= status < 500 and status != 429}
    assert codes_like(mistaken) == client_errors - routing - keys


def codes_like(pattern: str) -> set[str]:
    """The service's error codes that fit a label matcher."""
    return {code for code in STATUS_OF_CODE if re.fullmatch(pattern, code)}


def rule_of(record: str) -> str:
    """The query behind a recorded series."""
    (found,) = (rule["expr"] for rule in rules() if rule.get("record") == record)
    return str(found)
