"""Every value of the Helm chart is on the page of values, with its default and its comment."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from scripts.docs.chart import VALUES, chart_values, render


def leaves(values: dict[str, Any], *path: str) -> list[tuple[str, ...]]:
    """The path of everything that is no mapping with something in it."""
    found: list[tuple[str, ...]] = []
    for key, value in values.items():
        found += leaves(value, *path, key) if isinstance(value, dict) and value else [(*path, key)]
    return found


def test_every_value_is_on_the_page_or_below_one_that_is() -> None:
    text = VALUES.read_text()
    told = {path for path, _, _ in chart_values(text)}
    for leaf in leaves(yaml.safe_load(text)):
        assert any(leaf[: len(path)] == path for path in told), leaf
    page = render()
    for path in told:
        assert page.count(f"| `{'.'.join(path)}` |") == 1


def test_a_value_is_told_with_its_default_and_the_comment_directly_above_it() -> None:
    text = "# Of the file.\n\nouter:\n  # What it is\n  # for.\n  inner: 3\n  # Amounts.\n  more:\n    requests: {cpu: 1}\n"
    assert list(chart_values(text)) == [
        (("outer", "inner"), 3, "What it is for."),
        (("outer", "more"), {"requests": {"cpu": 1}}, "Amounts."),
    ]


def test_a_value_without_a_comment_is_named() -> None:
    with pytest.raises(ValueError, match=r"outer\.inner has no comment"):
        list(chart_values("outer:\n  inner: 3\n"))
