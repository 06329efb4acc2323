"""Files that nobody would give on purpose, and some that somebody would: what every verb that takes a file must bear."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

CANARY = "CANARY-cell"
Maker = Callable[[Path], None]


def _bytes(raw: bytes) -> Maker:
    return lambda path: path.write_bytes(raw) and None  # type: ignore[func-returns-value]


def parquet_of(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _mutated(raw: bytes, rng: np.random.Generator) -> bytes:
    """The file with one to eight bytes changed, cut, or doubled."""
    changed = bytearray(raw)
    for _ in range(int(rng.integers(1, 9))):
        changed[int(rng.integers(len(changed)))] = int(rng.integers(256))
    cut = int(rng.integers(4))
    return bytes(changed[: int(rng.integers(1, len(changed)))]) if cut == 0 else bytes(changed)


def _loop(path: Path) -> None:
    other = path.with_name(f"other-{path.name}")
    path.symlink_to(other)
    other.symlink_to(path)


def _unreadable(path: Path) -> None:
    path.write_bytes(b"x")
    path.chmod(0)


ANY_KIND: dict[str, Maker] = {
    "empty": _bytes(b""),
    "a folder": lambda path: path.mkdir(),
    "noise": _bytes(np.random.default_rng(1).bytes(5_000)),
    "zeros": _bytes(bytes(5_000)),
    "control characters": _bytes(f"\x1b[31m{CANARY}\x1b]0;x\x07\r\n\x9b1m,\u202e{CANARY}\n".encode()),
    "a loop of links": _loop,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "unreadable": _unreadable,
    "absent": lambda path: None,
    "one long line": _bytes(b"a" * 3_000_000),
}

YAML: dict[str, Maker] = {
    "a bomb of aliases": _bytes(
        b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 12))
    ),
    "an alias of itself": _bytes(b"model: &a [*a]\n"),
    "deep lists": _bytes(b"model: " + b"[" * 100_000),
    "deep and closed": _bytes(b"model: " + b"[" * 200 + b"]" * 200),
    "a key twice": _bytes(b"model: m\nmodel: m\n"),
    "a key twice, deep": _bytes(b"model: m\ndata: {source: a.csv, source: b.csv}\n"),
    "a huge number": _bytes(b"seed: " + b"9" * 100_000 + b"\n"),
    "a huge number, hex": _bytes(b"seed: 0x" + b"f" * 100_000 + b"\n"),
    "no such day": _bytes(b"model: 2026-13-45\n"),
    "keys that are no texts": _bytes(b"1: a\n? [a, b]\n: c\ntrue: d\n"),
    "a key that is a list": _bytes(b"? {a: 1}\n: b\n"),
    "tabs": _bytes(b"model:\n\tname: m\n"),
    "a mark and no more": _bytes(b"\xef\xbb\xbf"),
    "UTF-16": _bytes("model: m\n".encode("utf-16")),
    "a tag that runs code": _bytes(b"!!python/object/apply:os.system ['true']\n"),
    "a tag of another kind": _bytes(b"seed: !!float abc\nmodel: !!bool maybe\ncard: !!timestamp x\n"),
    "a scalar": _bytes(b"42\n"),
    "two documents": _bytes(b"model: m\n---\nmodel: n\n"),
    "nothing": _bytes(b"~\n"),
    "hostile names": _bytes(b'"\\e[31m\\u202e\\x7f": 1\n"a\\nb": 2\n'),
    "hostile values": _bytes(b'model: "\\e[31mred"\nfeature_version: "v1\\n\\e[2J"\n'),
    "a merge of itself": _bytes(b"a: &a\n  <<: *a\n"),
    "infinities": _bytes(b"seed: .inf\nsplit: {train: .nan}\n"),
    "large": _bytes(b"model: " + b"a" * 2_000_000),
}


def tables(valid: pd.DataFrame, mutations: int, seed: int = 12) -> dict[str, tuple[str, Maker]]:
    """Kinds of ``.csv`` and ``.parquet`` files; some are the valid table with bytes changed."""
    rng = np.random.default_rng(seed)
    whole, text = parquet_of(valid), valid.to_csv(index=False).encode()
    header = text.partition(b"\n")[0]
    cells = pd.DataFrame({name: [f"{CANARY}\x1b[31m", f"=cmd|'{CANARY}"] for name in valid.columns})
    found: dict[str, tuple[str, Maker]] = {
        "cut Parquet": (".parquet", _bytes(whole[: len(whole) // 2])),
        "a footer of a gigabyte": (".parquet", _bytes(b"PAR1" + whole[4:-8] + struct.pack("<I", 1 << 30) + b"PAR1")),
        "a footer of more": (".parquet", _bytes(b"PAR1" + struct.pack("<I", 0xFFFFFFFF) + b"PAR1")),
        "no columns": (".parquet", _bytes(parquet_of(pd.DataFrame()))),
        "no rows": (".parquet", _bytes(parquet_of(valid.iloc[:0]))),
        "nested columns": (".parquet", _bytes(parquet_of(pd.DataFrame({n: [{"a": [CANARY]}] for n in valid.columns})))),
        "texts in every column": (".parquet", _bytes(parquet_of(cells))),
        "texts in every cell": (".csv", _bytes(cells.to_csv(index=False).encode())),
        "NUL": (".csv", _bytes(header + b"\n" + b"a\x00b," * 3 + CANARY.encode() + b"\n")),
        "only a header": (".csv", _bytes(header)),
        "an open quote": (".csv", _bytes(header + b'\n"' + CANARY.encode())),
        "no UTF-8": (".csv", _bytes(header + b"\n\xff\xfe" + CANARY.encode() + b"\n")),
        "lines of any length": (".csv", _bytes(header + b"\n1,2\n1,2,3,4,5,6,7,8,9,10," + CANARY.encode() + b"\n")),
        "a name twice": (".csv", _bytes(b"age,age\n1,2\n")),
        "hostile names": (".csv", _bytes("\x1b[31mage,\u202ebmi,a\x00b\n1,2,3\n".encode())),
        "numbers without end": (".csv", _bytes(header + b"\n" + b",".join([b"9" * 5_000] * (header.count(b",") + 1)))),
        "another format": (".txt", _bytes(b"x")),
    }
    for number in range(mutations):
        found[f"Parquet with changed bytes {number}"] = (".parquet", _bytes(_mutated(whole, rng)))
        found[f"CSV with changed bytes {number}"] = (".csv", _bytes(_mutated(text, rng)))
    return found
