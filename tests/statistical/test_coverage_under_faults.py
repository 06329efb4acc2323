"""B50: whatever breaks, and whatever breaks it, prediction sets cover what they promise, class by class.

20,000 labelled rows of the law the calibration rows came from go through the whole chain one after the other, while a
schedule of faults breaks the model. Faults that do not hang on the row may leave the answer to the scorecard; rows that
cause their own fault must get every label, because they are not exchangeable with the scorecard's calibration rows.

All rows of a simulated cohort are drawn independently (patients are only dealt out to them), so those of another seed
are exchangeable with the calibration rows.
"""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ml_core.base.settings import Settings
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.measuring.coverage_law import CoverageLaw
from ml_core.lab.training.labelled_rows import label_rows
from ml_core.lab.training.learner import train_model
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.answering.live import LiveModel
from ml_core.serve.answering.requests import BatchRequest, PredictRequest
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.model.scorer import Scorecard
from ml_core.serve.running.runner import ConformalRunner, Scored, score_rows
from tests.serve.answering.builders import live_model, live_of
from tests.serve.running.fake_clock import FakeClock
from tests.toy_models import NAME, passed_gate, toy_config

pytestmark = pytest.mark.slow

ROWS = 20_000
TAIL = 1e-6  # chance that one limit of this file is missed without cause
SECONDS_A_ROW = 0.5  # so that an open circuit, which waits a minute, turns about 120 rows away
FEATURES = ["age", "glucose", "bmi", "bp_systolic"]


@cache
def trained(rows: int, seed: int, version: str) -> LoadedModel:
    """A model with as many calibration rows as make the limits tight."""
    folder = Path(tempfile.mkdtemp(prefix="surety-faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    frame, _ = make_cohort(rows, seed)
    packed = train_model(
        toy_config(), label_rows(frame, "v1", toy_config().split, "cohort"), folder / "b", lambda _: None
    )
    predictor, gate = Predictor(packed.bundle), passed_gate(packed.model_hash)
    return LoadedModel(f"{NAME}:v{version}-{packed.model_hash[:8]}", version, predictor, gate)


def champion() -> LoadedModel:
    return trained(100_000, 11, "1")


def previous() -> LoadedModel:
    return trained(60_000, 12, "2")


@dataclass(frozen=True)
class Rows:
    """The labelled rows, and what champion and scorecard say of them while nothing is broken."""

    records: list[dict[str, object]]
    labels: np.ndarray
    features: np.ndarray
    by_model: np.ndarray
    by_scorecard: np.ndarray
    model_sets: np.ndarray
    scorecard_sets: np.ndarray


@cache
def rows() -> Rows:
    frame, _ = make_cohort(ROWS, 99)
    columns = frame[FEATURES].astype(object)
    records = columns.where(columns.notna(), None).to_dict("records")
    predictor = champion().predictor
    bundle = predictor.bundle
    features = bundle.features.transform(predictor.reader.arrays([predictor.reader.read(r) for r in records]))
    by_model, by_scorecard = predictor.scorer.proba(features), Scorecard(bundle.fallback["scorecard"]).proba(features)
    return Rows(
        records, frame["readmission_30d"].to_numpy(), features, by_model, by_scorecard,
        bundle.calibration.rows(by_model, predictor.level).sets,
        bundle.scorecard_calibration.rows(by_scorecard, predictor.level).sets,
    )  # fmt: skip


# --- faults -----------------------------------------------------------------------------------------------------------

Fault = str  # "", "raise", "nan" or "late"
Schedule = Callable[[], "list[Fault]"]


def at_random(fault: Fault, share: float, seed: int) -> list[Fault]:
    return [fault if u < share else "" for u in np.random.default_rng(seed).random(ROWS)]


def in_bursts(fault: Fault) -> list[Fault]:
    """400 in a row of every 2,500: the circuit opens, probes fail, it waits longer, and closes afterwards."""
    return [fault if i % 2_500 < 400 else "" for i in range(ROWS)]


def where(fault: Fault, broken: np.ndarray) -> list[Fault]:
    return [fault if b else "" for b in broken]


def is_rare() -> np.ndarray:
    """Two or more of the measurements were not taken."""
    return np.array([sum(record[name] is None for name in FEATURES) >= 2 for record in rows().records])


def is_oldest() -> np.ndarray:
    return rows().features[:, 0] >= np.quantile(rows().features[:, 0], 0.9)


def is_deep() -> np.ndarray:
    """Rows that the model finds much safer than a straight line does, by many splits: what takes longest, say."""
    departs = rows().by_model[:, 1] - rows().by_scorecard[:, 1]
    return departs < np.quantile(departs, 0.1)


def is_riskiest() -> np.ndarray:
    return rows().by_model[:, 1] >= np.quantile(rows().by_model[:, 1], 0.8)


def mixed() -> list[Fault]:
    parts = [in_bursts("raise"), at_random("nan", 0.1, 5), at_random("late", 0.1, 6), where("late", is_deep())]
    return [next((fault for fault in faults if fault), "") for faults in zip(*parts, strict=True)]


INDEPENDENT: dict[str, Schedule] = {
    "none": lambda: [""] * ROWS,
    "errors": lambda: at_random("raise", 0.3, 1),
    "bursts of errors": lambda: in_bursts("raise"),
    "not a number": lambda: at_random("nan", 0.3, 2),
    "bursts not a number": lambda: in_bursts("nan"),
    "late": lambda: at_random("late", 0.3, 3),
    "bursts late": lambda: in_bursts("late"),
}
ROW_CAUSED: dict[str, Schedule] = {
    "not a number on rare rows": lambda: where("nan", is_rare()),
    "error on the oldest": lambda: where("raise", is_oldest()),
    "late on deep rows": lambda: where("late", is_deep()),
    "error on the riskiest": lambda: where("raise", is_riskiest()),
    "everything at once": mixed,
}
SCHEDULES = {**INDEPENDENT, **ROW_CAUSED}


class FaultyRunner:
    """The champion, which breaks as scheduled for the row at hand."""

    is_quick = True

    def __init__(self, faults: list[Fault]) -> None:
        self._faults, self._inner = faults, ConformalRunner(champion())
        self.row = 0

    def proba(self, features: np.ndarray) -> np.ndarray:
        fault = self._faults[self.row]
        if fault == "raise":
            raise FloatingPointError
        return np.full((len(features), 2), np.nan) if fault == "nan" else self._inner.proba(features)


class LateRunner(FaultyRunner):
    """The same in another process, where deadlines pass; those of this one pass at once."""

    is_quick = False

    async def ascore(self, features: np.ndarray) -> Scored:
        if self._faults[self.row] == "late":
            raise TimeoutError
        return score_rows(self, features, 2)


# --- the run ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """What came of every row: its set, who gave it, and whether it was flagged; and how often the circuit moved."""

    sets: np.ndarray
    slots: np.ndarray
    flagged: np.ndarray
    opened: int
    closed: int

    def covered(self) -> np.ndarray:
        return self.sets[np.arange(ROWS), rows().labels]


def moves(model: LiveModel, after: str) -> int:
    return sum(n for _, end, _, n in model.guard.breaker.snapshot().transitions if end == after)


@cache
def served(schedule: str, *, with_previous: bool = False) -> Served:
    """The schedule, row by row, through the whole chain."""
    faults, clock = SCHEDULES[schedule](), FakeClock()
    runner = (LateRunner if "late" in faults else FaultyRunner)(faults)
    model = live_model(runner, model=champion(), settings=Settings(), clock=clock)
    other = live_model(model=previous()) if with_previous else None
    service = InferenceService(live_of(model, previous=other))

    async def run() -> list:
        answers = []
        for runner.row, record in enumerate(rows().records):
            clock.advance(SECONDS_A_ROW)
            answers.append(await service.predict(PredictRequest(record)))
        return answers

    answers = asyncio.run(run())
    return Served(
        sets=np.array([[0 in a.prediction_set, 1 in a.prediction_set] for a in answers]),
        slots=np.array([a.lineage.slot for a in answers]),
        flagged=np.array([a.fallback_used for a in answers]),
        opened=moves(model, "open"),
        closed=moves(model, "closed"),
    )


def limit(label: int, n_rows: int, *models: LoadedModel) -> float:
    """Coverage below which ``n_rows`` rows of a class fall with chance ``TAIL``, at most, for the smallest calibration."""
    size = min(model.predictor.bundle.calibration.sizes[label] for model in models)
    return CoverageLaw.of(size, champion().predictor.level).band(n_rows, TAIL).lower


def shortfalls(covered: np.ndarray, among: np.ndarray, *models: LoadedModel) -> list[float]:
    """By how much the coverage of each class lies below its limit; negative where it does not."""
    found = []
    for label in (0, 1):
        of_class = (rows().labels == label) & among
        found.append(limit(label, int(of_class.sum()), *models) - float(covered[of_class].mean()))
    return found


ALL = np.ones(ROWS, dtype=np.bool_)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_class_is_covered_whatever_breaks(schedule):
    assert max(shortfalls(served(schedule).covered(), ALL, champion())) <= 0


@pytest.mark.parametrize("schedule", ["bursts of errors", "bursts late", "everything at once"])
def test_every_class_is_covered_while_the_previous_champion_answers(schedule):
    found = served(schedule, with_previous=True)
    assert (found.slots == "previous").mean() > 0.05
    assert max(shortfalls(found.covered(), ALL, champion(), previous())) <= 0


@pytest.mark.parametrize("schedule", ["errors", "bursts of errors", "bursts not a number", "late", "bursts late"])
def test_rows_turned_to_the_scorecard_by_an_open_circuit_are_covered_by_themselves(schedule):
    found = served(schedule)
    turned = found.slots == "scorecard"
    assert turned.mean() > 0.05
    assert max(shortfalls(found.covered(), turned, champion())) <= 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_degraded_answer_is_flagged_and_every_other_one_is_the_models_own(schedule):
    found, faults = served(schedule), np.array(SCHEDULES[schedule]())
    assert (found.flagged == (found.slots != "champion")).all()
    assert found.flagged[faults != ""].all()
    assert (found.sets[~found.flagged] == rows().model_sets[~found.flagged]).all()
    assert found.sets[found.slots == "prior"].all()
    turned = found.slots == "scorecard"
    assert (found.sets[turned] == rows().scorecard_sets[turned]).all()


@pytest.mark.parametrize("schedule", ["errors", "bursts of errors", "late", "bursts late", "everything at once"])
def test_the_circuit_opens_and_recovers_meanwhile(schedule):
    found = served(schedule)
    assert found.opened >= 5
    assert found.closed >= 5
    assert {"champion", "scorecard", "prior"} == set(found.slots)
    assert (found.slots == "champion").mean() > 0.2


@pytest.mark.parametrize("schedule", ["not a number on rare rows", "error on the oldest", "error on the riskiest"])
def test_rows_in_batches_are_covered_and_only_those_that_break_are_flagged(schedule):
    faults = SCHEDULES[schedule]()
    model = live_model(BatchRunner(faults), model=champion())
    model.guard.breaker.override("disabled")  # nearly every batch has such a row
    service = InferenceService(live_of(model))

    async def run() -> list:
        answers = []
        for start in range(0, ROWS, 50):
            request = BatchRequest(list(rows().records[start : start + 50]))
            answers += (await service.predict_batch(request)).predictions
        return answers

    answers = asyncio.run(run())
    sets = np.array([[0 in a.prediction_set, 1 in a.prediction_set] for a in answers])
    flagged = np.array([a.fallback_used for a in answers])
    assert (flagged == (np.array(faults) != "")).all()
    assert (sets[~flagged] == rows().model_sets[~flagged]).all()
    assert max(shortfalls(sets[np.arange(ROWS), rows().labels], ALL, champion())) <= 0


class BatchRunner(FaultyRunner):
    """The champion, which breaks wherever a row is among those it is asked for that breaks it."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults)
        self._broken = {row.tobytes(): fault for row, fault in zip(rows().features, faults, strict=True) if fault}

    def proba(self, features: np.ndarray) -> np.ndarray:
        faults = np.array([self._broken.get(row.tobytes(), "") for row in features])
        if (faults == "raise").any():
            raise FloatingPointError
        return np.where((faults == "nan")[:, None], np.nan, self._inner.proba(features))


# --- the test can fail: what other chains would do -----------------------------------------------------------------------


def test_the_scorecard_would_not_cover_rows_that_break_the_model():
    broken = np.array(SCHEDULES["late on deep rows"]()) != ""
    sets = np.where(broken[:, None], rows().scorecard_sets, rows().model_sets)
    assert max(shortfalls(sets[np.arange(ROWS), rows().labels], ALL, champion())) > 0.003


def test_rows_that_break_the_model_may_not_be_left_unanswered():
    kept = np.array(SCHEDULES["error on the riskiest"]()) == ""
    covered = rows().model_sets[np.arange(ROWS), rows().labels]
    assert max(shortfalls(covered, kept, champion())) > 0.003
