"""Seeded replays of a ward's months: answers, outcomes that come early or late, a shift, and a new model after it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path

import numpy as np

from ml_core.base.journal import Journal
from ml_core.base.settings import Settings
from ml_core.lab.config import ConformalConfig
from ml_core.lab.data.cohort import CohortKnobs, make_cohort
from ml_core.lab.measuring.coverage_detector import BLOCK, block_for, highest_miss_rate
from ml_core.lab.measuring.performance import MaturedPerformance
from ml_core.lab.training.labelled_rows import LabelledRows, label_rows
from ml_core.lab.training.learner import train_model
from ml_core.lab.training.packing import PackedModel
from ml_core.lab.watching.live_performance import matured_answers, performance_of
from ml_core.serve.model.prediction_sets import Guarantee
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.rollout import changes
from tests.lab.watching.ward import HORIZON_DAYS, Ward, patients
from tests.statistical.coverage_streams import found_share
from tests.toy_models import toy_config

__all__ = [
    "CALM",
    "DRIFT_THRESHOLD",
    "SHARP_THRESHOLD",
    "Replay",
    "Stream",
    "Toy",
    "Told",
    "found_at_least",
    "law",
    "monitored_from_afar",
    "replay",
    "stream",
]

CALM = CohortKnobs()
DRIFT_THRESHOLD, SHARP_THRESHOLD = 100.0, 500.0
_DAYS, _ROWS, _WINDOW, _BLOCK = 4, 250, 150, 15  # each row is a patient of his own
_LAW_ROWS = 30_000
_ERRORS = 5.0  # standard errors that a miss rate must stay away from its limit to be taken as below it


# --- models -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toy:
    """A model trained and calibrated on a cohort of its own."""

    seed: int
    knobs: CohortKnobs = CALM
    guarantee: Guarantee = "class_conditional"

    @property
    def packed(self) -> PackedModel:
        """The artefact; its folder must not be changed."""
        return _packed(self)


@cache
def _packed(toy: Toy) -> PackedModel:
    root = Path(tempfile.mkdtemp(prefix="surety-toy-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    config = toy_config(conformal=ConformalConfig(guarantee=toy.guarantee))
    rows = label_rows(make_cohort(4_000, toy.seed, toy.knobs)[0], "v1", config.split, "a cohort")
    return train_model(config, rows, root / "bundle", lambda _: None)


@dataclass(frozen=True)
class Stream:
    """The labels of one class as a detector of a model sees them under some law.

    Attributes
    ----------
    rate, error : chance of a miss, and its standard error
    limit : the miss rate the detector allows
    block : labels in its blocks
    """

    rate: float
    error: float
    limit: float
    block: int

    @property
    def keeps_its_promise(self) -> bool:
        """Whether the chance of a miss surely lies below what the detector allows.

        It does not for every honest model: the limit is a quantile of what chance does to a calibration.
        """
        return self.rate + _ERRORS * self.error <= self.limit

    @property
    def surely(self) -> float:
        """A chance of a miss that the true one surely exceeds."""
        return max(0.0, self.rate - _ERRORS * self.error)


@cache
def stream(model: Toy, label: int | None, knobs: CohortKnobs = CALM) -> Stream:
    """Found from the law itself: rows weigh as much as their true probability of that label (None: of any)."""
    rows, positive = law(knobs)
    bundle = model.packed.bundle
    missed, of_label = ~Predictor(bundle).predict(rows.columns).sets, np.stack([1.0 - positive, positive], axis=1)
    chosen = [0, 1] if label is None else [label]
    w, lost = of_label[:, chosen].sum(axis=1), (of_label * missed)[:, chosen].sum(axis=1)
    rate = float(lost.sum() / w.sum())
    error = float(np.sqrt(((lost - rate * w) ** 2).sum()) / w.sum())
    name = "calibration_effect" if label is None else f"calibration_effect_class_{label}"
    size = bundle.calibration.sizes[0 if label is None else label]
    block = BLOCK if label is None else block_for(size / sum(bundle.calibration.sizes))
    return Stream(rate, error, highest_miss_rate(size, Decimal("0.9"), bundle.manifest.metrics[name]), block)


@cache
def law(knobs: CohortKnobs) -> tuple[LabelledRows, np.ndarray]:
    """Rows of the law, and the true probability of readmission of each."""
    frame, probability = make_cohort(_LAW_ROWS, 99, knobs)
    return label_rows(frame, "v1", toy_config().split, "the law"), probability


def found_at_least(
    labels: int, rate: float, limit: float, threshold: float, block: int, calm: tuple[int, float] = (0, 0.0)
) -> float:
    """Chance, at least, that a detector has alarmed after so many labels, each missed with that chance.

    From simulated streams of such labels, less five standard errors. Before them came ``calm`` labels, missed with the
    chance given there: against them, a change makes runs of blocks differ.
    """
    streams = 2_000
    share = found_share(labels, rate, limit, threshold, block, calm=calm, streams=streams)
    return max(0.0, share - _ERRORS * float(np.sqrt(share * (1.0 - share) / streams)))


# --- replays ------------------------------------------------------------------------------------------------------


Told = tuple[str, frozenset[str]]
"""A validity and its reasons."""


@dataclass(frozen=True)
class Replay:
    """What one replay has shown.

    Attributes
    ----------
    model, successor, shift : that served first, and after the shift; the law since then
    calm : alarms of coverage and drift on answers before the shift; ``sharp``: those of coverage by another monitor, with
        a threshold of 500 labels
    windows : drift windows before the shift
    early, late : performance by the labels that had come on the ninth day, and on the same answers after their horizon
    shifted_labels : of each class that matured after the shift
    at_alarm : what each worker said right after the look that found the lost coverage; nothing where none did
    suspect : what answers said of themselves then; ``recovered``, ``stayed``: after the promotion, and a month later
    journal : alarms that it knew of before the promotion
    new_labels, new_windows : of the successor
    """

    model: Toy
    successor: Toy
    shift: CohortKnobs
    calm: frozenset[str]
    sharp: frozenset[str]
    windows: int
    early: MaturedPerformance
    late: MaturedPerformance
    shifted_labels: tuple[int, ...]
    at_alarm: tuple[Told, ...]
    suspect: frozenset[Told]
    recovered: frozenset[Told]
    stayed: frozenset[Told]
    journal: frozenset[str]
    new_labels: tuple[int, ...]
    new_windows: int


def replay(seed: int, model: Toy, shift: CohortKnobs, lost: int, successor: Toy, folder: Path) -> Replay:
    """Four calm days, then four of the shift, then a successor for four more; the monitor looks every day.

    Parameters
    ----------
    lost : the class that loses its coverage by the shift
    """
    champion = model.packed.folder
    ward = Ward(
        folder, 2, champion, drift_window_rows=_WINDOW, drift_block_rows=_BLOCK, drift_alarm_windows=DRIFT_THRESHOLD
    )
    settings = ward.home.settings
    try:
        windows = _answered(ward, 10_000 + 100 * seed, CALM)
        _days(ward, 9 - _DAYS)
        drifted = {alarm.reason for alarm in matured_answers(settings).alarms}
        early, _ = monitored_from_afar(ward, "early", label_horizon_days=0.0)
        _answered(ward, 20_000 + 100 * seed, shift)
        _days(ward, int(HORIZON_DAYS) - _DAYS - 1)  # tomorrow the first answers of the shift are due
        late, covered = _judged(settings)
        _, sharp = monitored_from_afar(ward, "sharp", coverage_alarm_labels=SHARP_THRESHOLD)
        at_alarm = _until_alarm(ward, f"coverage:{lost}")
        suspect, (shifted, _), journal = _told(ward, seed, shift), _judged(settings), _journal(settings)

        ward.home.change(changes.full(ward.home.add("9", successor.packed.folder)))
        ward.look()
        recovered = _told(ward, seed, shift)
        new_windows = _answered(ward, 30_000 + 100 * seed, shift)
        _days(ward, int(HORIZON_DAYS))
        stayed, (new, _) = _told(ward, seed, shift), _judged(settings)
    finally:
        ward.close()
    return Replay(
        model=model,
        successor=successor,
        shift=shift,
        calm=frozenset(drifted | covered),
        sharp=sharp,
        windows=windows,
        early=early,
        late=late,
        shifted_labels=tuple(b - a for a, b in zip(late.n_per_class, shifted.n_per_class, strict=True)),
        at_alarm=at_alarm,
        suspect=suspect,
        recovered=recovered,
        stayed=stayed,
        journal=journal,
        new_labels=new.n_per_class,
        new_windows=new_windows,
    )


def monitored_from_afar(ward: Ward, name: str, **settings: float) -> tuple[MaturedPerformance, frozenset[str]]:
    """What another monitor finds in one look at the same log and labels: performance, and detectors that went off."""
    watch = ward.another_monitor(name, **settings)
    watch.look()
    return _judged(watch._settings)


def _judged(settings: Settings) -> tuple[MaturedPerformance, frozenset[str]]:
    """MaturedPerformance of the champion, and its coverage detectors that went off, held or not."""
    found = matured_answers(settings)
    judged = performance_of(found)
    assert judged is not None
    return judged, frozenset(name for name, state in found.detectors.items() if state.is_alarmed)


def _journal(settings: Settings) -> frozenset[str]:
    """Alarms that the journal knows of."""
    return frozenset(e["alarm"] for e in Journal(settings.journal).entries() if e["event"] == "alarm.raised")


def _answered(ward: Ward, seed: int, knobs: CohortKnobs) -> int:
    """Days of answers, each with a look; how many drift windows were judged."""
    windows = 0
    for day in range(_DAYS):
        ward.answer(patients(_ROWS, seed + day, knobs=knobs))
        windows += _days(ward, 1)
    return windows


def _days(ward: Ward, days: int) -> int:
    """Days with a look each; how many drift windows were judged."""
    windows = 0
    for _ in range(days):
        ward.pass_days(1)
        windows += ward.look().windows
    return windows


def _until_alarm(ward: Ward, reason: str) -> tuple[Told, ...]:
    """Days until all of the shift has matured; what each worker said after the look that raised this alarm."""
    said: tuple[Told, ...] = ()
    for _ in range(_DAYS):
        ward.pass_days(1)
        raised = [alarm.reason for alarms in ward.look().raised.values() for alarm in alarms]
        if reason in raised:
            each = [found for worker in ward.workers for found in worker.service.validity.values()]
            said = tuple((word, frozenset(reasons)) for word, reasons in each)
    return said


def _told(ward: Ward, seed: int, knobs: CohortKnobs) -> frozenset[Told]:
    """What answers of both workers say of themselves now."""
    answers = ward.answer(patients(4, 40_000 + seed, knobs=knobs))
    return frozenset((answer.validity, frozenset(answer.validity_reasons)) for answer in answers)
