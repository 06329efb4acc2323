"""The dashboard shows every metric of ours, with queries that Prometheus can read, in a form that Grafana takes."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.conftest import Promtool
from tests.deploy.queries import (
    CONFIG,
    DASHBOARD,
    DEPLOY,
    GIVEN,
    OF_THE_HOME,
    aggregated_by,
    board,
    board_queries,
    declared,
    grouped_by,
    named_metrics,
    panels,
    selected,
    substituted,
)

BOARD = board()
PANELS = panels()
QUERIES = board_queries()
VARIABLES = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
PROVISIONING = DEPLOY / "grafana" / "provisioning"


def test_dashboard_can_be_provisioned() -> None:
    assert BOARD["schemaVersion"] >= 39  # Grafana 11
    assert (BOARD["uid"], BOARD["title"]) == ("surety", "Surety")
    assert BOARD.keys().isdisjoint({"id", "__inputs", "__requires"})  # what only an export or a database has


def test_ids_are_unique() -> None:
    rows = [panel for panel in BOARD["panels"] if panel["type"] == "row"]
    ids = Counter(panel["id"] for panel in (*rows, *PANELS))
    assert set(ids.values()) == {1}
    assert set(Counter(panel["title"] for panel in PANELS).values()) == {1}


def test_rows_tell_the_story() -> None:
    assert [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"] == [
        "At a glance", "Traffic", "Answers", "Validity and alarms", "Circuits", "Rollout and shadow",
        "Prediction log and labels", "Workers",
    ]  # fmt: skip


def test_panels_lie_side_by_side() -> None:
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    for place in places:
        assert place["w"] >= 1
        assert 0 <= place["x"] <= 24 - place["w"]
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        )  # fmt: skip
        assert apart, (one, other)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_says_what_it_shows_and_asks_the_chosen_source(panel: dict[str, Any]) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["description"].endswith(".")
    assert panel["type"] in {"timeseries", "stat", "state-timeline"}
    assert panel["datasource"] == source
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert [target["datasource"] for target in panel["targets"]] == [source] * len(panel["targets"])
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == sorted(set(letters))
    assert letters


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_legend_speaks_of_labels_that_the_query_leaves(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert shown <= grouped_by(target["expr"]), target["expr"]


def test_source_job_and_model_can_be_chosen() -> None:
    assert list(VARIABLES) == ["datasource", "job", "model_name"]
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")
    for name in ("job", "model_name"):
        assert VARIABLES[name]["datasource"]["uid"] == "${datasource}"
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", VARIABLES[name]["query"]["query"])
        assert found is not None
        assert found[2] == name
        (metric,) = named_metrics(found[1])
        assert {name} - {"job"} <= declared()[metric]


@pytest.mark.parametrize("where", QUERIES)
def test_query_names_only_what_exists(where: str) -> None:
    ours = declared()
    names = named_metrics(QUERIES[where])
    assert names
    assert {name for name in names if not name.startswith("bentoml_service_")} <= ours.keys() | GIVEN
    for name, labels in selected(QUERIES[where]):
        assert "job" in labels
        if name in ours:
            assert labels - {"job"} <= ours[name], name
            assert ("model_name" in labels) == ("model_name" in ours[name]), name


@pytest.mark.parametrize("where", QUERIES)
def test_machines_are_summed_and_what_they_tell_alike_is_not(where: str) -> None:
    for name in named_metrics(QUERIES[where]):
        around = set(aggregated_by(QUERIES[where], name))
        assert "" not in around, name
        if name in OF_THE_HOME:
            assert around == {"max"}, name


def test_every_metric_of_ours_is_shown() -> None:
    assert declared().keys() <= {name for query in QUERIES.values() for name in named_metrics(query)}


def test_prometheus_can_read_every_query(promtool: Promtool, tmp_path: Path) -> None:
    made = [{"record": f"panel:{i}", "expr": substituted(query)} for i, query in enumerate(QUERIES.values())]
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": made}]}))
    assert f"{len(QUERIES)} rules found" in promtool("check", "rules", rules)


def test_provisioned_source_is_the_prometheus_beside_it() -> None:
    given = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())
    (source,) = given["datasources"]
    assert (given["apiVersion"], source["type"], source["access"], source["isDefault"]) == (
        1,
        "prometheus",
        "proxy",
        True,
    )
    scraped = yaml.safe_load(CONFIG.read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped


def test_provisioned_folder_is_the_one_the_runbook_mounts() -> None:
    given = yaml.safe_load((PROVISIONING / "dashboards" / "surety.yml").read_text())
    (provider,) = given["providers"]
    assert (given["apiVersion"], provider["type"]) == (1, "file")
    runbook = (DEPLOY.parent / "docs" / "runbook.md").read_text()
    assert f"{DASHBOARD.parent.relative_to(DEPLOY.parent)}:{provider['options']['path']}" in runbook
    assert f"{PROVISIONING.relative_to(DEPLOY.parent)}:/etc/grafana/provisioning" in runbook
