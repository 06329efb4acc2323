"""Small pieces of Markdown that GitHub and MkDocs read alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["anchor", "cell", "code", "prose", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of these rows; a column that is empty in all of them is left out."""
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells[i] for i in kept)} |" for cells in lines) + "\n"


def cell(text: str) -> str:
    """Text on one line that does not end its cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """Text as code, fit for a cell; nothing for an empty text.

    Inside backticks GitHub needs a bar escaped and MkDocs shows the escape, so a text with bars is written as HTML.
    """
    shown = str(text)
    if "|" not in shown:
        return f"`{shown}`" if shown else ""
    return f"<code>{''.join(f'&#{ord(c)};' if c in _MARKS else c for c in shown)}</code>"


_MARKS = "|&<>*_[]\\`~"  # what Markdown or HTML would read as its own


def prose(docstring: str) -> str:
    """A docstring's reStructuredText as Markdown: its code spans and its literal blocks."""
    return docstring.replace("``", "`").replace("::", ":").strip()


def anchor(heading: str) -> str:
    """What a link to that heading ends in, on GitHub and in MkDocs."""
    return re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())
