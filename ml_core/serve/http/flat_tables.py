"""Reads flatbuffers tables sent by callers; checks that every offset lies within the buffer before it follows it.

The rules are those of the flatbuffers verifier, and stricter where a writer never differs: a field lies within its
table, and everything is aligned. There is no recursion, so no input is too deep; the caller bounds how much is read.
"""

from __future__ import annotations

from struct import Struct

__all__ = ["DamagedTable", "FlatTable"]

_U16, _I32, _U32 = Struct("<H"), Struct("<i"), Struct("<I")
_OFFSET = 4


class DamagedTable(ValueError):
    """The bytes are no flatbuffers table, or the table points outside of them."""


class FlatTable:
    """One table within a buffer.

    Parameters
    ----------
    raw : the whole buffer
    at : where the table begins

    Raises
    ------
    DamagedTable
        The table, or the list of its fields, does not lie within the buffer. All methods raise it likewise for the
        field they read.
    """

    __slots__ = ("_at", "_fields", "_fields_end", "_size", "raw")

    def __init__(self, raw: bytes, at: int) -> None:
        if at % _OFFSET or not _OFFSET <= at <= len(raw) - _OFFSET:
            raise DamagedTable
        fields = at - _I32.unpack_from(raw, at)[0]
        if fields % 2 or not 0 <= fields <= len(raw) - 4:
            raise DamagedTable
        length, size = _U16.unpack_from(raw, fields)[0], _U16.unpack_from(raw, fields + 2)[0]
        if length < 4 or length % 2 or fields + length > len(raw) or size < _OFFSET or at + size > len(raw):
            raise DamagedTable
        self.raw, self._at, self._size = raw, at, size
        self._fields, self._fields_end = fields, fields + length

    @classmethod
    def root(cls, raw: bytes) -> FlatTable:
        """The table that a whole buffer is about."""
        if len(raw) < _OFFSET:
            raise DamagedTable
        return cls(raw, _U32.unpack_from(raw)[0])

    def number(self, field: int, form: Struct, default: int = 0) -> int:
        """A number of the given form; ``default`` where the field is absent."""
        at = self._place(field, form.size)
        return int(form.unpack_from(self.raw, at)[0]) if at else default

    def table(self, field: int) -> FlatTable | None:
        """Another table, or None where the field is absent."""
        at = self._target(field)
        return FlatTable(self.raw, at) if at else None

    def text(self, field: int) -> bytes:
        """The bytes of a text; empty where the field is absent."""
        start, length = self.vector(field, 1, ends_with_zero=True)
        return self.raw[start : start + length]

    def vector(self, field: int, width: int, *, ends_with_zero: bool = False) -> tuple[int, int]:
        """Where the items of a vector begin in the buffer, and how many there are; (0, 0) where the field is absent.

        Parameters
        ----------
        width : bytes of an item
        ends_with_zero : a zero byte must follow the items
        """
        at = self._target(field)
        if not at:
            return 0, 0
        count, start = _U32.unpack_from(self.raw, at)[0], at + _OFFSET
        end = start + count * width
        if end + ends_with_zero > len(self.raw) or (ends_with_zero and self.raw[end]):
            raise DamagedTable
        return start, count

    def tables(self, field: int, most: int) -> list[FlatTable]:
        """The tables of a vector, of which there may be ``most``."""
        start, count = self.vector(field, _OFFSET)
        if count > most:
            raise DamagedTable
        places = range(start, start + _OFFSET * count, _OFFSET)
        return [FlatTable(self.raw, at + _U32.unpack_from(self.raw, at)[0]) for at in places]

    def _place(self, field: int, width: int) -> int:
        """Where a field of ``width`` bytes lies in the buffer, 0 where it is absent."""
        entry = self._fields + 4 + 2 * field
        if entry >= self._fields_end:
            return 0
        offset = int(_U16.unpack_from(self.raw, entry)[0])
        if not offset:
            return 0
        if offset < _OFFSET or offset + width > self._size or (self._at + offset) % width:
            raise DamagedTable
        return self._at + offset

    def _target(self, field: int) -> int:
        """Where what a field points to begins, 0 where it is absent."""
        at = self._place(field, _OFFSET)
        if not at:
            return 0
        target = at + int(_U32.unpack_from(self.raw, at)[0])
        if target == at or target % _OFFSET or target > len(self.raw) - _OFFSET:
            raise DamagedTable
        return target
