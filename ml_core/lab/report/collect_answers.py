"""What was answered in a period: scores, sets and fallbacks per bucket, from one pass over the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from ml_core.base.clock import microseconds, moment_of
from ml_core.base.errors import LogDamaged
from ml_core.lab.report.collect_period import DAY, Stretch
from ml_core.lab.report.facts import AnswerBucket, AnswerHistory
from ml_core.lab.report.gaps import Gaps
from ml_core.serve.log.log_files import LATE_DAYS, LogFile, day_of
from ml_core.serve.log.reader import AnswerGist, PredictionLog

__all__ = ["QUANTILES", "Lineages", "files_of", "seen_answers"]

Lineages = Mapping[str, Mapping[str, Any]]
"""The lineage that answers name, by model hash."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_CELLS = 1_000
"""Scores are counted in so many cells of [0, 1]: a quantile is right to 0.001, in constant memory."""


@dataclass(slots=True)
class _Bucket:
    """What is counted of one bucket; ``cells`` are of the models' own scores alone."""

    answers: int = 0
    fallbacks: int = 0
    cells: list[int] = field(default_factory=lambda: [0] * _CELLS)
    sizes: Counter[int] = field(default_factory=Counter)


def seen_answers(
    log: PredictionLog, period: Stretch, classes: Sequence[object], gaps: Gaps
) -> tuple[AnswerHistory | None, Lineages]:
    """The answers of a period (None without any) and the models that gave them; unreadable files leave a gap.

    Parameters
    ----------
    classes : of the champion, for the name of the score; where it is not known, those of the first answer
    """
    buckets = [_Bucket() for _ in period.starts]
    reasons: Counter[str] = Counter()
    lineages: dict[str, Mapping[str, Any]] = {}
    for file in files_of(log, period.since, period.until):
        try:
            for answer in log.gists_of(file):
                place = period.place(moment_of(answer.at_us))
                if place is not None:
                    _count(buckets[place], answer)
                    lineages.setdefault(answer.lineage["model_hash"], answer.lineage)
                    if answer.reason is not None:
                        reasons[answer.reason] += 1
        except LogDamaged as error:
            gaps.add("answers", error)
    if not lineages:
        return None, {}
    labels = classes or next(iter(lineages.values()))["classes"]
    return _history(period, buckets, reasons, labels), lineages


def _history(
    period: Stretch, buckets: Sequence[_Bucket], reasons: Counter[str], labels: Sequence[object]
) -> AnswerHistory:
    largest = max(len(labels), *(size for bucket in buckets for size in bucket.sizes))
    return AnswerHistory(
        score_of=_score_name(labels),
        quantiles=QUANTILES,
        buckets=tuple(
            AnswerBucket(
                start=start,
                answers=bucket.answers,
                fallbacks=bucket.fallbacks,
                quantiles=_quantiles(bucket.cells),
                set_sizes=tuple(bucket.sizes[n] for n in range(largest + 1)),
            )
            for start, bucket in zip(period.starts, buckets, strict=True)
        ),
        fallback_reasons=dict(sorted(reasons.items(), key=lambda found: (-found[1], found[0]))),
    )


def files_of(log: PredictionLog, since: datetime, until: datetime) -> list[LogFile]:
    """Files that may hold answers of that time; what came after its day was sealed is in a later file."""
    first, last = (day_of(microseconds(at)) for at in (since - DAY, until + LATE_DAYS * DAY))
    return [file for file in log.files() if first <= file.day <= last]


def _count(bucket: _Bucket, answer: AnswerGist) -> None:
    bucket.answers += 1
    bucket.sizes[answer.set_size] += 1
    if answer.reason is not None:
        bucket.fallbacks += 1
        return
    shares = answer.probabilities
    score = shares[1] if len(shares) == 2 else max(shares)
    bucket.cells[min(int(score * _CELLS), _CELLS - 1)] += 1


def _quantiles(cells: Sequence[int]) -> tuple[float, ...] | None:
    """Quantiles from counts, each as the middle of its cell."""
    running = np.cumsum(cells)
    if not running[-1]:
        return None
    places = np.searchsorted(running, np.array(QUANTILES) * running[-1], side="left")
    return tuple((int(place) + 0.5) / _CELLS for place in places)


def _score_name(classes: Sequence[object]) -> str:
    return f"P({classes[1]})" if len(classes) == 2 else "of the likeliest label"
