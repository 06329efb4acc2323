"""Codes and levels give back the texts they were made of, whatever the texts are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ml_core.serve.http.text_codes import text_codes


def coded(texts: list[str]) -> tuple[np.ndarray, list[str]] | None:
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)])
    return text_codes(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)


@given(st.lists(st.text(max_size=15), min_size=1, max_size=60))
def test_texts_come_back(texts: list[str]) -> None:
    found = coded(texts)
    assert found is not None
    codes, levels = found
    assert [levels[code] for code in codes] == texts
    assert len(levels) == len(set(texts))


def test_a_text_whose_word_is_its_length_is_not_taken_for_the_empty_one() -> None:
    texts = ["", "\1", "2" * 9]
    codes, levels = coded(texts)  # type: ignore[misc]
    assert [levels[code] for code in codes] == texts


def test_texts_that_differ_only_by_zero_bytes_stay_apart() -> None:
    texts = ["", "\0", "\0\0", "a", "a\0", "12345678", "12345678\0", "12345678" + "\0" * 8]
    codes, levels = coded(texts)  # type: ignore[misc]
    assert [levels[code] for code in codes] == texts


def test_texts_that_share_their_first_words_stay_apart() -> None:
    texts = ["Surgery-Cardiovascular", "Surgery-Cardiovascular/Thoracic", "Surgery-Colon&Rectal"] * 3
    codes, levels = coded(texts)  # type: ignore[misc]
    assert [levels[code] for code in codes] == texts


def test_long_texts_are_left_to_plain_reading() -> None:
    assert coded(["x" * 65, "y"]) is None


def test_empty_column_has_no_levels() -> None:
    assert coded([]) is not None
    assert coded([])[1] == []  # type: ignore[index]
