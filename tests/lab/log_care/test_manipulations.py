"""Every manipulation of the list is tried on a real log, and noticed by what the table in docs/log.md says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_core.lab.log_care.chain_check import verify_log
from tests.e2e.workplace import ROOT
from tests.lab.log_care.manipulations import MANIPULATIONS, Manipulation, Stored, make_store, table
from tests.security.figures import record


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return make_store(tmp_path_factory.mktemp("log") / "place")


def kinds(stored: Stored, *, heads: bool, with_key: bool = True) -> set[str]:
    """Kinds of what is found."""
    found = verify_log(stored.settings, heads=stored.heads if heads else None, with_key=with_key)
    return {finding.kind for finding in found.findings}


def test_what_nobody_manipulated_is_sound(whole: Stored) -> None:
    assert kinds(whole, heads=True) == kinds(whole, heads=False, with_key=False) == set()


@pytest.mark.parametrize("each", MANIPULATIONS, ids=lambda each: each.name)
def test_each_manipulation_is_noticed_by_what_the_table_says(whole: Stored, tmp_path: Path, each: Manipulation) -> None:
    stored = whole.copied(tmp_path / "place")
    each.change(stored)
    seen = (
        kinds(stored, heads=False, with_key=False),
        kinds(stored, heads=False),
        kinds(stored, heads=True),
    )
    for found, expected in zip(seen, (each.without_key, each.with_key, each.with_heads), strict=True):
        assert (expected in found) if expected else not found, seen


def test_the_document_has_the_table() -> None:
    assert table() in (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    assert len(MANIPULATIONS) >= 60
    unnoticed = sum(not each.with_heads for each in MANIPULATIONS)
    record(
        "C manipulations of the log",
        "each is noticed as docs/log.md says",
        {"tried": len(MANIPULATIONS), "noticed with key and heads": len(MANIPULATIONS) - unnoticed},
    )
