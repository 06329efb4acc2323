"""Which old answers are given again, and what came of it in sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from random import Random
from typing import Any, TypeVar

from ml_core.base.settings import Settings
from ml_core.lab.past_answers.past_models import PastModels
from ml_core.lab.past_answers.replayer import ANSWERS_AT_ONCE, Found, Replayed, Replayer, ReplayState
from ml_core.serve.log.entries import id_bytes, id_text
from ml_core.serve.log.log_places import place_of
from ml_core.serve.log.logged_answers import ErasedAnswer, LoggedAnswer
from ml_core.serve.log.reader import PredictionLog

__all__ = ["ModelCounts", "ReplayReport", "n_within", "replay", "with_client_id", "with_ids", "within"]

_T = TypeVar("_T")

_MOST_NAMED = 100
_TELL_EVERY = 256


@dataclass(slots=True)
class ModelCounts:
    """What came of the answers of one model.

    Attributes
    ----------
    name, version, model_hash : as the lineage of its answers says
    place : where it was found, "" where it was not
    counts : answers by state
    """

    name: str
    version: str
    model_hash: str
    place: str = ""
    counts: Counter[ReplayState] = field(default_factory=Counter)


@dataclass(slots=True)
class ReplayReport:
    """What came of a replay.

    Attributes
    ----------
    counts : answers by state
    models : by hash
    answers : the first answers that were not equal; all where answers were asked for by name
    max_difference : largest difference between a number then and now
    notes : what people must know, each said once
    """

    counts: Counter[ReplayState] = field(default_factory=Counter)
    models: dict[str, ModelCounts] = field(default_factory=dict)
    answers: list[Replayed] = field(default_factory=list)
    max_difference: float = 0.0
    notes: list[str] = field(default_factory=list)

    def add(self, one: Replayed, *, named: bool) -> None:
        """Count one answer; ``named`` keeps it whatever came of it."""
        self.counts[one.state] += 1
        self.max_difference = max(self.max_difference, one.max_difference or 0.0)
        if one.note and len(self.notes) < _MOST_NAMED and one.note not in self.notes:
            self.notes.append(one.note)
        if named or (one.state != "equal" and len(self.answers) < _MOST_NAMED):
            self.answers.append(one)
        if one.lineage is not None:
            model = self._model(one.lineage)
            model.place = model.place or one.place
            model.counts[one.state] += 1

    def _model(self, lineage: Any) -> ModelCounts:
        name, version, model_hash = (lineage[fact] for fact in ("model_name", "model_version", "model_hash"))
        return self.models.setdefault(model_hash, ModelCounts(name, version, model_hash))


def replay(settings: Settings, answers: Iterable[Found], *, named: bool = False) -> ReplayReport:
    """Give answers again and sum up what came of it, in bounded memory however many they are.

    Parameters
    ----------
    settings : where models and log are
    named : the answers were asked for by name, so the report has every one, not only the first that are not equal

    Raises
    ------
    LogDamaged
        A file of the log cannot be read.
    """
    report = ReplayReport()
    for one in Replayer(PastModels(settings), place_of(settings)).run(answers):
        report.add(one, named=named)
    return report


def with_ids(
    log: PredictionLog, ids: Iterable[str], advance: Callable[[float], None] = lambda _: None
) -> Iterator[Found]:
    """The answers of these ids, in their order, each once.

    Raises
    ------
    ValueError
        One is no id.
    """
    rest = iter(dict.fromkeys([id_bytes(text) for text in ids]))
    while block := list(islice(rest, ANSWERS_AT_ONCE)):
        found = log.find_many(block)
        yield from _told((_found(found.get(raw), raw) for raw in block), advance)


def with_client_id(log: PredictionLog, text: str) -> Iterator[Found]:
    """The answers that a caller named so."""
    found = log.by_client_request_id(text)
    if not found:
        yield Replayed("", "unknown_id", note=f"no answer has the client_request_id {text!r}")
    yield from found


def within(
    log: PredictionLog,
    since: datetime | None,
    until: datetime | None,
    *,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    advance: Callable[[float], None] = lambda _: None,
) -> Iterator[Found]:
    """Answers of a span of time; erased ones are left out.

    Parameters
    ----------
    since, until : UTC; ``until`` is the first moment that no longer belongs to it
    limit : only the first so many, in the order of the log
    sample : only so many, each answer with the same chance (Vitter 1985, algorithm R)
    seed : of the sample
    advance : told how many answers have been read
    """
    answers = islice(_told(log.rows(since, until), advance), limit)
    yield from answers if sample is None else _sampled(answers, sample, seed)


def n_within(log: PredictionLog, since: datetime | None, until: datetime | None) -> int:
    """How many answers a span of time holds, erased ones among them.

    Raises
    ------
    LogDamaged
        A file of the log cannot be read.
    """
    return log.n_within(since, until)


def _found(answer: LoggedAnswer | ErasedAnswer | None, raw: bytes) -> Found:
    if isinstance(answer, LoggedAnswer):
        return answer
    if answer is None:
        return Replayed(id_text(raw), "unknown_id", note=f"no answer has the id {id_text(raw)}")
    return Replayed(answer.request_id, "erased", answer.at, note=f"{answer.request_id}: its subject was erased")


def _sampled(items: Iterable[_T], n: int, seed: int) -> list[_T]:
    """``n`` items, or all where there are fewer, holding no more than ``n`` at a time."""
    random = Random(seed)  # noqa: S311 - it chooses rows and keeps no secret
    kept: list[_T] = []
    for seen, item in enumerate(items):
        if seen < n:
            kept.append(item)
        elif (place := random.randrange(seen + 1)) < n:
            kept[place] = item
    return kept


def _told(items: Iterable[_T], advance: Callable[[float], None]) -> Iterator[_T]:
    """The items, telling how many have gone by."""
    gone = 0
    for item in items:
        yield item
        gone += 1
        if gone == _TELL_EVERY:
            advance(gone)
            gone = 0
    advance(gone)
