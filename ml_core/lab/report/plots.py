"""Pictures of a report: answers, outcomes and evidence over time, and a feature or score beside its reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import numpy as np
from markupsafe import Markup
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ml_core.lab.report.facts import AnswerHistory
from ml_core.lab.report.facts_drift import Detector, LevelShares, NumberShares, Shares
from ml_core.lab.report.facts_outcomes import ClassCoverage, ExpectedSeries, PerformanceHistory
from ml_core.lab.report.facts_upkeep import ShadowPair
from ml_core.lab.report.formats import count, number, percent
from ml_core.lab.report.svg import COLOURS, drawable, picture
from ml_core.serve.model.conformity_scores import FloatArray

__all__ = [
    "MOST_LEVELS",
    "answers",
    "auc",
    "brier",
    "coverage",
    "differences",
    "distribution",
    "evidence",
    "expected",
    "scores",
    "sizes",
    "small_distribution",
]

MOST_LEVELS = 8
"""Levels of a category that a picture shows; the rest are drawn as one."""

_MOST_SHOWN = 1e3
"""Evidence beyond so many thresholds is drawn as that much."""
_LEAST_SHOWN = 1 / 24
"""Least stretch of time that a trail is drawn over, days."""
_DATES = ["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%H:%M:%S"]
_FIRST_DATES = ["%Y", "%Y", "%d %b", "%d %b", "%H:%M", "%H:%M"]
"""Years, months, days, hours, minutes, seconds: any tick, and the first of the next larger unit."""
_PERCENT = FuncFormatter(lambda share, _: percent(share))
_COUNT = FuncFormatter(lambda value, _: count(value))
_NUMBER = FuncFormatter(lambda value, _: number(value))


# --- answers over time ----------------------------------------------------------------------------------------------


def scores(history: AnswerHistory, bucket_s: float) -> Markup:
    """Quantiles of the score over time: nested bands around the median."""
    levels = history.quantiles
    rows = [b.quantiles or (np.nan,) * len(levels) for b in history.buckets]
    bands = np.array(rows, dtype=np.float64).reshape(len(rows), len(levels))
    middle = len(levels) // 2

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = _edges([b.start for b in history.buckets], bucket_s)
        for low in range(middle):
            band = (bands[:, low], bands[:, -1 - low])
            axes.stairs(band[1], edges, baseline=band[0], fill=True, color=COLOURS["current"], alpha=0.18 + 0.12 * low)
        axes.stairs(bands[:, middle], edges, baseline=None, color=COLOURS["current"], linewidth=1.8)
        axes.set_ylim(0, min(1.0, float(np.nanmax(bands, initial=0.0)) * 1.1) or 1.0)
        _over_time(axes, _NUMBER, edges[0], edges[-1])

    return picture("scores", f"{history.score_of} over time. {_ends(bands[:, middle], 'median')}", draw)


def sizes(history: AnswerHistory, bucket_s: float) -> Markup:
    """Shares of set sizes over time, stacked: one label, two, three and more, none."""
    largest = max((len(b.set_sizes) for b in history.buckets), default=0)
    counts = np.array([(*b.set_sizes, *(0,) * (largest - len(b.set_sizes))) for b in history.buckets], dtype=np.float64)
    counts = np.pad(counts.reshape(len(history.buckets), largest), ((0, 0), (0, max(0, 4 - largest))))
    grouped = np.stack([counts[:, 1], counts[:, 2], counts[:, 3:].sum(axis=1), counts[:, 0]], axis=1)
    total = grouped.sum(axis=1, keepdims=True)
    shares = np.divide(grouped, total, out=np.full_like(grouped, np.nan), where=total > 0)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = _edges([b.start for b in history.buckets], bucket_s)
        below = np.zeros(len(shares))
        for part, colour in enumerate(("size-1", "size-2", "size-3", "size-0")):
            if np.nansum(shares[:, part]) > 0:
                above = below + shares[:, part]
                axes.stairs(above, edges, baseline=below, fill=True, color=COLOURS[colour])
                below = above
        axes.set_ylim(0, 1)
        _over_time(axes, _PERCENT, edges[0], edges[-1])

    said = " ".join(_ends(shares[:, part], what, percent) for part, what in ((0, "one label"), (3, "none")))
    return picture("set-sizes", f"Labels in the set over time. {said}", draw)


def answers(history: AnswerHistory, bucket_s: float) -> Markup:
    """Answers per bucket, and the share of them that a fallback gave."""
    given = np.array([b.answers for b in history.buckets], dtype=np.float64)
    fallbacks = np.array([b.fallbacks for b in history.buckets], dtype=np.float64)
    shares = np.divide(fallbacks, given, out=np.full_like(given, np.nan), where=given > 0)

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True)
        edges = _edges([b.start for b in history.buckets], bucket_s)
        above.stairs(given, edges, fill=True, color=COLOURS["current"], alpha=0.75)
        above.set_title("answers", loc="left")
        below.stairs(shares, edges, fill=True, color=COLOURS["alarm"])
        below.set_title("share from a fallback", loc="left")
        below.set_ylim(0, max(0.01, float(np.nanmax(shares, initial=0.0)) * 1.1))
        above.yaxis.set_major_locator(MaxNLocator(3))
        below.yaxis.set_major_locator(MaxNLocator(3))
        _over_time(above, _COUNT, edges[0], edges[-1])
        _over_time(below, _PERCENT, edges[0], edges[-1])

    said = f"{count(given.sum())} answers over time, {count(fallbacks.sum())} of them from a fallback"
    return picture("answers", said, draw, height=2.6)


# --- outcomes over time ---------------------------------------------------------------------------------------------


def coverage(name: str, judged: ClassCoverage, bucket_s: float) -> Markup:
    """Observed coverage against its band and the promise; buckets below the band are marked by shape as well."""
    lower, upper, observed = (
        _values([getattr(b, part) for b in judged.buckets]) for part in ("lower", "upper", "observed")
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = _edges([b.start for b in judged.buckets], bucket_s)
        middle = (edges[:-1] + edges[1:]) / 2
        axes.stairs(upper, edges, baseline=lower, fill=True, color=COLOURS["reference"], alpha=0.45)
        axes.axhline(judged.promised, color=COLOURS["ink"], linewidth=1.0)
        small = 9.0 if len(judged.buckets) > 120 else 22.0
        kept = ~(observed < lower)
        axes.scatter(middle[kept], observed[kept], small, color=COLOURS["current"], zorder=3)
        axes.scatter(middle[~kept], observed[~kept], small * 1.6, color=COLOURS["alarm"], marker="v", zorder=3)
        least = float(np.nanmin([*observed, *lower, judged.promised]))
        axes.set_ylim(max(0.0, least - 0.05), 1.01)
        _over_time(axes, _PERCENT, edges[0], edges[-1])
        if _alarm_of(judged.detector) <= edges[-1]:  # outcomes come late: an alarm may be later than all of these
            _mark_alarm(axes, judged.detector)

    below = int(np.sum(observed < lower))
    said = f"Coverage of class {judged.label} over time against {percent(judged.promised)} promised. "
    said += f"{_ends(observed, 'observed', percent)} {below} of {len(judged.buckets)} stretches lie below the band."
    return picture(name, said, draw)


def evidence(name: str, detector: Detector) -> Markup:
    """A detector's evidence over time against the threshold of its alarm, on a logarithmic scale."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        when = [_number_of(point.at) for point in detector.trail]
        found = np.clip([point.value for point in detector.trail], 1.0, _MOST_SHOWN * detector.threshold)
        axes.plot(when, found, color=COLOURS["current"], marker="o" if len(when) < 4 else "", markersize=4)
        axes.axhline(detector.threshold, color=COLOURS["alarm"], linewidth=1.2, linestyle=(0, (5, 3)))
        axes.set_yscale("log")
        axes.set_ylim(1.0, 4 * max(detector.threshold, float(found.max())))
        axes.yaxis.minorticks_off()
        ends = max(when[-1], _alarm_of(detector))
        room = max(0.0, _LEAST_SHOWN - (ends - when[0])) / 2
        _over_time(axes, _NUMBER, when[0] - room, ends + room)
        _mark_alarm(axes, detector)

    said = f"Evidence over time; now {number(detector.value)}, the alarm is raised at {number(detector.threshold)}."
    return picture(name, said, draw, height=1.7)


def auc(performance: PerformanceHistory) -> Markup:
    """Area under the ROC curve over time with its interval, against training's."""
    found, low, high = (
        _values([getattr(b, part) for b in performance.buckets]) for part in ("auc", "auc_low", "auc_high")
    )

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = _edges([b.start for b in performance.buckets], performance.bucket_s)
        middle = (edges[:-1] + edges[1:]) / 2
        axes.vlines(middle, low, high, color=COLOURS["reference"], linewidth=2.2)
        axes.scatter(middle, found, 20, color=COLOURS["current"], zorder=3)
        _trained(axes, performance.trained_auc)
        axes.margins(y=0.25)
        _over_time(axes, _NUMBER, edges[0], edges[-1])

    return picture("auc", f"Area under the ROC curve over time. {_ends(found, 'area')}", draw)


def brier(performance: PerformanceHistory) -> Markup:
    """Brier score over time against training's."""
    found = _values([b.brier for b in performance.buckets])

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = _edges([b.start for b in performance.buckets], performance.bucket_s)
        axes.scatter((edges[:-1] + edges[1:]) / 2, found, 20, color=COLOURS["current"], zorder=3)
        _trained(axes, performance.trained_brier)
        highest = float(np.nanmax([*found, performance.trained_brier or 0.0], initial=0.0))
        axes.set_ylim(0, highest * 1.2 or 1.0)
        _over_time(axes, _NUMBER, edges[0], edges[-1])

    return picture("brier", f"Brier score over time. {_ends(found, 'score')}", draw)


def expected(name: str, what: str, series: ExpectedSeries, bucket_s: float) -> Markup:
    """A number that labels are expected to show, with its interval, and what they have shown."""
    middle, low, high, realised = (
        _values([getattr(b, part) for b in series.buckets]) for part in ("expected", "low", "high", "realised")
    )
    told = percent if series.measure == "coverage" else number

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        edges = _edges([b.start for b in series.buckets], bucket_s)
        axes.stairs(high, edges, baseline=low, fill=True, color=COLOURS["reference"], alpha=0.45)
        axes.stairs(middle, edges, baseline=None, color=COLOURS["ink"], linewidth=1.2)
        axes.scatter((edges[:-1] + edges[1:]) / 2, realised, 20, color=COLOURS["current"], zorder=3)
        axes.margins(y=0.15)
        _over_time(axes, _PERCENT if series.measure == "coverage" else _NUMBER, edges[0], edges[-1])

    said = f"{what} over time. {_ends(middle, 'expected', told)} {_ends(realised, 'realised', told)}"
    return picture(name, said, draw)


# --- distributions --------------------------------------------------------------------------------------------------


def small_distribution(name: str, shares: Shares) -> Markup:
    """Reference and current distribution at the size of a word."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_axis_off()
        if isinstance(shares, NumberShares):
            _histograms(axes, shares)
        else:
            levels = _shown_levels(shares)
            where = np.arange(len(levels.levels))
            axes.bar(where, levels.reference, 0.85, color=COLOURS["reference"])
            axes.bar(where, levels.current, 0.35, color=COLOURS["current"])

    return picture(name, _distribution_words(shares), draw, width=1.7, height=0.45)


def distribution(name: str, shares: Shares, unit: str = "", width: float = 3.4) -> Markup:
    """Reference and current distribution with their axis."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if isinstance(shares, NumberShares):
            _histograms(axes, shares)
            axes.set(yticks=[], xlabel=drawable(unit, 40))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(_NUMBER)
        else:
            _bars(axes, _shown_levels(shares))

    shown = 0 if isinstance(shares, NumberShares) else len(_shown_levels(shares).levels)
    return picture(name, _distribution_words(shares), draw, width=width, height=max(1.5, 0.4 + 0.22 * shown))


def differences(name: str, pair: ShadowPair) -> Markup:
    """How far the challenger's probabilities lie from the champion's."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.stairs(np.array(pair.counts), np.array(pair.edges), fill=True, color=COLOURS["current"], alpha=0.75)
        axes.axvline(0.0, color=COLOURS["ink"], linewidth=1.0)
        axes.set_xlabel("challenger minus champion")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(_NUMBER)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(_COUNT)
        axes.grid(axis="y")

    said = f"Histogram of differences in probability, {_peak(pair.edges, pair.counts)} most often."
    return picture(name, said, draw)


def _histograms(axes: Axes, shares: NumberShares) -> None:
    """Densities, so that bins of unequal width do not mislead."""
    edges = np.array(shares.edges)
    width = np.diff(edges)
    axes.stairs(np.array(shares.reference) / width, edges, fill=True, color=COLOURS["reference"])
    axes.stairs(np.array(shares.current) / width, edges, color=COLOURS["current"], linewidth=1.6)
    axes.margins(x=0)


def _bars(axes: Axes, shares: LevelShares) -> None:
    where = np.arange(len(shares.levels))[::-1]
    axes.barh(where, shares.reference, 0.8, color=COLOURS["reference"])
    axes.barh(where, shares.current, 0.34, color=COLOURS["current"])
    axes.set_yticks(where, [drawable(level) for level in shares.levels])
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(_PERCENT)


def _shown_levels(shares: LevelShares) -> LevelShares:
    """The most frequent levels of either side, by frequency, and the others together."""
    rows = sorted(zip(shares.levels, shares.reference, shares.current, strict=True), key=lambda r: -max(r[1], r[2]))
    if len(rows) > MOST_LEVELS:
        rest = rows[MOST_LEVELS - 1 :]
        together = (f"{len(rest)} others", sum(r[1] for r in rest), sum(r[2] for r in rest))
        rows = [*rows[: MOST_LEVELS - 1], together]
    levels, reference, current = zip(*rows, strict=True) if rows else ((), (), ())
    return LevelShares(levels, reference, current)


def _distribution_words(shares: Shares) -> str:
    if isinstance(shares, LevelShares):
        rows = zip(*(getattr(_shown_levels(shares), part) for part in ("levels", "reference", "current")), strict=True)
        told = "; ".join(f"{level} {percent(before)}, now {percent(now)}" for level, before, now in rows)
        return f"Shares of levels, reference and now: {told}"
    peaks = (_peak(shares.edges, part) for part in (shares.reference, shares.current))
    return "Histogram: the reference is densest {}, now {}".format(*peaks)


def _peak(edges: Sequence[float], shares: Sequence[float]) -> str:
    if not any(shares):
        return "nowhere"
    top = int(np.argmax(np.array(shares) / np.diff(np.array(edges))))
    return f"from {number(edges[top])} to {number(edges[top + 1])}"


# --- common ---------------------------------------------------------------------------------------------------------


def _edges(starts: Sequence[datetime], bucket_s: float) -> FloatArray:
    """Where buckets begin and the last one ends, shape (n + 1,), in matplotlib's days."""
    ends = [*starts, *(start + timedelta(seconds=bucket_s) for start in starts[-1:])]
    return np.array([_number_of(at) for at in ends])


def _number_of(at: datetime) -> float:
    return float(dates.date2num(at))  # type: ignore[no-untyped-call]  # matplotlib.dates has no annotations


def _values(found: Sequence[float | None]) -> FloatArray:
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def _over_time(axes: Axes, values: FuncFormatter, since: float, until: float) -> None:
    locator = dates.AutoDateLocator(minticks=3, maxticks=6)  # type: ignore[no-untyped-call]  # as above
    axes.xaxis.set_major_locator(locator)
    shown = dates.ConciseDateFormatter(  # type: ignore[no-untyped-call]  # as above
        locator, formats=_DATES, zero_formats=_FIRST_DATES, show_offset=False
    )
    axes.xaxis.set_major_formatter(shown)
    axes.yaxis.set_major_formatter(values)
    axes.grid(axis="y")
    axes.set_xlim(since, until)


def _alarm_of(detector: Detector | None) -> float:
    return -np.inf if detector is None or detector.alarm_at is None else _number_of(detector.alarm_at)


def _mark_alarm(axes: Axes, detector: Detector | None) -> None:
    at = _alarm_of(detector)
    if np.isinf(at):
        return
    axes.axvline(at, color=COLOURS["alarm"], linewidth=1.2)
    left = at > np.mean(axes.get_xlim())
    axes.annotate(
        "alarm",
        (at, 1.0),
        (-4 if left else 4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        color=COLOURS["alarm"],
    )


def _trained(axes: Axes, value: float | None) -> None:
    if value is not None:
        axes.axhline(value, color=COLOURS["ink"], linewidth=1.0, linestyle=(0, (5, 3)))


def _ends(values: FloatArray, what: str, told: Callable[[float], str] = number) -> str:
    known = values[~np.isnan(values)]
    return (
        f"{what}: {told(float(known[0]))} first, {told(float(known[-1]))} last."
        if known.size
        else f"{what}: not known."
    )
