"""docs/ is a site: it builds strictly, holds every page and the changes, and fetches nothing from elsewhere."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FETCHING = r"""<(?:script|img|iframe|source|audio|video)\b[^>]*\bsrc=["']([^"']+)|<link\b[^>]*\bhref=["']([^"']+)"""


def build(configuration: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["-m", "mkdocs", "build", "--strict", "-f", str(configuration), "-d", str(folder)]
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_make_builds_it_as_strictly() -> None:
    """Told to be quiet, MkDocs counts no warnings, and being strict means nothing."""
    told = subprocess.run(["make", "-n", "docs-check"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in told.splitlines() if "mkdocs" in line]
    assert line.endswith("mkdocs build --strict")


@pytest.mark.parametrize(
    ("page", "problem", "told"),
    [
        ("index.md", "[gone](nowhere.md)", "nowhere.md"),
        ("index.md", "[gone](quickstart.md#nowhere)", "#nowhere"),
        ("runbook.md", "[gone](#nowhere)", "#nowhere"),
        ("new.md", "# A page that is in no menu", "new.md"),
    ],
)
def test_broken_link_or_lost_page_fails_the_build(tmp_path: Path, page: str, problem: str, told: str) -> None:
    for name in ("docs", "scripts", "mkdocs.yml", "CHANGELOG.md"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    with (tmp_path / "docs" / page).open("a") as file:
        file.write(f"\n{problem}\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert (done.returncode, told in done.stderr) == (1, True)


def test_every_document_is_a_page(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not (site / page).exists()} == set()


def test_changes_are_those_of_the_changelog(site: Path) -> None:
    shown = html.unescape((site / "changes.html").read_text(encoding="utf-8"))
    for heading in re.findall(r"^##+ (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"<h\d[^>]*>{re.escape(heading)}", shown), heading


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    wanted = [
        target
        for page in site.rglob("*.html")
        for found in re.findall(FETCHING, page.read_text(encoding="utf-8"))
        for target in found
        if target
    ]
    assert wanted
    styled = [
        t
        for sheet in site.rglob("*.css")
        for t in re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", sheet.read_text())
    ]
    assert [target for target in (*wanted, *styled) if re.match(r"(?:https?:)?//", target)] == []


def test_search_knows_every_alert_of_the_runbook(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    known = {entry["location"] for entry in index["docs"]}
    for alert in re.findall(r"^### (Surety\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE):
        assert f"runbook.html#{alert.lower()}" in known
