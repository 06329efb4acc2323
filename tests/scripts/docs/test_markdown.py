"""What is put into a page is shown as it was, by MkDocs' own Markdown."""

from __future__ import annotations

import html
import re

import markdown
from hypothesis import given
from hypothesis import strategies as st

from scripts.docs.markdown import anchor, cell, code, table

TEXTS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="`"), min_size=1, max_size=30)


def cells(text: str) -> list[str]:
    shown = markdown.markdown(text, extensions=["tables"])
    return [html.unescape(re.sub(r"</?code>", "", inner)) for inner in re.findall(r"<td>(.*?)</td>", shown)]


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_code_in_a_table_is_shown_as_it_was(texts: list[str]) -> None:
    assert cells(table(("a", "b"), [("x", code(text)) for text in texts])) == [t for text in texts for t in ("x", text)]


def test_text_in_a_cell_keeps_to_its_cell_and_line() -> None:
    assert cells(table(("a", "b"), [(cell("one | two\n  three"), "x")])) == ["one | two three", "x"]


def test_columns_that_are_empty_are_left_out_but_for_the_first() -> None:
    assert table(("a", "b", "c"), [("", "", "z")]) == "| a | c |\n| --- | --- |\n|  | z |\n"


def test_anchor_is_what_mkdocs_gives_a_heading() -> None:
    for heading in ("POST /predict_batch", "surety import-model", "SuretyNoProcess", 'A "quoted" word, and more'):
        shown = markdown.markdown(f"# {heading}", extensions=["toc"])
        assert f'id="{anchor(heading)}"' in shown
