"""What the documents say is there, is there; and what is there, they say."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ml_core.settings import Settings
from scripts.cli import VERBS, surety
from web.replies import STATUS_OF_CODE

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
HTTP = (ROOT / "docs" / "http.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]


def commands(group: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command that can be run, by the words that run it."""
    if not isinstance(group, click.Group):
        return [path]
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found += commands(command, (*path, name))
    return found


def test_readme_is_a_page() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_is_in_the_readme(verb: str) -> None:
    assert f"`surety {verb}" in README


@pytest.mark.parametrize("words", commands(surety), ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(surety, [*words, "--help"])
    assert shown.exit_code == 0
    assert f"surety {' '.join(words)}" in shown.output
    assert "Example: " in shown.output
    assert "\\b" not in shown.output


@pytest.mark.parametrize("field", sorted(Settings.model_fields))
def test_every_setting_is_documented(field: str) -> None:
    assert f"`SURETY_{field.upper()}`" in HTTP


@pytest.mark.parametrize(("code", "status"), sorted(STATUS_OF_CODE.items()))
def test_every_error_code_stands_beside_its_status(code: str, status: int) -> None:
    row = next(line for line in HTTP.splitlines() if f"`{code}`" in line and line.startswith("|"))
    assert str(status) in row.split("|")[1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_inside_the_project_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_every_make_target_named_in_a_document_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(
            re.findall(
                r"(?:^|[`$ ])make ([a-z-]+)",
                "\n".join(re.findall(r"`[^`]+`|^\$? ?make .*$", document.read_text(), re.MULTILINE)),
            )
        )
        assert named <= targets, document.name
