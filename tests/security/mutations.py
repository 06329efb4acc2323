"""Ways to change a model folder: every one must be refused before anything but the manifest is parsed."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson

from ml_core.serve.model.manifest import MANIFEST_FILE

__all__ = ["FILES", "Mutation", "contents", "mutations"]

FILES = ("manifest.json", "model.onnx", "model.ubj", "calibration.npz", "fallback.json", "reference.npz", "golden.json",
         "trees.npz")  # fmt: skip
_MANIFEST = frozenset({MANIFEST_FILE})
_SEED = 11
_HUGE = 3 << 30


@dataclass(frozen=True, slots=True)
class Mutation:
    """One way to change a model folder.

    Attributes
    ----------
    name : told when it gets through
    make : changes the folder
    files : the refusal names one of these; empty where there is no file to name
    """

    name: str
    make: Callable[[Path], object]
    files: frozenset[str]


def contents(folder: Path) -> dict[str, object]:
    """What a folder holds: bytes of plain files (the size of huge ones), and the kind of everything else."""
    found: dict[str, object] = {}
    for path in folder.rglob("*") if folder.is_dir() else ():
        status = path.lstat()
        plain = stat.S_ISREG(status.st_mode)
        small = plain and status.st_size < _HUGE
        found[str(path.relative_to(folder))] = (
            path.read_bytes() if small else (status.st_mode, plain and status.st_size)
        )
    return found


def mutations(other: Path) -> Iterator[Mutation]:
    """All of them.

    Parameters
    ----------
    other : folder of another model, whole in itself
    """
    for name in FILES:
        yield from _of_bytes(name)
        yield from _of_place(name, other)
    yield from _of_strangers()
    yield from _of_manifest()
    yield from _of_names()
    yield from _of_folder(other)


# --- bytes --------------------------------------------------------------------------------------------------------


def _of_bytes(name: str) -> Iterator[Mutation]:
    """First, middle and last byte, bytes anywhere, bytes missing, bytes more."""
    dice = random.Random(f"{_SEED} {name}")
    places = [(at, bit) for at in (0.0, 0.5, 1.0) for bit in (0, 7)]
    places += [(dice.random(), dice.randrange(8)) for _ in range(20)]
    for at, bit in places:
        yield Mutation(f"{name}: bit {bit} at {at:.6f}", partial(_flip, name, at, bit), frozenset({name}))
    for share in (0.0, 0.5, 0.999):
        yield Mutation(f"{name}: cut to {share:g}", partial(_cut, name, share), frozenset({name}))
    for words, change in (
        ("a byte more", lambda raw: raw + b"\0"),
        ("a line more", lambda raw: raw + b"\n"),
        ("a byte before", lambda raw: b"\0" + raw),
        ("twice", lambda raw: raw + raw),
        ("backwards", lambda raw: raw[::-1]),
        ("zeros", lambda raw: bytes(len(raw))),
        ("a pickle of that size", lambda raw: b"\x80\x04N.".ljust(len(raw), b"\0")),
    ):
        yield Mutation(f"{name}: {words}", partial(_rewrite, name, change), frozenset({name}))
    yield Mutation(f"{name}: of three gigabytes", partial(_stretch, name, _HUGE), frozenset({name}))


def _flip(name: str, at: float, bit: int, folder: Path) -> None:
    raw = bytearray((folder / name).read_bytes())
    raw[min(len(raw) - 1, int(at * len(raw)))] ^= 1 << bit
    (folder / name).write_bytes(raw)


def _cut(name: str, share: float, folder: Path) -> None:
    _rewrite(name, lambda raw: raw[: int(share * len(raw))], folder)


def _rewrite(name: str, change: Callable[[bytes], bytes], folder: Path) -> None:
    (folder / name).write_bytes(change((folder / name).read_bytes()))


def _stretch(name: str, size: int, folder: Path) -> None:
    """As large as that without taking the room: the end is a hole."""
    os.truncate(folder / name, size)


# --- what stands in the place of a file ---------------------------------------------------------------------------


def _of_place(name: str, other: Path) -> Iterator[Mutation]:
    """Gone, renamed, linked, of another model, or no plain file at all."""
    itself = frozenset({name})
    yield Mutation(f"{name}: removed", lambda f: (f / name).unlink(), itself)
    for new in (f"{name}.bak", name.upper(), f" {name}", f"{name} ", f".{name}", name.replace("e", "е", 1)):  # noqa: RUF001 - a Cyrillic e
        yield Mutation(f"{name}: renamed {new!r}", partial(_rename, name, new), frozenset({name, new}))
    yield Mutation(f"{name}: of another model", lambda f: shutil.copy(other / name, f / name), itself)
    yield Mutation(f"{name}: a hard link to another model's", lambda f: _hard_link(other / name, f / name), itself)
    for words, target in (("its own bytes elsewhere", None), ("nowhere", "gone"), ("/etc/passwd", "/etc/passwd")):
        yield Mutation(f"{name}: a link to {words}", partial(_link, name, target), itself)
    yield Mutation(f"{name}: a folder", lambda f: ((f / name).unlink(), (f / name).mkdir()), itself)
    yield Mutation(f"{name}: a named pipe", lambda f: ((f / name).unlink(), os.mkfifo(f / name)), itself)
    yield Mutation(f"{name}: a socket", partial(_socket, name), itself)
    if os.geteuid() == 0:
        yield Mutation(f"{name}: an endless device", partial(_device, name), itself)


def _rename(name: str, new: str, folder: Path) -> None:
    (folder / name).rename(folder / new)


def _hard_link(target: Path, path: Path) -> None:
    path.unlink()
    os.link(target, path)


def _link(name: str, target: str | None, folder: Path) -> None:
    """A symbolic link, where no target is named to the file itself, moved out of the folder."""
    kept = folder.parent / f"kept-{name}"
    (folder / name).rename(kept)
    (folder / name).symlink_to(target or kept)


def _socket(name: str, folder: Path) -> None:
    (folder / name).unlink()
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)  # the path of a socket may have 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(name)
    finally:
        os.fchdir(here)
        os.close(here)


def _device(name: str, folder: Path) -> None:
    (folder / name).unlink()
    os.mknod(folder / name, stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero


# --- files that nobody named --------------------------------------------------------------------------------------


def _of_strangers() -> Iterator[Mutation]:
    names = (
        "model.pkl",
        "model.onnx.pkl",
        "python_model.joblib",
        ".hidden",
        "__init__.py",
        "model.onnx.data",
        "MLmodel",
    )
    for stranger in (*names, "manifest.json.sig", "Manifest.json", "mоdel.onnx", "model.onnx\n", "-rf", "conda.yaml"):  # noqa: RUF001 - a Cyrillic o
        yield Mutation(f"one more file: {stranger!r}", partial(_add, stranger, b"\x80\x04N."), frozenset({stranger}))
    yield Mutation("one more file: empty", partial(_add, "empty", b""), frozenset({"empty"}))
    yield Mutation("one more file: a link", lambda f: (f / "more").symlink_to("model.onnx"), frozenset({"more"}))
    yield Mutation("one more file: a hard link", lambda f: os.link(f / "model.onnx", f / "more"), frozenset({"more"}))
    yield Mutation("an empty folder more", lambda f: (f / "more").mkdir(), frozenset({"more"}))
    yield Mutation("a folder more", lambda f: _add("more/model.onnx", b"x", f), frozenset({"more"}))


def _add(name: str, raw: bytes, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(raw)


# --- the manifest -------------------------------------------------------------------------------------------------

Facts = dict[str, object]


def _of_manifest() -> Iterator[Mutation]:
    """Its form: the same facts in other bytes, or bytes that are no facts."""
    for words, change in (
        ("in one line", lambda raw: json.dumps(json.loads(raw)).encode()),
        ("in another order", lambda raw: json.dumps(dict(reversed(json.loads(raw).items())), indent=2).encode()),
        ("with a mark of its encoding", lambda raw: b"\xef\xbb\xbf" + raw),
        ("with other line ends", lambda raw: raw.replace(b"\n", b"\r\n")),
        ("without its last line end", lambda raw: raw.rstrip(b"\n")),
        ("in UTF-16", lambda raw: raw.decode().encode("utf-16")),
        ("with a comment", lambda raw: b"// whole\n" + raw),
        ("with escaped letters", lambda raw: raw.replace(b"model.onnx", b"model\\u002eonnx")),
        ("with a field twice", lambda raw: raw.replace(b"{", b'{\n  "name": "another",', 1)),
        ("with a file twice", lambda raw: raw.replace(b'"files": {', b'"files": {"model.onnx": {"sha256": "' + b"0" * 64 + b'", "size": 1},')),
        ("with a size twice", lambda raw: raw.replace(b'"size":', b'"size": 1, "size":', 1)),
        ("nested ten thousand deep", lambda raw: b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
        ("of a megabyte of spaces more", lambda raw: raw + b" " * (1 << 20)),
        ("a list", lambda raw: b"[" + raw + b"]"),
        ("null", lambda _: b"null"),
        ("a pickle", lambda _: b"\x80\x04}."),
        ("not finite", lambda raw: raw.replace(b'"n_features": ', b'"n_features": NaN, "x": ')),
    ):  # fmt: skip
        yield Mutation(f"manifest {words}", partial(_rewrite, MANIFEST_FILE, change), _MANIFEST)
    for words, alter in _FACTS.items():
        yield Mutation(f"manifest: {words}", partial(_restate, alter), _MANIFEST)


def _restate(alter: Callable[[Facts], object], folder: Path) -> None:
    """Other facts in the very form a manifest is written in."""
    facts: Facts = json.loads((folder / MANIFEST_FILE).read_bytes())
    alter(facts)
    options = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    try:
        raw = orjson.dumps(facts, option=options)
    except TypeError:  # a number beyond 64 bits
        raw = (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode()
    (folder / MANIFEST_FILE).write_bytes(raw)


def _set(field: str, value: object) -> Callable[[Facts], object]:
    return lambda facts: facts.update({field: value})


_FACTS: dict[str, Callable[[Facts], object]] = {
    **{f"format version {v!r}": _set("format_version", v) for v in (0, 2, -1, "1", 1.5, True, None, [1], 10**30)},
    **{f"{field} missing": (lambda facts, field=field: facts.pop(field)) for field in (
        "format_version", "name", "feature_version", "feature_module_sha256", "classes", "calibration_id", "files", "training",
    )},
    "a field more": _set("surprise", 1),
    "a class named like code": _set("loader", "os.system"),
    "confidence 1.5": _set("confidence_level", "1.5"),
    "another confidence": _set("confidence_level", "0.5"),
    "confidence NaN": _set("confidence_level", "NaN"),
    "one class": _set("classes", [0]),
    "two classes of one name": _set("classes", [0, "0"]),
    "classes the other way round": lambda facts: facts.update(classes=list(reversed(facts["classes"]))),  # type: ignore[call-overload]
    "another guarantee": _set("guarantee", "marginal"),
    "a guarantee of its own": _set("guarantee", "certain"),
    "another name": _set("name", "another"),
    "a name with a path": _set("name", "../another"),
    "another feature version": _set("feature_version", "v999"),
    "a feature version with a path": _set("feature_version", "../v1"),
    "another feature module": _set("feature_module_sha256", "0" * 64),
    "another calibration": _set("calibration_id", "0" * 64),
    "no features": _set("n_features", 0),
    "a feature more": lambda facts: facts.update(n_features=facts["n_features"] + 1),  # type: ignore[operator]
    "features beyond 64 bits": _set("n_features", 10**30),
    "a float of features": _set("n_features", 1e300),
    "a seed beyond 64 bits": lambda facts: facts["training"].update(seed=10**30),  # type: ignore[attr-defined]
    "a foreign source": _set("source", {"uri": "x", "flavor": "sklearn", "model_class": "x", "model_sha256": "x"}),
    "better figures": lambda facts: facts.update(metrics={**facts["metrics"], "auc": 1.0}),  # type: ignore[dict-item]
    "another library": lambda facts: facts["libraries"].update(onnxruntime="0"),  # type: ignore[attr-defined]
}  # fmt: skip


# --- what the manifest says of its files --------------------------------------------------------------------------


def _of_names() -> Iterator[Mutation]:
    for name in FILES[1:]:
        both = frozenset({name, MANIFEST_FILE})
        for new in (
            f"../{name}", f"../../{name}", f"/etc/{name}", f"a/../{name}", f"./{name}", f"..\\{name}", f"file://{name}",
            "", ".", "..", name.upper(), f"{name}\0", f"{name}\n", f"{name} ", name.replace("o", "ο", 1), "model.pkl",  # noqa: RUF001 - a Greek o
        ):  # fmt: skip
            if new != name:
                yield Mutation(f"{name}: named {new!r}", partial(_restate, partial(_name, name, new)), both | {new})
        for words, entry in (
            ("size -1", {"size": -1}),
            ("size 0", {"size": 0}),
            ("a byte more in size", "+1"),
            ("a byte less in size", "-1"),
            ("a terabyte in size", {"size": 1 << 40}),
            ("a size beyond 64 bits", {"size": 10**30}),
            ("a size in words", {"size": "many"}),
            ("a size that is true", {"size": True}),
            ("no size", {"size": None}),
            ("sha256 of nothing", {"sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}),
            ("sha256 in capitals", "upper"),
            ("sha256 cut", {"sha256": "0" * 63}),
            ("sha256 with a line end", {"sha256": "0" * 64 + "\n"}),
            ("sha256 empty", {"sha256": ""}),
            ("md5", {"md5": "0" * 32}),
        ):
            yield Mutation(f"{name}: {words}", partial(_restate, partial(_say, name, entry)), both)
        yield Mutation(f"{name}: not named", partial(_restate, partial(_unname, name)), both)
    yield Mutation(
        "the manifest names itself",
        partial(_restate, partial(_say, MANIFEST_FILE, {"size": 1, "sha256": "0" * 64})),
        _MANIFEST,
    )
    yield Mutation(
        "two files change names", partial(_restate, _swap), frozenset({"model.onnx", "model.ubj", MANIFEST_FILE})
    )


def _entries(facts: Facts) -> dict[str, Facts]:
    files = facts["files"]
    assert isinstance(files, dict)
    return files


def _name(name: str, new: str, facts: Facts) -> None:
    files = _entries(facts)
    files[new] = files.pop(name)


def _unname(name: str, facts: Facts) -> None:
    _entries(facts).pop(name)


def _say(name: str, change: Facts | str, facts: Facts) -> None:
    entry = _entries(facts).setdefault(name, {})
    if isinstance(change, dict):
        entry.update(change)
    elif change == "upper":
        entry["sha256"] = str(entry["sha256"]).upper()
    else:
        entry["size"] = int(str(entry["size"])) + int(change)


def _swap(facts: Facts) -> None:
    files = _entries(facts)
    files["model.onnx"], files["model.ubj"] = files["model.ubj"], files["model.onnx"]


# --- the folder ---------------------------------------------------------------------------------------------------


def _of_folder(other: Path) -> Iterator[Mutation]:
    for words, make in (
        ("another model's", lambda f: (shutil.rmtree(f), shutil.copytree(other, f))),
        ("a link to another model's", lambda f: (shutil.rmtree(f), f.symlink_to(other))),
        ("gone", shutil.rmtree),
        ("empty", lambda f: (shutil.rmtree(f), f.mkdir())),
        ("a file", lambda f: (shutil.rmtree(f), f.write_bytes(b"x"))),
        ("a folder deeper", lambda f: (f.rename(f.parent / "up"), f.mkdir(), (f.parent / "up").rename(f / "bundle"))),
        ("a link to itself", lambda f: (shutil.rmtree(f), f.symlink_to(f))),
    ):
        yield Mutation(f"the folder: {words}", make, frozenset())
