"""Pictures of a report on groups of patients and on reliability: a line for each group, a dot for each bin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ml_core.lab.report.facts_outcomes import GroupClass, GroupOutcomes, Reliability
from ml_core.lab.report.formats import number, percent
from ml_core.lab.report.svg import COLOURS, drawable, picture

__all__ = ["group_coverage", "group_slopes", "reliability"]

_PERCENT = FuncFormatter(lambda share, _: percent(share))
_NUMBER = FuncFormatter(lambda value, _: number(value))
_DASHED = (0, (5, 3))
_FEW = "too few subjects"


def group_coverage(name: str, cells: Sequence[GroupOutcomes], label: str, level: float) -> Markup:
    """Coverage of one class in each group against its band and the level; below its band it is marked by shape, too."""
    found = [next(c for c in cell.classes if c.label == label) for cell in cells]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _lines(axes, [cell.cell for cell in cells])
        is_promised = any(cell.is_promised for cell in cells)
        axes.axvline(level, color=COLOURS["ink"], linewidth=1.0, linestyle="-" if is_promised else _DASHED)
        for at, each in enumerate(found):
            _covered(axes, at, each)
        shares = [share for each in found for share in (each.observed, each.lower) if share is not None]
        axes.set_xlim(max(0.0, min([*shares, level]) - 0.05), 1.01)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(_PERCENT)
        _say_few(axes, [at for at, each in enumerate(found) if each.observed is None])

    told = "; ".join(
        f"{cell.cell} {_FEW if each.observed is None else percent(each.observed)}"
        for cell, each in zip(cells, found, strict=True)
    )
    return picture(name, f"Coverage of class {label} by group: {told}", draw, height=_height(len(cells)))


def group_slopes(name: str, cells: Sequence[GroupOutcomes]) -> Markup:
    """Calibration slope in each group with its interval; 1 is right."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _lines(axes, [cell.cell for cell in cells])
        axes.axvline(1.0, color=COLOURS["ink"], linewidth=1.0)
        for at, cell in enumerate(cells):
            if cell.slope is not None:
                axes.hlines(at, cell.slope.lower, cell.slope.upper, color=COLOURS["reference"], linewidth=2.2)
                axes.scatter(cell.slope.value, at, 22, color=COLOURS["current"], zorder=3)
        axes.margins(x=0.08)
        _say_few(axes, [at for at, cell in enumerate(cells) if cell.slope is None])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(_NUMBER)

    told = "; ".join(f"{c.cell} {'not known' if c.slope is None else number(c.slope.value)}" for c in cells)
    return picture(name, f"Calibration slope by group: {told}", draw, height=_height(len(cells)))


def reliability(found: Reliability) -> Markup:
    """Predicted beside observed shares; on the diagonal probabilities mean what they say."""
    predicted, observed = ([getattr(point, part) for point in found.points] for part in ("predicted", "observed"))
    rows = np.array([point.n for point in found.points], dtype=np.float64)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        top = min(1.0, 1.08 * max([*predicted, *observed, 0.01]))
        axes.plot([0, top], [0, top], color=COLOURS["ink"], linewidth=1.0)
        error = np.sqrt(np.array(observed) * (1.0 - np.array(observed)) / rows)
        axes.vlines(
            predicted, np.array(observed) - error, np.array(observed) + error, color=COLOURS["reference"], linewidth=2.2
        )
        axes.plot(predicted, observed, color=COLOURS["current"], linewidth=1.0, marker="o", markersize=4.5)
        axes.set(xlim=(0, top), ylim=(0, top), xlabel="predicted", ylabel="observed")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(4))
            axis.set_major_formatter(_PERCENT)
        axes.grid(axis="y")

    told = "; ".join(f"{percent(p)} predicted, {percent(o)} observed" for p, o in zip(predicted, observed, strict=True))
    return picture("reliability", f"Reliability of P({found.label}): {told}", draw, height=2.6)


def _covered(axes: Axes, at: int, found: GroupClass) -> None:
    if found.observed is None or found.lower is None or found.upper is None:
        return
    axes.barh(at, found.upper - found.lower, 0.5, left=found.lower, color=COLOURS["reference"], alpha=0.6)
    is_below = found.observed < found.lower
    colour, shape = (COLOURS["alarm"], "v") if is_below else (COLOURS["current"], "o")
    axes.scatter(found.observed, at, 36 if is_below else 24, color=colour, marker=shape, zorder=3)


def _lines(axes: Axes, names: Sequence[str]) -> None:
    """A line for each name, the first on top."""
    axes.set_yticks(range(len(names)), [drawable(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x")


def _say_few(axes: Axes, lines: Sequence[int]) -> None:
    """Why nothing is on these lines, beside the left end of the axis."""
    for at in lines:
        axes.annotate(
            _FEW, (0.0, at), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
            fontsize=9.0,
        )  # fmt: skip


def _height(lines: int) -> float:
    """Inches."""
    return 0.5 + 0.26 * lines
