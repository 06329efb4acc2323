"""Holds the locks against requirements/floors.toml: `make floors`, or `python -m tests.security.floors`; exit 1 with what is wrong.

It fails for anything that it does not understand: a check that skips what it cannot read would pass when it should not.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tests.e2e.workplace import ROOT

__all__ = ["FLOORS", "LOCKS", "Finding", "Pin", "check", "configured", "findings", "index_addresses", "read_lock"]

FLOORS = ROOT / "requirements" / "floors.toml"
LOCKS = {name: ROOT / "requirements" / f"{name}.lock" for name in ("serve", "build", "dev")}

_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
_ADVISORY = re.compile(r"CVE-(19|20)\d{2}-\d{4,}|GHSA(-[23456789cfghjmpqrvwx]{4}){3}|PYSEC-20\d{2}-\d+")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_ELSEWHERE = re.compile(r"\b(?:https?|ftp|ssh|git)://(?:[^/\s@\"']*@)?(?:[a-z0-9-]+\.)+[a-z]{2,}\b", re.IGNORECASE)
_HOST = re.compile(r"\b(?:[a-z0-9-]+\.)+[a-z]{2,}\b", re.IGNORECASE)
_FILES = (".lock", ".toml", ".txt", ".in", ".py")
_OPTION = re.compile(
    r"(?<!no-emit-)\b(?:extra-)?index-url\b|(?<!no-emit-)\bfind-links\b|\btrusted-host\b|\bdefault-index\b|\btool\.uv\.index\b"
    r"|\b(?:PIP_(?:EXTRA_)?INDEX_URL|PIP_FIND_LINKS|PIP_TRUSTED_HOST|UV_(?:DEFAULT_|EXTRA_)?INDEX(?:_URL)?)\b"
)
_PIP_FILES = ("pip.conf", "pip.ini", "uv.toml", ".pypirc")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One reason not to trust the locks: the file it is in, and what is wrong."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True, slots=True)
class Pin:
    """One requirement of a lock.

    Attributes
    ----------
    marker : the environments it is for; "" for all
    hashes : sha256 (hex) of each file that it may be
    """

    name: str
    version: Version
    marker: str
    hashes: frozenset[str]


class _NotRead(ValueError):
    """A line cannot be read."""


def check() -> list[Finding]:
    """Everything that is wrong with the locks on disk, and with the files that could lead an installer elsewhere."""
    texts = {name: _text(path) for name, path in LOCKS.items()}
    return sorted({*findings(texts, _text(FLOORS)), *configured(ROOT)})


def findings(locks: Mapping[str, str | None], floors: str | None) -> list[Finding]:
    """What is wrong with locks and list given as texts; None for a file that is missing."""
    found: list[Finding] = []
    pins: dict[str, dict[str, list[Pin]]] = {}
    for name, text in locks.items():
        where = f"{name}.lock"
        read, wrong = read_lock(text or "", where)
        found += wrong
        if not read:
            found.append(Finding(where, "is missing" if text is None else "pins nothing"))
        found += [Finding(where, said) for said in index_addresses(text or "")]
        pins[name] = _by_name(read)
        found += [Finding(where, said) for said in _unsound(pins[name])]
    found += _against(pins, floors)
    return sorted(set(found))


def read_lock(text: str, where: str) -> tuple[list[Pin], list[Finding]]:
    """The pins of a lock, and a finding for each line that cannot be read."""
    pins: list[Pin] = []
    found: list[Finding] = []
    for number, line in _joined(text):
        try:
            pins.append(_pin(line))
        except _NotRead as error:
            found.append(Finding(where, f"line {number} cannot be read: {error}"))
    return pins, found


def index_addresses(text: str) -> Iterator[str]:
    """Every line with an address, an option that names an index, or what looks like a host's name."""
    for number, line in enumerate(text.splitlines(), 1):
        if _URL.search(line):
            yield f"line {number} holds an address"
        elif _OPTION.search(line):
            yield f"line {number} names a package index"
        elif any(not name.endswith(_FILES) for name in _HOST.findall(_HASH.sub("", line))):
            yield f"line {number} names a host"


# --- reading ------------------------------------------------------------------------------------------------------


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Requirements with their continued lines, by the number of their first line; comments are left out."""
    parts: list[str] = []
    began = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            if parts:  # a requirement ends with a line that is not continued
                yield began, " ".join(parts) + " \\"
                parts = []
            continue
        began = began if parts else number
        continued = line.endswith(" \\")
        parts.append(line.removesuffix("\\").strip())
        if not continued:
            yield began, " ".join(parts)
            parts = []
    if parts:
        yield began, " ".join(parts) + " \\"


def _pin(line: str) -> Pin:
    named, *hashes = re.split(r"\s(?=--)", line)
    if not all(_HASH.fullmatch(word) for word in hashes):
        raise _NotRead("there is something else than sha256 hashes behind it")
    try:
        requirement = Requirement(named)
    except InvalidRequirement as error:
        raise _NotRead("it is no requirement") from error
    only = list(requirement.specifier)
    if requirement.url or requirement.extras or len(only) != 1 or only[0].operator != "==":
        raise _NotRead("it is not one version with ==")
    try:
        version = Version(only[0].version)
    except InvalidVersion as error:
        raise _NotRead("its version is none") from error
    if requirement.name != canonicalize_name(requirement.name):
        raise _NotRead("its name is not in its plain form")
    return Pin(requirement.name, version, str(requirement.marker or ""), frozenset(word[-64:] for word in hashes))


def _by_name(pins: Iterable[Pin]) -> dict[str, list[Pin]]:
    found: dict[str, list[Pin]] = {}
    for pin in pins:
        found.setdefault(pin.name, []).append(pin)
    return found


def _unsound(pins: Mapping[str, Sequence[Pin]]) -> Iterator[str]:
    """Pins without hashes, and packages that are pinned twice for the same environments."""
    for name, versions in pins.items():
        for pin in versions:
            if not pin.hashes:
                yield f"{name} {pin.version} has no hash"
        markers = [pin.marker for pin in versions]
        if len(set(markers)) < len(markers) or (len(markers) > 1 and "" in markers):
            yield f"{name} is pinned twice for the same environments"


# --- the list -----------------------------------------------------------------------------------------------------


def _against(pins: Mapping[str, Mapping[str, Sequence[Pin]]], text: str | None) -> list[Finding]:
    where = FLOORS.name
    try:
        listed = tomllib.loads(text or "")
    except tomllib.TOMLDecodeError as error:
        return [Finding(where, f"cannot be read: {error}")]
    found = [Finding(where, f"{key} is not known") for key in listed.keys() - {"floor", "unfixed"}]
    if not listed.get("floor"):
        found.append(Finding(where, "is missing" if text is None else "lists no floor"))
    seen: set[tuple[str, str]] = set()
    for kind, judge in (("floor", _below), ("unfixed", _unlooked)):
        for entry in listed.get(kind, []):
            try:
                package, version = _entry(entry, pins)
            except _NotRead as error:
                found.append(Finding(where, str(error)))
                continue
            if (kind, package) in seen:
                found.append(Finding(where, f"{package} is listed twice"))
            seen.add((kind, package))
            found += judge(package, version, entry["locks"], pins)
    return found


def _entry(entry: Any, locks: Mapping[str, Any]) -> tuple[str, Version]:
    """Package and version of an entry that says everything it must."""
    name = entry.get("package", "an entry without a package") if isinstance(entry, dict) else "an entry"
    wanted = {"package": str, "version": str, "advisories": list, "because": str, "locks": list}
    if not isinstance(entry, dict) or entry.keys() != wanted.keys():
        raise _NotRead(f"{name} must have {', '.join(wanted)}")
    for field, kind in wanted.items():
        if not isinstance(entry[field], kind) or not entry[field]:
            raise _NotRead(f"{name}: {field} is empty or of another kind")
    if name != canonicalize_name(name):
        raise _NotRead(f"{name} is not in its plain form")
    for advisory in entry["advisories"]:
        if not _ADVISORY.fullmatch(str(advisory)):
            raise _NotRead(f"{name}: {advisory} is no id of an advisory")
    for lock in entry["locks"]:
        if lock not in locks:
            raise _NotRead(f"{name}: there is no lock {lock}")
    try:
        return name, Version(entry["version"])
    except InvalidVersion as error:
        raise _NotRead(f"{name}: {entry['version']} is no version") from error


def _below(
    package: str, floor: Version, wanted: Sequence[str], pins: Mapping[str, Mapping[str, Sequence[Pin]]]
) -> Iterator[Finding]:
    """The package must be in the locks named; in any lock it is in, every version must be good."""
    for lock, there in pins.items():
        if lock in wanted and package not in there:
            yield Finding(f"{lock}.lock", f"{package} is missing, though {FLOORS.name} says that it is there")
        for pin in there.get(package, ()):
            if pin.version < floor:
                yield Finding(f"{lock}.lock", f"{package} {pin.version} is below {floor}, the first good version")


def _unlooked(
    package: str, looked_at: Version, allowed: Sequence[str], pins: Mapping[str, Mapping[str, Sequence[Pin]]]
) -> Iterator[Finding]:
    """The package may be in the locks named, in the version that was looked at."""
    for lock, there in pins.items():
        versions = there.get(package, ())
        if lock in allowed and not versions:
            yield Finding(f"{lock}.lock", f"{package} is missing: take it out of {FLOORS.name}")
        for pin in versions:
            if lock not in allowed:
                yield Finding(f"{lock}.lock", f"{package} has a hole without a fixed version and may not be here")
            elif pin.version != looked_at:
                yield Finding(
                    f"{lock}.lock", f"{package} {pin.version} is not {looked_at}, which was looked at: look again"
                )


# --- what could lead an installer elsewhere -----------------------------------------------------------------------


def configured(root: Path) -> Iterator[Finding]:
    """Files of the project that name a package index for an installer, or could lead one anywhere else."""
    build = (root / name for name in ("pyproject.toml", "Makefile", "bentofile.yaml", ".ci/run"))
    for path in (*build, *(p for p in (root / "deploy").rglob("*") if p.is_file())):
        where = str(path.relative_to(root))
        text = _text(path)
        if text is None:
            yield Finding(where, "is missing")
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if _OPTION.search(line):
                yield Finding(where, f"line {number} names a package index")
            elif _ELSEWHERE.search(line):
                yield Finding(where, f"line {number} holds an address beyond this network")
    for name in _PIP_FILES:
        for folder in (root, root / "requirements", root / "deploy", root / ".ci"):
            if (folder / name).exists():
                yield Finding(str((folder / name).relative_to(root)), "tells an installer where to look")


def main() -> int:
    found = check()
    for finding in found:
        sys.stderr.write(f"{finding}\n")
    if not found:
        listed = tomllib.loads(FLOORS.read_text(encoding="utf-8"))
        sys.stderr.write(
            f"{len(listed['floor'])} floors hold, {len(listed['unfixed'])} holes are known and kept away\n"
        )
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
