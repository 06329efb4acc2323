"""A ward on one machine: a served model with its log, outcomes that come late, and a monitor with a clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ml_core.base.settings import Settings
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.measuring.coverage_detector import DetectorState
from ml_core.lab.watching.health_monitor import HealthMonitor, HealthReport
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.serve.answering.envelope import InferenceResponse
from ml_core.serve.answering.recording import Recorder
from ml_core.serve.answering.requests import BatchRequest, PredictRequest
from ml_core.serve.features.versions import get_feature_version
from ml_core.serve.http.arrow_batches import answer_stream
from ml_core.serve.http.arrow_messages import StreamLimits
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.log.label_tables import open_label_tables
from ml_core.serve.log.labels import AnswerLabel, LabelStore
from ml_core.serve.log.log_files import LogFile
from ml_core.serve.log.log_keys import KEY_BYTES, Pseudonyms, make_key_file
from ml_core.serve.log.log_records import LogRecords
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.log.writer import LogWriter, shipping_of
from ml_core.serve.model.loader import ModelLoader
from tests.serve.answering.builders import until
from tests.serve.answering.stored import Home, Worker

HORIZON_DAYS = 30.0
START = datetime(2026, 3, 1, 8, tzinfo=UTC)


class Ward:
    """Answers rows of the synthetic cohort, keeps them in the log, and tells outcomes when they are known.

    Readmissions are known after five days, their absence after the horizon.

    Parameters
    ----------
    champion : folder of another artefact to serve than the toy model's
    """

    def __init__(self, folder: Path, workers: int = 1, champion: Path | None = None, **settings: Any) -> None:
        self.home = Home(folder / "home", **settings)
        self.home.promote(self.home.v1 if champion is None else self.home.add("4", champion))
        self.now = START
        chosen = self.home.settings
        if not chosen.subject_key.exists():  # who is a test patient hangs on the pseudonym, so on the key
            make_key_file(chosen.subject_key, bytes(range(KEY_BYTES)))
        self.workers = [Worker(self.home, index) for index in range(1, workers + 1)]
        records = LogRecords(chosen)
        self.writers = [
            LogWriter(chosen.log, records=records, shipping=shipping_of(chosen, records)) for _ in self.workers
        ]
        for worker, writer in zip(self.workers, self.writers, strict=True):
            recorder = Recorder(writer, chosen.log, Pseudonyms(chosen.subject_key), keep_inputs=chosen.log_inputs)
            worker.service._recorder = recorder
            worker.service._now = lambda: self.now
            writer.start()
        self.log = PredictionLog.of(chosen)
        self.labels = LabelStore(open_label_tables(chosen, chosen.model_name), self.log.known, clock=lambda: self.now)
        self.watch = HealthMonitor(chosen, ModelLoader(chosen), now=lambda: self.now)
        self.due: list[tuple[datetime, str, int]] = []

    def answer(self, rows: pd.DataFrame) -> list[InferenceResponse]:
        """Answer the rows, shared out among the workers, and remember when each outcome will be known."""
        records, outcomes = records_of(rows)
        found: list[InferenceResponse] = []
        for n, worker in enumerate(self.workers):
            mine = records[n :: len(self.workers)]
            batch = asyncio.run(worker.service.predict_batch(BatchRequest(list(mine))))
            answers = [answer for answer in batch.predictions if isinstance(answer, InferenceResponse)]
            assert len(answers) == len(mine)
            self._until_stored(answers)
            for answer, outcome in zip(answers, outcomes[n :: len(self.workers)], strict=True):
                known = self.now + timedelta(days=5 if outcome else HORIZON_DAYS)
                self.due.append((known, answer.request_id, outcome))
            found += answers
        return found

    def _until_stored(self, answers: Sequence[InferenceResponse]) -> None:
        """Wait until answers are where the monitor reads them: a busy machine answers before it has stored or shipped."""
        ids = {id_bytes(answer.request_id) for answer in answers}
        until(lambda: self.log.known(ids) == ids)

    def answer_again(self, row: pd.DataFrame, client_request_id: str, times: int) -> list[InferenceResponse]:
        """Answer the one row that often under the same name of the caller's; nobody tells its outcome."""
        (record,), _ = records_of(row)
        found: list[InferenceResponse] = []
        for _ in range(times):
            request = PredictRequest(record, client_request_id=client_request_id)
            found.append(asyncio.run(self.workers[0].service.predict(request)))
            self._until_stored(found[-1:])
            self.now += timedelta(milliseconds=10)
        return found

    def answer_bulk(self, records: Sequence[Mapping[str, Any]]) -> str:
        """Answer the records in one Arrow stream, by the first worker; the id of the batch."""
        table = pa.Table.from_pylist(list(records))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)

        async def here(work: Callable[[], Any]) -> Any:
            return work()

        body, service = sink.getvalue().to_pybytes(), self.workers[0].service
        batch_id, _, _ = asyncio.run(
            answer_stream(service, body, StreamLimits(len(records), 1 << 30), here, on_error="row", level=None)
        )
        return batch_id

    def pass_days(self, days: float) -> None:
        """Let time pass, and tell the outcomes that have become known."""
        self.now += timedelta(days=days)
        told = [(i, outcome) for known, i, outcome in self.due if known <= self.now]
        self.due = [(known, i, outcome) for known, i, outcome in self.due if known > self.now]
        if told:
            self.labels.add([AnswerLabel(id_bytes(i), outcome, self.now) for i, outcome in told], "ward")

    def look(self) -> HealthReport:
        """The monitor looks, and the workers look at what it has published."""
        found = self.watch.look()
        for worker in self.workers:
            worker.follower.look()
        return found

    def another_monitor(self, name: str, **settings: Any) -> HealthMonitor:
        """A monitor of the same log and labels that nobody knows of: it has a home of its own."""
        home = self.home.settings.home.parent / name
        home.mkdir()
        for shared in ("log", "labels", "rollout", "models"):
            (home / shared).symlink_to(self.home.settings.home / shared)
        other = Settings(**{**self.home.settings.model_dump(), **settings, "home": home})
        return HealthMonitor(other, now=lambda: self.now)

    def detectors(self, tag: str, watch: HealthMonitor | None = None) -> dict[str, DetectorState]:
        """Coverage detectors of that model, as this or another monitor keeps them."""
        settings = (watch or self.watch)._settings
        with Ledger.reading(open_ledger_tables(settings, settings.model_name)) as ledger:
            assert ledger is not None
            kept = ledger.detectors(self.home.hash_of(tag))
            return {name: DetectorState(**state) for name, (state, _) in kept.items() if name.startswith("coverage:")}

    def answered_files(self) -> list[LogFile]:
        """Files that hold answers: a writer makes today's as well, when it starts."""
        return answered_files(self.home.settings)

    def close(self) -> None:
        """Stop the writers."""
        for writer in self.writers:
            writer.close(5.0)


def answered_files(settings: Settings) -> list[LogFile]:
    """Files of the log that hold answers."""
    log = PredictionLog(settings.log)
    return [file for file in log.files() if next(iter(log.of_file(file)), None) is not None]


def patients(n: int, seed: int, **knobs: Any) -> pd.DataFrame:
    """Rows of the synthetic cohort's law."""
    frame, _ = make_cohort(n, seed, **knobs)
    return frame


def records_of(rows: pd.DataFrame) -> tuple[list[dict[str, Any]], list[int]]:
    """Rows as requests have them, and their outcomes."""
    version = get_feature_version("v1")
    names = [column.name for column in version.features]
    whole = {column.name for column in version.features if column.dtype == "int"}
    group = next(column.name for column in version.columns if column.role == "group")
    beside = [name for name in rows.columns if name not in {column.name for column in version.columns}]
    records = []
    for row in rows.to_dict("records"):
        record: dict[str, Any] = {group: str(row[group]), **{n: None if pd.isna(row[n]) else row[n] for n in beside}}
        for name in names:
            value = row[name]
            missing = value is None or (isinstance(value, float) and np.isnan(value))
            record[name] = None if missing else int(value) if name in whole else float(value)
        records.append(record)
    return records, rows["readmission_30d"].astype(int).tolist()


def unforeseen(n: int, seed: int) -> pd.DataFrame:
    """Patients of the usual law, but the readmitted look like the healthiest: class 1 loses its coverage, 0 does not."""
    rows = patients(n, seed)
    healthy = {"age": 40, "glucose": 90.0, "bmi": 24.0, "bp_systolic": 125.0}
    rows.loc[rows["readmission_30d"] == 1, list(healthy)] = list(healthy.values())
    return rows
