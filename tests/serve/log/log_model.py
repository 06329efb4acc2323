"""A log as plain lists, and what a reader must say of it, wherever it lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ml_core.serve.log.database import OpenLog
from ml_core.serve.log.entries import Row, id_text
from ml_core.serve.log.log_files import day_of
from ml_core.serve.log.logged_answers import ErasedAnswer
from ml_core.serve.log.reader import Cursor, PredictionLog
from ml_core.serve.log.segments import Segment
from tests.serve.log.builders import DAY_US, NOON_US, bulk_row, rid, row

SUBJECT, BATCH = b"s" * 32, rid(1 << 41)


def moment(at_us: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at_us)


@dataclass
class Model:
    """What a log holds, as plain lists: of each file its answers in the order of being stored."""

    folder: Path
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _logs: dict[tuple[str, int], OpenLog] = field(default_factory=dict)

    def store(self, day: str, worker: int, rows: Sequence[Row], segments: Sequence[Segment | None]) -> None:
        """One commit in a worker's file of that day."""
        log = self._log(day, worker)
        log.commit(rows, durable=False)
        known = self.files.setdefault(log.file.name, [])
        for stored, segment in zip(rows, segments, strict=True):
            if segment is None:
                known.append({"id": stored.request_id, "at": stored.at_us, "row": stored, "erased": False, "n": None})
            else:
                known += [
                    {"id": raw.tobytes(), "at": stored.at_us, "row": stored, "erased": False, "n": n}
                    for n, raw in enumerate(segment.ids)
                ]

    def erase(self) -> None:
        """Erase the subject everywhere."""
        for log in self._logs.values():
            log.erase([SUBJECT])
        for entry in self.all():
            entry["erased"] = entry["erased"] or entry["row"].subject == SUBJECT

    def close(self) -> None:
        for log in self._logs.values():
            log.close()

    def all(self) -> list[dict[str, Any]]:
        """Every answer, file after file."""
        return [entry for name in sorted(self.files) for entry in self.files[name]]

    def left(self) -> list[dict[str, Any]]:
        return [entry for entry in self.all() if not entry["erased"]]

    def _log(self, day: str, worker: int) -> OpenLog:
        for number in range(1, worker + 1):  # the lower numbers are held by the workers before
            if (day, number) not in self._logs:
                log = OpenLog.of_day(self.folder, day)
                assert log.file.worker == number
                self._logs[day, number] = log
                self.files.setdefault(log.file.name, [])
        return self._logs[day, worker]


def ids(answers: Sequence[Any]) -> list[str]:
    return [answer.request_id for answer in answers]


def texts(known: Sequence[dict[str, Any]]) -> list[str]:
    return [id_text(entry["id"]) for entry in known]


@st.composite
def commits(draw: st.DrawFn) -> list[tuple[int, int, list[dict[str, Any]]]]:
    """Day (from the first), worker, and what the rows of a commit are like."""
    a_row = st.fixed_dictionaries(
        {
            "bulk": st.sampled_from([0, 0, 0, 3]),
            "client": st.sampled_from([None, "visit-7", "visit-8"]),
            "subject": st.sampled_from([None, SUBJECT, b"t" * 32]),
            "batch": st.booleans(),
            "drift_us": st.integers(0, 5_000_000),
            "id_days": st.sampled_from([0, 0, 0, -1, 1, -400, 400]),
        }
    )
    one = st.tuples(st.integers(0, 3), st.integers(1, 2), st.lists(a_row, min_size=1, max_size=4))
    return draw(st.lists(one, min_size=1, max_size=8))


def played(folder: Path, script: Sequence[tuple[int, int, list[dict[str, Any]]]]) -> Model:
    """The log that comes of a script; times grow within a file."""
    model, number, batches = Model(folder), 0, 0
    for step, (day, worker, likes) in enumerate(script):
        rows, segments = [], []
        at_us = NOON_US + day * DAY_US + step * 60_000_000
        for like in likes:
            number += 10
            at_us += like["drift_us"]
            id_us = at_us + like["id_days"] * DAY_US
            if like["bulk"]:
                bulk, segment = bulk_row(folder, like["bulk"], number, id_us)
                rows.append(bulk._replace(at_us=at_us))
                segments.append(segment)
                continue
            batches += like["batch"]
            rows.append(
                row(
                    number, at_us, request_id=rid(number, id_us), client_request_id=like["client"],
                    subject=like["subject"], batch_id=BATCH if like["batch"] else None,
                    batch_index=1_000 - batches if like["batch"] else None,
                )
            )  # fmt: skip
            segments.append(None)
        model.store(day_of(NOON_US + day * DAY_US), worker, rows, segments)
    return model


def check_reading(log: PredictionLog, model: Model, data: st.DataObject) -> None:
    """Everything that can be asked is answered as the lists say."""
    everything, left = model.all(), model.left()
    unknown = [rid(n, NOON_US + d * DAY_US) for n, d in ((7, 0), (8, 1), (9, -900))]
    asked = data.draw(st.permutations([*[entry["id"] for entry in everything], *unknown]))

    assert log.known(asked) == {entry["id"] for entry in everything}
    assert log.known(unknown) == set()
    found = log.find_many(asked)
    assert {raw: isinstance(answer, ErasedAnswer) for raw, answer in found.items()} == {
        entry["id"]: entry["erased"] for entry in everything
    }
    for entry in everything:
        answer = log.find(id_text(entry["id"]))
        assert answer == found[entry["id"]]
        assert answer is not None
        assert answer.at == moment(entry["at"])
    assert log.find(id_text(unknown[0])) is None

    assert ids(list(log.rows())) == texts(left)
    times = sorted({entry["at"] for entry in everything})
    low, high = sorted(data.draw(st.tuples(st.sampled_from(times), st.sampled_from(times))))
    within = [entry for entry in left if low <= entry["at"] < high]
    assert ids(list(log.rows(moment(low), moment(high)))) == texts(within)
    assert ids(list(log.rows(since=moment(low)))) == texts([e for e in left if e["at"] >= low])
    assert ids(list(log.rows(until=moment(high)))) == texts([e for e in left if e["at"] < high])
    for name in model.files:
        file = next(file for file in log.files() if file.name == name)
        assert ids([answer for answer, _ in log.of_file(file)]) == texts([e for e in model.files[name] if e in left])

    for text in ("visit-7", "visit-8", "visit-9"):
        same = sorted((e for e in left if e["row"].client_request_id == text), key=lambda e: e["at"])
        assert [answer.at for answer in log.by_client_request_id(text)] == [moment(e["at"]) for e in same]
        assert sorted(ids(log.by_client_request_id(text))) == sorted(texts(same))
    batch = sorted((e for e in left if e["row"].batch_id == BATCH), key=lambda e: e["row"].batch_index)
    assert ids(log.of_batch(id_text(BATCH))) == texts(batch)
    for entry in [e for e in everything if e["n"] == 0]:
        call = entry["row"].request_id
        assert ids(log.of_batch(id_text(call))) == texts([e for e in left if e["row"].request_id == call])

    n = data.draw(st.integers(0, len(everything) + 2))
    newest = sorted(left, key=lambda e: e["at"])
    assert [answer.at for answer in log.last(n)] == [moment(e["at"]) for e in newest[max(0, len(newest) - n) :]]

    cursor: Cursor = {}
    limit, seen = data.draw(st.integers(1, 6)), []
    while True:
        part, cursor = log.after(cursor, limit)
        if not part:
            break
        assert len(part) < limit + 3
        seen += ids(part)
    assert seen == texts(left)
