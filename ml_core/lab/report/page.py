"""The report as one self-contained page, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ml_core.base.clock import utc_text
from ml_core.base.documents import Document
from ml_core.base.errors import DataError
from ml_core.base.files import written_for_user
from ml_core.lab.report import formats, plots, plots_groups
from ml_core.lab.report.facts import ReportFacts
from ml_core.lab.report.facts_drift import Drift, FeatureDrift
from ml_core.lab.report.facts_outcomes import GroupOutcomes
from ml_core.lab.report.status_words import ReportStatus, class_words, key_figures, no_outcomes, status_of

__all__ = ["Written", "report_json", "report_page", "write_page"]

_NO_BREAK = "\N{NO-BREAK SPACE}"
_TEMPLATE = "report.html.jinja"
_LIMITS = {"large": 6, "steady": 12, "buckets": 400, "journal": 100, "transitions": 100, "files": 60}
"""How many of each the page shows at once; ``steady`` features are folded away beyond that. The JSON has all."""


@dataclass(frozen=True, slots=True)
class Written:
    """The files of a report, its status, and the size of its page, bytes."""

    page: Path
    json: Path
    status: ReportStatus
    bytes: int


def write_page(facts: ReportFacts, page: Path, json: Path) -> Written:
    """Write the page and its JSON form, each whole or not at all.

    Raises
    ------
    DataError
        A file cannot be written, or both have one name.
    """
    if page.absolute() == json.absolute():
        raise DataError(str(page), "is to be the page and its JSON form: give --out and --json different names")
    content = report_page(facts).encode()
    _write(page, content)
    _write(json, report_json(facts))
    return Written(page, json, status_of(facts), len(content))


def report_page(facts: ReportFacts) -> str:
    """The page: HTML with its style and pictures inside, no script, nothing fetched. Same facts, same text."""
    context: Mapping[str, Any] = {
        "facts": facts,
        "status": status_of(facts),
        "figures": key_figures(facts),
        "pressing": _by_size(facts.drift, steady=False),
        "steady": _by_size(facts.drift, steady=True),
        "no_outcomes": no_outcomes(facts),
        "limits": _LIMITS,
    }
    return _environment().get_template(_TEMPLATE).render(context)


def report_json(facts: ReportFacts) -> bytes:
    """All facts under the names of their fields, and the status; moments as everywhere else (``…Z``), UTF-8."""
    options = (
        orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_SERIALIZE_NUMPY
    )
    return orjson.dumps({"status": status_of(facts), "facts": facts}, default=_plain, option=options)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"plots": plots, "plots_groups": plots_groups, "class_words": class_words}
    environment.filters |= {name: getattr(formats, name) for name in formats.__all__ if name != "NOT_KNOWN"}
    environment.filters |= {
        "bands": _bands,
        "by_grouping": _by_grouping,
        "breakable": _breakable,
        "iso": utc_text,
        "percent": _percent,
        "with_code": _with_code,
    }
    return environment


def _write(path: Path, content: bytes) -> None:
    with written_for_user(path) as draft:
        draft.write_bytes(content)


def _percent(share: float | None, digits: int = 1) -> str:
    return formats.percent(share, digits).replace(" ", _NO_BREAK)


def _by_size(drift: Drift | None, *, steady: bool) -> list[FeatureDrift]:
    """Features that were tested and found unchanged, or all others: drifted, then warned, then not judged ones."""

    def place(feature: FeatureDrift) -> tuple[bool, bool, float, str]:
        size = feature.statistic if feature.shift_sd is None else feature.shift_sd
        return not feature.is_drifted, not feature.is_warned, -abs(size or 0.0), feature.name

    def is_steady(feature: FeatureDrift) -> bool:
        return feature.is_tested and not feature.is_drifted and not feature.is_warned

    return sorted((f for f in (drift.features if drift else ()) if is_steady(f) == steady), key=place)


def _bands(quantiles: Sequence[float]) -> str:
    """The bands that quantiles on either side of the median span, the widest first."""
    pairs = zip(quantiles, reversed(quantiles[len(quantiles) // 2 + 1 :]), strict=False)
    return ", ".join(f"{_percent(low)} to {_percent(high)}" for low, high in pairs)


def _by_grouping(cells: Sequence[GroupOutcomes]) -> list[tuple[str, list[GroupOutcomes]]]:
    """The cells of each grouping, with its name, in the order of the configuration."""
    return [(name, list(found)) for name, found in groupby(cells, lambda cell: cell.grouping)]


def _breakable(name: str) -> Markup:
    """A name that may be broken after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def _with_code(text: str) -> Markup:
    """The text escaped, with the parts between backquotes as code."""
    split = text.replace(" %", f"{_NO_BREAK}%").split("`")
    parts = [Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(split)]
    return Markup("").join(parts)


def _plain(value: object) -> Any:
    """What orjson does not know: moments as text, and documents of other rooms as their fields."""
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, Document):
        return value.model_dump()
    raise TypeError(f"{type(value).__name__} is no part of a report")
