"""The page in headless Chromium: no console messages, nothing wider than the window, letters large enough."""

from __future__ import annotations

import pytest

from ml_core.lab.report.page import report_page
from tests.lab.report.browser import BROWSER, NAMES, measured_in, opened_in
from tests.lab.report.example_facts import bare_facts, example_facts, facts_with

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser on PATH: one of {', '.join(NAMES)} is needed")


@pytest.mark.parametrize("made", [example_facts, bare_facts])
def test_console_stays_silent(tmp_path, made):
    document, console = opened_in(tmp_path, report_page(made()), 1280)
    assert 'id="lineage"' in document
    assert console == []


def test_a_page_that_would_fetch_something_is_stopped_and_seen(tmp_path):
    page = report_page(bare_facts()).replace("</main>", '<img src="http://127.0.0.1:9/x.png" alt=""></main>')
    _, console = opened_in(tmp_path, page, 1280)
    assert any("Content Security Policy" in line for line in console)


def long_words():
    return facts_with("unbreakable" * 12)


@pytest.mark.parametrize("made", [example_facts, bare_facts, long_words])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_window_and_letters_can_be_read(tmp_path, made, width):
    found, console = measured_in(tmp_path, report_page(made()), width)
    assert console == []
    assert found["page"] <= width
    assert found["window"] == width
    assert found["smallest"] >= 9.0
    assert found["largest"] <= 16.0
