"""Every setting is on the page, with the default that it has."""

from __future__ import annotations

import re

import pytest

from ml_core.base.settings import Settings, load_settings
from scripts.docs.settings import render

ROWS = {
    line.split("`")[1]: [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in render().partition("## Variables of others")[0].splitlines()
    if line.startswith("| `")
}


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_told(field: str) -> None:
    *_, meaning = ROWS[f"SURETY_{field.upper()}"]
    assert meaning == " ".join((Settings.model_fields[field].description or "").split())


def test_no_variable_is_told_that_does_not_exist() -> None:
    assert set(ROWS) == {f"SURETY_{field.upper()}" for field in Settings.model_fields}


@pytest.mark.parametrize("variable", ROWS)
def test_default_on_the_page_is_what_a_service_starts_with(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    field = variable.removeprefix("SURETY_").lower()
    shown = ROWS[variable][1]
    if shown == "none":
        assert getattr(Settings(), field) in {None, ""}
        return
    monkeypatch.setenv(variable, shown.split("`")[1])
    assert getattr(load_settings(), field) == Settings.model_fields[field].default


@pytest.mark.parametrize(
    ("variable", "allowed"),
    [
        ("SURETY_WORKERS", "1 to 256"),
        ("SURETY_DEADLINE_MS", "above 0 to 60,000"),
        ("SURETY_CIRCUIT_P95_MS", "above 0"),
        ("SURETY_MAX_BODY_BYTES", "1 KiB to 1 GiB"),
        ("SURETY_RESPAWN", "`true`, `false`"),
        ("SURETY_HOME", ""),
    ],
)
def test_range_is_in_words(variable: str, allowed: str) -> None:
    assert ROWS[variable][2] == allowed


def test_older_names_stand_beside_the_new() -> None:
    assert re.search(r"`SURETY_MODEL_NAME` \(`MODEL_NAME`\)", render())
