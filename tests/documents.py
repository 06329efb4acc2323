"""Reads the documents for tests: their code blocks, their code spans, and the commands in both."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCUMENTS", "ROOT", "Block", "blocks", "commands_of", "spans"]

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes
    ----------
    kind : the word behind the fence, such as ``sh``
    """

    kind: str
    text: str

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0]


def blocks(document: Path) -> list[Block]:
    """Every fenced block of a document, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(kind, text) for kind, text in found]


def commands_of(block: Block) -> Iterator[list[str]]:
    """Calls of ``surety`` in a shell block, as lists of words; in a console block only those after a prompt."""
    text = block.text.replace("\\\n", " ")
    if block.kind == "console":
        text = "\n".join(re.findall(r"^\$ (surety .*)$", text, re.MULTILINE))
    call: list[str] = []
    for word in (*_words(text), ";"):
        if set(word) <= set(_ENDS):
            words = list(itertools.dropwhile(_is_variable, call))
            if words[:1] == ["surety"]:
                yield words[1:]
            call = []
        else:
            call.append(word)


def spans(document: Path) -> list[str]:
    """Every code span in the text and the tables of a document."""
    prose = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


_ENDS = "();<>|&\n"


def _words(text: str) -> shlex.shlex:
    lexer = shlex.shlex(re.sub(r"(^|\s)#[^\n]*", r"\1", text), posix=True, punctuation_chars=_ENDS)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    return lexer


def _is_variable(word: str) -> bool:
    return re.fullmatch(r"[A-Z_]+=.*", word) is not None
