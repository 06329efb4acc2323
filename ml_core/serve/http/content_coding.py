"""Bodies that come packed with gzip: unpacked piece by piece, so that a limit holds for what is unpacked."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from ml_core.serve.http.replies import Header, Refused

__all__ = ["Gunzip", "unpacker"]

_PIECE = 131_072  # unpacks in well under a millisecond
_GZIP = 16 + zlib.MAX_WBITS
_READ_HERE: tuple[Header, ...] = ((b"accept-encoding", b"gzip"),)


def unpacker(coding: bytes) -> Gunzip | None:
    """What unpacks a body with that ``Content-Encoding``; None where there is nothing to unpack.

    Raises
    ------
    Refused
        Another coding than gzip, or several.
    """
    name = coding.strip().lower()
    if name in (b"", b"identity"):
        return None
    if name in (b"gzip", b"x-gzip"):
        return Gunzip()
    raise Refused("unsupported_media_type", "send the body as it is, or packed with gzip", _READ_HERE)


class Gunzip:
    """Unpacks one gzip stream."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """What more can be unpacked, in pieces of at most 128 KiB.

        Raises
        ------
        Refused
            It is no gzip, or something follows its end.
        """
        piece = b""
        while packed or len(piece) == _PIECE:  # what zlib has read it may still have to give out
            if self._stream.eof:
                raise _invalid()
            try:
                piece = self._stream.decompress(packed, _PIECE)
            except zlib.error as error:
                raise _invalid() from error
            yield piece
            if self._stream.unused_data:
                raise _invalid()
            packed = self._stream.unconsumed_tail
            if self._stream.eof:
                return

    def end(self) -> None:
        """The body is whole.

        Raises
        ------
        Refused
            The stream is not.
        """
        if not self._stream.eof:
            raise _invalid()


def _invalid() -> Refused:
    return Refused("invalid_encoding", "the body is not one whole gzip stream")
