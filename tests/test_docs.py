"""What the documents say is there, is there; and what is there, they say."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ml_core.cli.main import VERBS, surety
from ml_core.serve.http.replies import STATUS_OF_CODE
from scripts.docs.commands import commands
from scripts.docs.markdown import anchor
from tests.documents import DOCUMENTS, ROOT, Block, blocks, commands_of, spans

README = (ROOT / "README.md").read_text()
HTTP = (ROOT / "docs" / "http.md").read_text()
COMMANDS = [
    pytest.param(words, id=f"{document.name}: {' '.join(words)}")
    for document in DOCUMENTS
    for block in blocks(document)
    if block.kind in {"sh", "console"}
    for words in commands_of(block)
]


def test_readme_is_a_page() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_is_in_the_readme(verb: str) -> None:
    assert f"`surety {verb}" in README


@pytest.mark.parametrize("words", [p for p, c in commands() if not isinstance(c, click.Group)], ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(surety, [*words, "--help"])
    assert shown.exit_code == 0
    assert f"surety {' '.join(words)}" in shown.output
    assert "Example: " in shown.output
    assert "\\b" not in shown.output


@pytest.mark.parametrize(("code", "status"), sorted(STATUS_OF_CODE.items()))
def test_every_error_code_stands_beside_its_status(code: str, status: int) -> None:
    row = next(line for line in HTTP.splitlines() if f"`{code}`" in line and line.startswith("|"))
    assert str(status) in row.split("|")[1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_inside_the_project_lead_somewhere(document: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", document.read_text()):
        if "://" in target:
            continue
        page = (document.parent / target) if target else document
        assert page.exists(), target
        if heading:
            assert heading in {anchor(found) for found in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)}


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that these words run, and the words left for it."""
    command: click.Command = surety
    left = list(words)
    while isinstance(command, click.Group) and left:
        found = command.get_command(click.Context(command), left[0])
        assert found is not None, f"surety has no command {' '.join(words)}"
        command, left = found, left[1:]
    return command, left


@pytest.mark.parametrize("words", COMMANDS)
def test_command_in_a_block_is_understood_as_a_whole(words: list[str]) -> None:
    command, left = command_of(words)
    command.make_context(" ".join(words), left)  # raises a usage error for what it does not know


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_command_in_a_sentence_has_its_name_and_its_options(document: Path) -> None:
    for span in spans(document):
        if not span.startswith("surety ") or "[OPTIONS]" in span:  # a usage line tells no call
            continue
        command, _ = command_of(span.split()[1:])
        known = {name for param in command.params for name in param.opts}
        assert set(re.findall(r"--[a-z][a-z-]*", span)) <= known | {"--help"}, span


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_every_make_target_named_in_a_document_exists(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shell = "\n".join(block.text for block in blocks(document) if block.kind in {"sh", "console"})
    named = {word for span in spans(document) for word in re.findall(r"^make ([a-z-]+)", span)}
    named |= set(re.findall(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*make ([a-z-]+)", shell, re.MULTILINE))
    assert named <= targets


def test_reading_of_blocks_finds_every_call() -> None:
    typed = 'A=b surety log seal && surety log prune --yes  # surety drift\nzcat x.gz | surety score - out.csv\nID=$(surety audit "a; b") \\\n'
    assert list(commands_of(Block("sh", typed))) == [
        ["log", "seal"],
        ["log", "prune", "--yes"],
        ["score", "-", "out.csv"],
        ["audit", "a; b"],
    ]
    assert list(commands_of(Block("console", "$ surety status\nsurety: nothing\n$ echo surety\n"))) == [["status"]]
