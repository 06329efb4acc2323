"""What Arrow's own codecs pack is unpacked to the byte; what is not exactly that is refused."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from ml_core.serve.http.arrow_unpack import CannotUnpack, Codec, can_unpack, unpacked

pytestmark = pytest.mark.skipif(not can_unpack(), reason="nanoarrow's library offers no codecs here")
CODECS: tuple[Codec, Codec] = ("lz4", "zstd")


def packed(raw: bytes, codec: Codec) -> np.ndarray:
    return np.frombuffer(pa.Codec("lz4" if codec == "lz4" else codec).compress(raw, asbytes=True), np.uint8)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("n", [0, 1, 8, 70_000, 5_000_000])
def test_what_was_packed_comes_back(codec: Codec, n: int) -> None:
    raw = random.Random(n).randbytes(n // 2) + bytes(n - n // 2)
    assert unpacked(packed(raw, codec), n, codec).tobytes() == raw


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("declared", [0, 999, 1_001, 1 << 20])
def test_another_size_than_declared_is_refused(codec: Codec, declared: int) -> None:
    with pytest.raises(CannotUnpack):
        unpacked(packed(b"x" * 1_000, codec), declared, codec)


@pytest.mark.parametrize("codec", CODECS)
def test_a_part_or_more_than_the_whole_is_refused(codec: Codec) -> None:
    whole = packed(random.Random(1).randbytes(3_000), codec)
    for n in range(0, len(whole), 97):
        with pytest.raises(CannotUnpack):
            unpacked(whole[:n], 3_000, codec)
    for more in (b"\0", b"more", whole.tobytes()):
        with pytest.raises(CannotUnpack):
            unpacked(np.frombuffer(whole.tobytes() + more, np.uint8), 3_000, codec)


@pytest.mark.parametrize("codec", CODECS)
def test_noise_is_refused(codec: Codec) -> None:
    dice = random.Random(2)
    for _ in range(300):
        with pytest.raises(CannotUnpack):
            unpacked(np.frombuffer(dice.randbytes(dice.randrange(200)), np.uint8), dice.randrange(1, 5_000), codec)
