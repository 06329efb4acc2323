"""No Arrow stream, however damaged, does more than be refused: it is read as pyarrow reads it, or not at all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from tests.security.arrow_readers import UNPACKED_BYTES, Outcome, Reader, same
from tests.security.arrow_streams import every_byte, mutated, valid_streams
from tests.security.figures import record

_AT_A_TIME = 500


@pytest.fixture
def ours() -> Iterator[Reader]:
    reader = Reader("ours")
    yield reader
    reader.close()


@pytest.fixture
def pyarrow() -> Iterator[Reader]:
    reader = Reader("pyarrow")
    yield reader
    reader.close()


def mutations(seed: int) -> Iterator[bytes]:
    streams, dice = list(valid_streams().values()), random.Random(seed)
    while True:
        yield mutated(streams, dice)


def chunks(streams: Iterator[bytes]) -> Iterator[list[bytes]]:
    while chunk := list(islice(streams, _AT_A_TIME)):
        yield chunk


def judged(ours: Reader, pyarrow: Reader, streams: Iterator[bytes]) -> Counter[str]:
    """How often each thing became of the streams: refused, read as pyarrow does, or something that must not happen."""
    found: Counter[str] = Counter()
    for chunk in chunks(streams):
        outcomes = ours.read(chunk)
        found.update(outcome.kind for outcome in outcomes)
        read = [(stream, outcome) for stream, outcome in zip(chunk, outcomes, strict=True) if outcome.kind == "read"]
        theirs = pyarrow.read([stream for stream, _ in read])
        found.update(verdict(outcome, other) for (_, outcome), other in zip(read, theirs, strict=True))
    return found


def verdict(outcome: Outcome, other: Outcome) -> str:
    if other.kind != "read":
        return "read by us alone"
    return "the same" if same(outcome, other) else "another answer"


def judge(found: Counter[str], n: int, grown: int) -> None:
    assert found.total() == n + found["read"]
    assert set(found) <= {"refused", "read", "the same"}, found
    assert found["read"] == found["the same"]
    assert n / 20 < found["read"] < n
    assert grown <= 2 * UNPACKED_BYTES


def run(ours: Reader, pyarrow: Reader, streams: Iterator[bytes], n: int) -> tuple[Counter[str], int]:
    ours.read(list(valid_streams().values()))
    before = ours.peak_bytes()
    found = judged(ours, pyarrow, islice(streams, n))
    return found, ours.peak_bytes() - before


def test_whole_streams_are_read_as_pyarrow_reads_them(ours: Reader, pyarrow: Reader) -> None:
    streams = valid_streams()
    assert len(streams) == 12
    for name, mine, other in zip(
        streams, ours.read(list(streams.values())), pyarrow.read(list(streams.values())), strict=True
    ):
        assert (mine.kind, other.kind) == ("read", "read"), (name, mine.told, other.told)
        assert mine.batches
        assert same(mine, other), name


def test_damaged_streams_are_refused_or_read_as_pyarrow_reads_them(ours: Reader, pyarrow: Reader) -> None:
    found, grown = run(ours, pyarrow, mutations(12), 5_000)
    judge(found, 5_000, grown)


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_200_000_damaged_streams_are_refused_or_read_as_pyarrow_reads_them(ours: Reader, pyarrow: Reader) -> None:
    found, grown = run(ours, pyarrow, mutations(2026), 200_000)
    tell("200,000 damaged streams", found, grown, ours)
    judge(found, 200_000, grown)


@pytest.mark.slow
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("name", ["records", "zstd dictionaries"])
def test_every_byte_of_a_stream_may_be_another(ours: Reader, pyarrow: Reader, name: str) -> None:
    streams = list(every_byte(valid_streams()[name]))
    found, grown = run(ours, pyarrow, iter(streams), len(streams))
    tell(f"every byte of {name}", found, grown, ours)
    judge(found, len(streams), grown)


def tell(what: str, found: Counter[str], grown: int, ours: Reader) -> None:
    record(
        f"arrow: {what}",
        "refused, or read as pyarrow reads it; no process dies, hangs or raises anything else",
        {
            "tried": found["refused"] + found["read"] + found["fault"] + found["died"],
            "refused": found["refused"],
            "read as pyarrow does": found["the same"],
            "read otherwise": found["another answer"] + found["read by us alone"],
            "other exceptions": found["fault"],
            "deaths": ours.deaths,
            "memory grown MB": grown >> 20,
        },
    )
