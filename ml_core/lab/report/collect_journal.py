"""The rollout part of a report: entries of the journal in plain words, and the flags that are not at their defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from ml_core.lab.report.facts_upkeep import JournalEntry, Rollout
from ml_core.lab.report.formats import count, percent
from ml_core.serve.rollout.rollout_state import Flags, RolloutState

__all__ = ["Entry", "rollout_facts", "time_of"]

Entry = Mapping[str, Any]
_Words = tuple[str, str, str]
"""What happened, to what, and why."""

_DECISIONS = {"promoted": "agreed"}
_TOGETHER = timedelta(minutes=10)
_BY_MONITOR = {"alarm.raised", "coverage.unverified", "coverage.verified", "detector.restarted"}
_OF_THE_LOG = {"log.sealed": "log sealed", "log.pruned": "log pruned"}


def rollout_facts(entries: Sequence[Entry], state: RolloutState | None) -> Rollout:
    """What was decided, newest first, and the flags that differ from their defaults.

    Parameters
    ----------
    entries : of one model, oldest first
    """
    told = [_told(group) for group in _grouped(entries)]
    usual = Flags().model_dump(mode="json")
    now = {} if state is None else state.flags.model_dump(mode="json")
    return Rollout(tuple(reversed(told)), {name: _text(value) for name, value in now.items() if value != usual[name]})


def _grouped(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Entries one by one, but those on files of the log that one command wrote together."""
    group: list[Entry] = list(entries[:1])
    for before, entry in pairwise(entries):
        if not _belong_together(before, entry):
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def _belong_together(before: Entry, entry: Entry) -> bool:
    first, second = time_of(before), time_of(entry)
    is_same = before.get("event") == entry.get("event") and before.get("by") == entry.get("by")
    return is_same and entry.get("event") in _OF_THE_LOG and None not in {first, second} and second - first <= _TOGETHER  # type: ignore[operator]  # neither is None


def _told(group: Sequence[Entry]) -> JournalEntry:
    last = group[-1]
    event = str(last.get("event", ""))
    who = "monitor" if event in _BY_MONITOR else str(last.get("who") or last.get("by") or "")
    if event in _OF_THE_LOG:
        return JournalEntry(time_of(last), _OF_THE_LOG[event], who, _files(group))
    words = _WORDS.get(event, _plain)
    what, on, why = words(last)
    return JournalEntry(time_of(last), what, who, on, why)


def _files(group: Sequence[Entry]) -> str:
    names = sorted(_field(entry, "file") for entry in group)
    return names[0] if len(names) == 1 else f"{len(names)} files, {names[0]} to {names[-1]}"


# --- what is live ---------------------------------------------------------------------------------------------------


def _changed(entry: Entry) -> _Words:
    before, after = _state(entry, "before"), _state(entry, "after")
    why = _field(entry, "why")
    if not before:
        return "rollout begins", str(after.get("champion", "")), why
    for change in (_champion, _traffic, _flags, _circuits):
        found = change(before, after)
        if found is not None:
            return *found, why
    return "rollout changed", str(after.get("champion", "")), why


def _champion(before: Entry, after: Entry) -> tuple[str, str] | None:
    champion = str(after.get("champion"))
    if champion == before.get("champion"):
        return None
    what = "rollback" if champion == before.get("previous") and before.get("mode") == "off" else "new champion"
    return what, f"{champion}, before: {before.get('champion')}"


def _traffic(before: Entry, after: Entry) -> tuple[str, str] | None:
    parts = ("mode", "challenger", "weight")
    if all(before.get(part) == after.get(part) for part in parts):
        return None
    mode = after.get("mode")
    if mode == "canary":
        return "canary", f"{after.get('challenger')}, {percent(float(after.get('weight', 0.0)))} of the traffic"
    if mode == "shadow":
        return "shadow", str(after.get("challenger"))
    return f"{before.get('mode')} ends", f"{before.get('challenger')} is taken out"


def _flags(before: Entry, after: Entry) -> tuple[str, str] | None:
    old, new = _state(before, "flags"), _state(after, "flags")
    set_to = [f"{name}={_text(value)}" for name, value in new.items() if value != old.get(name)]
    return ("flag set", ", ".join(set_to)) if set_to else None


def _circuits(before: Entry, after: Entry) -> tuple[str, str] | None:
    old, new = _state(before, "circuits"), _state(after, "circuits")
    orders = [f"{slot}: {order.get('mode', '')}" for slot, order in new.items() if order != old.get(slot)]
    return ("circuits ordered", ", ".join(orders)) if orders else None


# --- models ---------------------------------------------------------------------------------------------------------


def _judged(entry: Entry) -> _Words:
    failed = [str(rule.get("rule")) for rule in entry.get("rules", ()) if not rule.get("passed")]
    why = f"failed: {', '.join(failed)}" if failed else ""
    return "gate passed" if entry.get("passed") else "gate refused", _version(entry), why


def _decided(entry: Entry) -> _Words:
    refused = [str(rule.get("note") or rule.get("rule")) for rule in entry.get("rules", ()) if not rule.get("passed")]
    decision = _field(entry, "decision")
    return f"promotion {_DECISIONS.get(decision, decision)}".strip(), _version(entry), "; ".join(refused)


def _retrained(entry: Entry) -> _Words:
    verdict = "passed its gate" if entry.get("gate") else "refused by its gate"
    where = ", scored in shadow from now on" if entry.get("shadow") else ""
    rows = f", {count(entry.get('rows_added'))} newly known outcomes"
    return (
        "retrained",
        f"version {entry.get('model_version', '')}{rows}: {verdict}{where}",
        "; ".join(map(str, entry.get("reasons", ()))),
    )


def _recalibrated(entry: Entry) -> _Words:
    verdict = "passed its gate" if entry.get("gate") else "refused by its gate"
    where = ", scored in shadow from now on" if entry.get("shadow") else ""
    rows = count(sum(entry.get("rows", {}).values()))
    of = f"the scorer of version {_field(entry, 'recalibrated_from')} on {rows} outcomes"
    return "recalibrated", f"{_version(entry)}, {of}: {verdict}{where}", ""


def _plain(entry: Entry) -> _Words:
    named = entry.get("tag") or _version(entry)
    return _field(entry, "event").replace(".", " "), str(named), _field(entry, "why")


_WORDS: Mapping[str, Callable[[Entry], _Words]] = {
    "rollout.changed": _changed,
    "gate.judged": _judged,
    "promotion.decided": _decided,
    "promotion.recorded": lambda e: (
        "promoted",
        _version(e),
        f"in place of version {e['champion_version']}" if e.get("champion_version") else "the first of its name",
    ),
    "model.registered": lambda e: (
        "model registered", _version(e), f"from {e.get('data') or e.get('source') or 'unknown rows'}"
    ),
    "model.imported": lambda e: ("model imported", _field(e, "tag"), ""),
    "model.retrained": _retrained,
    "model.recalibrated": _recalibrated,
    "alarm.raised": lambda e: ("alarm raised", f"{_field(e, 'alarm')}, {_field(e, 'tag')}", _field(e, "says")),
    "coverage.unverified": lambda e: (
        "coverage unverified", f"{', '.join(map(str, e.get('reasons', ())))}, {_field(e, 'tag')}", _field(e, "says")
    ),
    "coverage.verified": lambda e: ("coverage verified again", _field(e, "tag"), ""),
    "detector.restarted": lambda e: (
        "detector restarted", f"{_field(e, 'alarm')}, {_field(e, 'tag')}", _field(e, "says")
    ),
    "alarm.acknowledged": lambda e: (
        "alarm acknowledged", f"{_field(e, 'alarm')}, model {_field(e, 'model_hash')[:12]}", _field(e, "why")
    ),
    "log.erased": lambda e: ("person erased from the log", f"{count(e.get('answers'))} answers", ""),
}  # fmt: skip
"""What the report says of an event; other events are said by their own names."""


def _field(entry: Entry, name: str) -> str:
    return str(entry.get(name, ""))


def _version(entry: Entry) -> str:
    version, model_hash = entry.get("version"), str(entry.get("model_hash", ""))[:12]
    return ", ".join(part for part in (f"version {version}" if version else "", model_hash) if part)


def _state(entry: Entry, part: str) -> Entry:
    found = entry.get(part)
    return found if isinstance(found, Mapping) else {}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def time_of(entry: Entry) -> datetime | None:
    """When an entry was made; None where it does not say."""
    try:
        return datetime.fromisoformat(str(entry.get("at")))
    except ValueError:
        return None
