"""Shadow scoring pair by pair: from the differences that workers write to files, and from their counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import orjson

from ml_core.base.clock import microseconds
from ml_core.lab.report.collect_period import Stretch
from ml_core.lab.report.facts_upkeep import ShadowPair
from ml_core.lab.report.gaps import Gaps
from ml_core.serve.log.entries import id_bytes
from ml_core.serve.rollout.rollout_state import RolloutState
from ml_core.serve.rollout.worker_reports import ShadowReport, WorkerReport

__all__ = ["NamedModel", "shadow_pairs"]

_CELLS = 200
"""Differences from -1 to 1 are counted in twice so many cells of 0.005."""
_MOST_BARS = 40


@dataclass(frozen=True, slots=True)
class NamedModel:
    """What is known of a model by its hash.

    Attributes
    ----------
    tag : in the Bento store
    classes : its labels, in the order of its probabilities
    """

    tag: str
    classes: Sequence[object]


@dataclass(slots=True)
class _Pair:
    """The sums over the lines of one pair.

    Attributes
    ----------
    last_ms : when the newest request came, milliseconds since 1970
    cells : differences by cell, where the labels' order is known
    """

    last_ms: int = 0
    scored: int = 0
    agreed: int = 0
    same_set: int = 0
    sum: float = 0.0
    max: float = 0.0
    cells: list[int] = field(default_factory=lambda: [0] * 2 * _CELLS)


def shadow_pairs(
    folder: Path,
    period: Stretch,
    models: Mapping[str, NamedModel],
    reports: Sequence[WorkerReport],
    state: RolloutState | None,
    gaps: Gaps,
) -> tuple[ShadowPair, ...]:
    """All pairs of a period, the one that runs first, then the newest.

    Bulk calls have no lines, and the counts that processes report begin anew with every stage of the rollout; so for
    the pair that runs, the source that has seen more requests is shown.

    Parameters
    ----------
    folder : ``Settings.shadow_log``
    models : by hash; a pair of other models has no histogram
    """
    found: dict[tuple[str, str], _Pair] = {}
    for path in sorted(folder.glob("*.jsonl*")):
        gaps.asked("shadow", partial(_take_file, found, path, period, models), None)
    newest = sorted(found.items(), key=lambda kept: -kept[1].last_ms)
    told = [_told(_tag(models, champion), _tag(models, challenger), pair) for (champion, challenger), pair in newest]
    if state is None or state.mode != "shadow" or state.challenger is None:
        return tuple(told)
    running = (state.champion, state.challenger)
    before = next((pair for pair in told if (pair.champion, pair.challenger) == running), ShadowPair(*running, 0, 0, 0))
    counts = [r.shadow for r in reports if r.role == "api" and r.stage == state.stage]
    return (_with_counts(before, counts), *(pair for pair in told if pair is not before))


def _take_file(
    found: dict[tuple[str, str], _Pair], path: Path, period: Stretch, models: Mapping[str, NamedModel]
) -> None:
    """Count the lines of a file; what a process was writing when it was killed is passed over."""
    since, until = (microseconds(at) // 1_000 for at in (period.since, period.until))
    with path.open("rb") as file:
        for raw in file:
            try:
                line = _parsed(raw)
                at_ms = int.from_bytes(id_bytes(str(line["request_id"]))[:6], "big")
                if since <= at_ms < until:
                    pair = found.setdefault((line["champion"], line["challenger"]), _Pair())
                    _count(pair, line, at_ms, models.get(line["champion"]))
            except (ValueError, LookupError, TypeError):
                continue


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:  # NaN: a champion of more than two labels may tell only the predicted one's
        return json.loads(raw)


def _count(pair: _Pair, line: Mapping[str, Any], at_ms: int, champion: NamedModel | None) -> None:
    (before, after), (first, second) = line["prediction"], line["set"]
    difference = float(line["difference"])
    cell = None if champion is None else _cell(line["probability"], champion.classes.index(before))
    pair.last_ms = max(pair.last_ms, at_ms)
    pair.scored += 1
    pair.agreed += before == after
    pair.same_set += first == second
    pair.sum += difference
    pair.max = max(pair.max, difference)
    if cell is not None:
        pair.cells[cell] += 1


def _cell(probabilities: Sequence[Sequence[float]], place: int) -> int:
    """Where the challenger's minus the champion's probability of a label is counted."""
    signed = probabilities[1][place] - probabilities[0][place]
    return min(max(int((signed + 1.0) * _CELLS), 0), 2 * _CELLS - 1)


def _tag(models: Mapping[str, NamedModel], model_hash: str) -> str:
    known = models.get(model_hash)
    return model_hash[:12] if known is None else known.tag


def _told(champion: str, challenger: str, pair: _Pair) -> ShadowPair:
    edges, counts = _bars(pair.cells)
    return ShadowPair(
        champion=champion,
        challenger=challenger,
        scored=pair.scored,
        agreed=pair.agreed,
        same_set=pair.same_set,
        mean_difference=pair.sum / pair.scored if pair.scored else None,
        max_difference=pair.max if pair.scored else None,
        edges=edges,
        counts=counts,
    )


def _bars(cells: Sequence[int]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """A histogram as wide as the differences, the same on either side of 0, with at most so many bars."""
    far = max((abs(k - _CELLS + 0.5) for k, n in enumerate(cells) if n), default=0.0)
    if not far:
        return (), ()
    each = ceil((far + 0.5) / (_MOST_BARS // 2))  # cells a bar: 10 of them reach all differences
    reach = each * _MOST_BARS // 2
    counts = tuple(sum(cells[k : k + each]) for k in range(_CELLS - reach, _CELLS + reach, each))
    return tuple((each * k - reach) / _CELLS for k in range(_MOST_BARS + 1)), counts


def _with_counts(pair: ShadowPair, reports: Sequence[ShadowReport]) -> ShadowPair:
    """The pair with what processes left out, and with their counts where these are of more requests."""
    scored = sum(r.scored for r in reports)
    pair = replace(pair, dropped=sum(r.dropped for r in reports), failed=sum(r.failed for r in reports))
    if scored <= pair.scored:
        return pair
    return replace(
        pair,
        scored=scored,
        agreed=sum(r.agreed for r in reports),
        same_set=sum(r.same_set for r in reports),
        mean_difference=sum(r.scored * (r.mean_difference or 0.0) for r in reports) / scored,
        max_difference=max(r.max_difference or 0.0 for r in reports),
    )
