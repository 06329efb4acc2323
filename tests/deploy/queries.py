"""Rules and dashboard as tests read them: their queries, and which metrics and labels these name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import Counter
from prometheus_client.metrics import MetricWrapperBase

from ml_core.serve import metrics

__all__ = [
    "CONFIG", "DASHBOARD", "DEPLOY", "GIVEN", "OF_THE_HOME", "ROOT", "RULES", "RULES_TEST", "aggregated_by", "alerts", "board",
    "board_queries", "declared", "grouped_by", "named_metrics", "panels", "recorded", "rules", "selected", "substituted",
]  # fmt: skip

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"
RULES = DEPLOY / "prometheus" / "rules" / "surety.yml"
RULES_TEST = RULES.with_name("surety_test.yml")
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "surety.json"

GIVEN = {"up"}
"""Series that Prometheus makes itself for every target."""
OF_THE_HOME = {
    *(f"surety_{name}" for name in metrics.HEALTH), "surety_alarm", "surety_validity", "surety_monitor_age_seconds",
    "surety_labels_imported", "surety_rollbacks", "surety_rollout_generation",
}  # fmt: skip
"""What every machine of a service tells alike, since it comes from their common home: a sum would count it twice."""
_KEYWORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}
_GROUPING = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def recorded() -> set[str]:
    """Names of the series that the rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def board() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())  # type: ignore[no-any-return]


def panels() -> list[dict[str, Any]]:
    """Every panel that shows something, those inside folded rows too."""
    found: list[dict[str, Any]] = []
    for panel in board()["panels"]:
        found += panel.get("panels", []) if panel["type"] == "row" else [panel]
    return found


def board_queries() -> dict[str, str]:
    """Queries of the dashboard by panel and letter."""
    return {f"{panel['title']} {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]}


def substituted(query: str) -> str:
    """The query as Grafana would send it, over an interval of 10 s and with every model chosen."""
    for name, value in {"$__rate_interval": "10s", "$job": "surety", "$model_name": ".+"}.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


def named_metrics(query: str) -> set[str]:
    """Names of the series that a query reads."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", _without_strings(query))
    bare = re.sub(_GROUPING, " ", bare)
    return set(re.findall(r"(?<![\w:$.])[a-zA-Z_:][\w:]*(?![\w:])(?!\s*\()", bare)) - _KEYWORDS


def selected(query: str) -> list[tuple[str, set[str]]]:
    """Which labels of which metric a query selects by."""
    found = re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", _without_strings(query))
    return [(name, set(re.findall(r"(\w+)\s*[=!]", matchers))) for name, matchers in found]


def grouped_by(query: str) -> set[str]:
    """Labels that a query groups or joins by."""
    return {label for labels in re.findall(_GROUPING, query) for label in re.findall(r"\w+", labels)}


def aggregated_by(query: str, metric: str) -> list[str]:
    """The innermost of sum, max, min, count and avg around each place that reads a metric; "" where there is none."""
    text = re.sub(r"\b(?:by|without)\s*\([^)]*\)", "", _without_strings(query))
    found = []
    for place in re.finditer(rf"(?<![\w:]){metric}(?![\w:])", text):
        depth, around = 0, ""
        for i in range(place.start() - 1, -1, -1):
            depth += {")": 1, "(": -1}.get(text[i], 0)
            opened = re.search(r"\b(sum|max|min|count|avg)\s*$", text[:i]) if text[i] == "(" and depth < 0 else None
            if opened:
                around = opened[1]
                break
            depth = max(depth, 0)
        found.append(around)
    return found


def declared() -> dict[str, frozenset[str]]:
    """Labels of every metric of ours, by the name under which it shows."""
    found = {}
    for value in (*vars(metrics).values(), *metrics.HEALTH.values()):
        if isinstance(value, MetricWrapperBase):
            (family,) = value.describe()
            name = f"{family.name}_total" if isinstance(value, Counter) else family.name
            found[name] = frozenset(value._labelnames)
    return found


def _without_strings(query: str) -> str:
    return re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
