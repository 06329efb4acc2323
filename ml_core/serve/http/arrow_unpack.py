"""Unpacks one compressed buffer of an Arrow stream into an array of the size it declares.

zstd and LZ4 are those inside nanoarrow's library, called directly: they write nowhere but into the array, stop where it
is full, and run without the interpreter's lock. nanoarrow's own reader holds that lock for as long as it unpacks.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_size_t, c_uint, c_void_p
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Bytes", "CannotUnpack", "Codec", "can_unpack", "unpacked"]

Codec = Literal["lz4", "zstd"]
Bytes = npt.NDArray[np.uint8]

_LZ4F_VERSION = 100


class CannotUnpack(ValueError):
    """The bytes are no whole compressed buffer of the size declared."""


def can_unpack() -> bool:
    """Whether nanoarrow's library offers its codecs here, as it does on Linux."""
    return _library() is not None


def unpacked(packed: Bytes, size: int, codec: Codec) -> Bytes:
    """The ``size`` bytes that a compressed buffer holds.

    Parameters
    ----------
    packed : contiguous
    size : bytes declared; the caller has held it against the limits

    Raises
    ------
    CannotUnpack
        It holds fewer or more bytes, something comes after it, or it is damaged.
    """
    library = _library()
    if library is None:
        raise CannotUnpack
    out = np.empty(size, dtype=np.uint8)
    done = _zstd(library, packed, out) if codec == "zstd" else _lz4(library, packed, out)
    if not done:
        raise CannotUnpack
    return out


def _zstd(library: Any, packed: Bytes, out: Bytes) -> bool:
    found = library.ZSTD_decompress(out.ctypes.data, len(out), packed.ctypes.data, len(packed))
    return bool(found == len(out))  # an error is a number near 2^64


def _lz4(library: Any, packed: Bytes, out: Bytes) -> bool:
    """Whether ``packed`` was exactly one LZ4 frame that filled ``out``."""
    state = c_void_p()
    if library.LZ4F_createDecompressionContext(byref(state), _LZ4F_VERSION):
        raise MemoryError
    try:
        read = written = 0
        while True:
            wrote, used = c_size_t(len(out) - written), c_size_t(len(packed) - read)
            wanted = library.LZ4F_decompress(
                state, out.ctypes.data + written, byref(wrote), packed.ctypes.data + read, byref(used), None
            )
            read, written = read + used.value, written + wrote.value
            if wanted == 0:
                return read == len(packed) and written == len(out)
            if wanted > _LARGEST_HINT or not (used.value or wrote.value):
                return False
    finally:
        library.LZ4F_freeDecompressionContext(state)


_LARGEST_HINT = 1 << 40  # beyond it the number is an error


@cache
def _library() -> Any:
    from nanoarrow import _ipc_lib

    try:
        library = ctypes.CDLL(_ipc_lib.__file__)
        zstd, lz4 = library.ZSTD_decompress, library.LZ4F_decompress
        begin, end = library.LZ4F_createDecompressionContext, library.LZ4F_freeDecompressionContext
    except (OSError, AttributeError):
        return None
    size = POINTER(c_size_t)
    zstd.argtypes, zstd.restype = [c_void_p, c_size_t, c_void_p, c_size_t], c_size_t
    lz4.argtypes, lz4.restype = [c_void_p, c_void_p, size, c_void_p, size, c_void_p], c_size_t
    begin.argtypes, begin.restype = [POINTER(c_void_p), c_uint], c_size_t
    end.argtypes, end.restype = [c_void_p], c_size_t
    return library
