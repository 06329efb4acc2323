"""Packed bodies: gzip is read, within the limit for what it unpacks to; nothing else is."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http.content_coding import Gunzip
from ml_core.serve.http.handlers import HttpApi
from ml_core.serve.http.replies import Refused
from tests.serve.http.apis import http_api
from tests.serve.http.test_middleware import call, client_of, error_of
from tests.toy_models import toy_live, toy_record

BODY = json.dumps({"features": toy_record()}).encode()
JSON = {"content-type": "application/json"}
LIMIT = 4_096


@pytest.fixture(scope="module")
def api() -> HttpApi:
    return http_api(Settings(max_body_bytes=LIMIT, max_batch_rows=20), InferenceService(toy_live()))


def unpacked(packed: bytes, step: int) -> bytes:
    gunzip = Gunzip()
    pieces = [p for i in range(0, len(packed), step) for p in gunzip.feed(packed[i : i + step])]
    gunzip.end()
    assert max(map(len, pieces), default=0) <= 131_072
    return b"".join(pieces)


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip"])
def test_a_gzip_body_is_answered_as_the_plain_one(api: HttpApi, coding: str) -> None:
    plain = call(api, "POST", "/predict", content=BODY, headers=JSON).json()
    packed = call(api, "POST", "/predict", content=gzip.compress(BODY), headers=JSON | {"content-encoding": coding})
    assert packed.status_code == 200
    assert packed.json()["p_values"] == plain["p_values"]
    assert packed.json()["lineage"]["input_hash"] == plain["lineage"]["input_hash"]


def test_a_gzip_body_may_come_in_pieces(api: HttpApi) -> None:
    packed = gzip.compress(BODY)

    async def bytes_one_by_one() -> AsyncIterator[bytes]:
        for byte in packed:
            yield bytes([byte])

    headers = JSON | {"content-encoding": "gzip"}
    assert call(api, "POST", "/predict", content=bytes_one_by_one(), headers=headers).status_code == 200


def test_identity_is_no_coding(api: HttpApi) -> None:
    assert call(api, "POST", "/predict", content=BODY, headers=JSON | {"content-encoding": "identity"}).is_success


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "compress", "gzip, gzip", "gzip, br", "gzip;q=1", "nonsense"])  # fmt: skip
@pytest.mark.parametrize("path", ["/predict", "/predict_batch", "/labels"])
def test_other_codings_are_415(api: HttpApi, coding: str, path: str) -> None:
    reply = call(api, "POST", path, content=gzip.compress(BODY), headers=JSON | {"content-encoding": coding})
    assert (reply.status_code, error_of(reply)["code"]) == (415, "unsupported_media_type")
    assert reply.headers["accept-encoding"] == "gzip"


def test_two_headers_are_two_codings(api: HttpApi) -> None:
    async def once() -> int:
        async with client_of(api) as client:
            headers = [("content-type", "application/json"), ("content-encoding", "gzip"), ("content-encoding", "gzip")]
            return (await client.post("/predict", content=gzip.compress(BODY), headers=headers)).status_code

    assert asyncio.run(once()) == 415


@pytest.mark.parametrize(
    "body",
    [b"", b"x", BODY, gzip.compress(BODY)[:-1], gzip.compress(BODY)[:12], gzip.compress(BODY) + b"x",
     gzip.compress(BODY) * 2, zlib.compress(BODY), gzip.compress(BODY)[:-8] + b"\0" * 8],
)  # fmt: skip
def test_what_is_not_one_whole_gzip_stream_is_400(api: HttpApi, body: bytes) -> None:
    reply = call(api, "POST", "/predict", content=body, headers=JSON | {"content-encoding": "gzip"})
    assert (reply.status_code, error_of(reply)["code"]) == (400, "invalid_encoding")


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 200), (LIMIT + 1, 413)])
def test_the_limit_is_that_of_the_unpacked_bytes(api: HttpApi, size: int, status: int) -> None:
    padded = BODY + b" " * (size - len(BODY))
    reply = call(api, "POST", "/predict", content=gzip.compress(padded), headers=JSON | {"content-encoding": "gzip"})
    assert reply.status_code == status


def test_a_bomb_is_refused_before_it_is_unpacked(api: HttpApi) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([*(packer.compress(b" " * 1_000_000) for _ in range(200)), packer.flush()])
    settings = Settings(max_body_bytes=1_048_576)
    roomy = http_api(settings, InferenceService(toy_live()))
    tracemalloc.start()
    reply = call(roomy, "POST", "/predict_batch", content=bomb, headers=JSON | {"content-encoding": "gzip"})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (reply.status_code, error_of(reply)["code"]) == (413, "too_large")
    assert peak < 4 * settings.max_body_bytes
    assert roomy.admission._buffered == 0


def test_packed_bytes_that_unpack_to_nothing_end_as_well(api: HttpApi) -> None:
    packer = zlib.compressobj(wbits=31)
    start, empty = packer.compress(b"{") + packer.flush(zlib.Z_SYNC_FLUSH), b"\0\0\0\xff\xff"

    async def without_end() -> AsyncIterator[bytes]:
        yield start
        for _ in range(10_000):
            yield empty * 100

    reply = call(api, "POST", "/predict", content=without_end(), headers=JSON | {"content-encoding": "gzip"})
    assert (reply.status_code, error_of(reply)["code"]) == (413, "too_large")


def test_unpacking_gives_back_what_was_packed_wherever_it_is_cut() -> None:
    chance = random.Random(7)
    for size in (0, 1, 1_000, 131_072, 300_000):
        for data in (chance.randbytes(size), b"a" * size):
            packed = gzip.compress(data)
            for step in (1 if size < 2_000 else 1_000, 4_096, len(packed)):
                assert unpacked(packed, step) == data


def test_after_its_end_nothing_may_follow() -> None:
    gunzip = Gunzip()
    assert b"".join(gunzip.feed(gzip.compress(b"a"))) == b"a"
    assert list(gunzip.feed(b"")) == []
    with pytest.raises(Refused, match="one whole gzip stream"):
        list(gunzip.feed(b"x"))
