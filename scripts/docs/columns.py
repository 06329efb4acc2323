"""docs/reference/columns.md: every raw column and every column of the matrix, version by version."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from ml_core.features.columns import Column
from ml_core.lab.data import cohort, diabetes130
from ml_core.serve.features.column_rules import OPTIONAL_ROLES
from ml_core.serve.features.versions import FeatureVersion, get_feature_version, known_versions
from scripts.docs.markdown import cell, code, prose, table

__all__ = ["render"]

_LEVELS_IN_TABLE = 10

_HEAD = """# Columns

Made from the column tables in `ml_core/serve/features/` by `make docs`; do not edit.

From one table per feature version come the pandera schema of training tables, the strict record of requests, the JSON
schema in OpenAPI, and this page. What a value may be:

* A whole number may be written `45` or `45.0`, not `45.7`, `"45"` or `true`. NaN and infinities are refused.
* A nullable column may be null or left out of a request. Id, group and time columns are optional in a request, never
  reach a transform, and are kept out of hashes and logs. The label is refused in a request.
* A text must fit its pattern as a whole. Fields that are not in the table are refused.
* A training table must have every column except ids and times, a group in every row, and no id twice. CSV cells are
  typed first (an empty cell is null), then the same rules hold.
"""


def render() -> str:
    """The whole page."""
    parts = [_HEAD]
    for name in known_versions():
        parts.extend(_version(get_feature_version(name)))
    parts.append("## Data\n")
    parts.extend(f"{prose(module.__doc__ or '')}\n" for module in (cohort, diabetes130))
    parts.append(
        f"sha256 of the published `diabetic_data.csv` with CRLF line ends: `{diabetes130.PUBLISHED_CSV_SHA256}`; the "
        "same with its rows in order of `encounter_id`, for containers that lost their order: "
        f"`{diabetes130.REORDERED_CSV_SHA256}`. `surety data fetch` refuses anything else unless told otherwise.\n"
    )
    return "\n".join(parts)


def _version(version: FeatureVersion) -> Iterator[str]:
    module = importlib.import_module(f"ml_core.serve.features.{version.name}")
    story = prose(module.__doc__ or "")
    headline, _, rest = story.partition("\n\n")
    yield f"## {version.name}\n"
    yield f"{headline}\n"
    yield f"{rest.strip()}\n" if rest else ""
    yield "### Raw columns\n"
    yield table(("column", "role", "type", "unit", "allowed", "null", "meaning"), [_raw(c) for c in version.columns])
    for column in version.columns:
        if len(column.levels) > _LEVELS_IN_TABLE:
            yield f"`{column.name}` is one of: {', '.join(map(code, column.levels))}.\n"
    yield f"### Matrix, {len(version.feature_names)} columns of float32\n"
    rows = zip(range(len(version.feature_names)), version.feature_names, module.FEATURE_DOCS, strict=True)
    yield table(("#", "column", "holds"), [(str(i), code(name), cell(doc)) for i, name, doc in rows])


def _raw(column: Column) -> tuple[str, ...]:
    return (
        code(column.name),
        column.role,
        column.dtype,
        column.unit,
        _allowed(column),
        "yes" if column.nullable or column.role in OPTIONAL_ROLES else "no",
        cell(column.doc),
    )


def _allowed(column: Column) -> str:
    if column.levels:
        if len(column.levels) > _LEVELS_IN_TABLE:
            return f"{len(column.levels)} values, below"
        return ", ".join(map(code, column.levels))
    if column.pattern:
        return code(column.pattern)
    if column.dtype == "datetime":
        return "ISO 8601, 1900 to 2199"
    return f"{column.low:.16g} to {column.high:.16g}"
