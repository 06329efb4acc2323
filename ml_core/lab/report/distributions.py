"""Pictures of distributions: a feature or score beside its reference, and differences between two models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ml_core.lab.report.facts import LevelShares, NumberShares, ShadowPair, Shares
from ml_core.lab.report.formats import count, number, percent
from ml_core.lab.report.svg import COLOURS, picture, plain

__all__ = ["MOST_LEVELS", "differences", "distribution", "small_distribution"]

MOST_LEVELS = 8
"""Levels of a category that a picture shows; the rest are drawn as one."""

_PERCENT = FuncFormatter(lambda share, _: percent(share))
_COUNT = FuncFormatter(lambda value, _: count(value))
_NUMBER = FuncFormatter(lambda value, _: number(value))


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
            axes.set(yticks=[], xlabel=plain(unit, 40))
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
    axes.set_yticks(where, [plain(level) for level in shares.levels])
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
