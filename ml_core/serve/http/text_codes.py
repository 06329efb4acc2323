"""Turns a column of texts into codes and levels without making a Python object per row.

A category of a hundred thousand rows has a handful of different texts. Eight bytes at a time are read as one number, so
that finding the different ones is arithmetic on arrays; only those few become Python texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Codes", "distinct", "text_codes"]

_WORD = 8
_MOST_WORDS = 8  # texts longer than 64 bytes, or a column of mostly different ones, gain nothing here
_MOST_LEVELS = 5_000
_FIRST_ROWS, _FEW = 2_048, 32
_TOP_BYTE = np.uint64(56)  # free in a word of at most seven bytes: the length goes there
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing

Codes = npt.NDArray[np.int64]


def text_codes(data: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> tuple[Codes, list[str]] | None:
    """Codes and levels of n texts, or None where plain reading is no slower.

    Parameters
    ----------
    data : the bytes of all texts, one after another
    ends : shape (n + 1,), where each text begins, and where the last one ends; ascending, within ``data``

    Raises
    ------
    UnicodeDecodeError
        A text is not UTF-8.
    """
    starts, lengths = ends[:-1], np.diff(ends)
    longest = int(lengths.max(initial=0))
    if longest > _WORD * _MOST_WORDS:
        return None
    padded = np.concatenate([data, np.zeros(_WORD, dtype=np.uint8)])
    words = [_word(padded, starts + at, lengths - at) for at in range(0, max(longest, 1), _WORD)]
    exact = longest < _WORD
    keys = words[0] | (lengths.astype(np.uint64) << _TOP_BYTE) if exact else _mixed(words, lengths)
    different = _distinct_keys(keys)
    if len(different) > _MOST_LEVELS:
        return None
    codes = np.searchsorted(different, keys).astype(np.int64, copy=False)
    first = np.empty(len(different), dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    if not exact and not all(np.array_equal(word[first][codes], word) for word in (*words, lengths)):
        return None  # two texts share a key
    levels = [bytes(data[ends[i] : ends[i + 1]]).decode("utf-8") for i in first.tolist()]
    return codes, levels


def _mixed(words: list[npt.NDArray[np.uint64]], lengths: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """One number for each text, almost surely another one for another text."""
    keys = lengths.astype(np.uint64) * _MIX  # as it is, the length of "\1" would cancel its word: the key of ""
    for word in words:
        keys = (keys ^ word) * _MIX
        keys ^= keys >> np.uint64(32)
    return keys


def distinct(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The different values, ascending. numpy's ``unique`` is slower here and holds the interpreter's lock meanwhile."""
    ordered = np.sort(values)
    first: npt.NDArray[np.bool_] = np.concatenate([np.ones(len(ordered[:1]), np.bool_), ordered[1:] != ordered[:-1]])
    found: npt.NDArray[Any] = ordered[first]
    return found


def _distinct_keys(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The different keys, ascending. The first rows of a category mostly show them all, which is cheap to check."""
    some = distinct(keys[:_FIRST_ROWS])
    if len(some) and len(some) <= _FEW and (some[np.searchsorted(some, keys).clip(max=len(some) - 1)] == keys).all():
        return some
    return distinct(keys)


def _word(padded: npt.NDArray[np.uint8], at: Codes, left: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Eight bytes of every text from ``at`` on, as a number; bytes beyond its end count as zero."""
    last = len(padded) - _WORD
    every = np.ndarray(shape=(last + 1,), dtype="<u8", buffer=padded.data, strides=(1,))
    mask = _MASKS[np.clip(left, 0, _WORD)]
    word: npt.NDArray[np.uint64] = every[np.minimum(at, last)] & mask
    return word


_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(_WORD + 1)], dtype=np.uint64)
