"""What commands print: results on stdout as a table or JSON, notes and progress on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from ml_core.serve.model.promotion_record import RuleVerdict

F = TypeVar("F", bound=Callable[..., Any])


__all__ = [
    "emit",
    "note",
    "nothing_there",
    "one_line",
    "output_option",
    "picked",
    "plain",
    "progress",
    "refusals",
    "refuse",
    "rules_table",
]

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""What a terminal obeys instead of showing it, reorders text, or cannot be written: all but tab and line feed."""
_LONGEST_LINE = 2_000


def plain(text: str) -> str:
    """The text with control characters written as ``\\u001b``, as JSON writes them."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    """The same in one line of bounded length."""
    line = " ".join(plain(text).split("\n"))
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"


def output_option(command: F) -> F:
    """``--output table|json``; JSON unless stdout is a terminal."""
    return click.option(
        "--output",
        type=click.Choice(["table", "json"]),
        default=None,
        callback=lambda _context, _option, value: value or ("table" if sys.stdout.isatty() else "json"),
        help="Form of the result; json unless stdout is a terminal.",
    )(command)


def emit(result: Mapping[str, Any] | Sequence[Mapping[str, Any]], output: str) -> None:
    """Print a result: one object, or a list of objects with the same keys."""
    if output == "json":
        click.echo(plain(json.dumps(result, indent=2, ensure_ascii=False, default=str)))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, soft_wrap=True, markup=False, emoji=False)
    if isinstance(result, Mapping):
        table = Table(show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        below = {key: value for key, value in result.items() if _is_rows(value)}
        for key, value in result.items():
            if key not in below:
                table.add_row(_cell(key), _cell(value))
        console.print(table)
        for key, rows in below.items():  # a table of its own: inside a cell its columns would be a few letters wide
            console.print(_cell(key), style="bold")
            console.print(_rows(rows))
    else:
        console.print(_rows(result) if result else "nothing to show")


def note(text: str) -> None:
    """Say something to the person in front, on stderr."""
    click.echo(plain(text), err=True)


def picked(thing: Any, *names: str) -> dict[str, Any]:
    """Those attributes of a thing, by name and in that order, as a part of a result."""
    return {name: getattr(thing, name) for name in names}


def nothing_there(text: str) -> NoReturn:
    """Say that there was nothing to look at, which is neither a yes nor a no, and end with exit status 4."""
    note(f"surety: {text}")
    raise SystemExit(4)


def refuse(text: str) -> NoReturn:
    """Say why the answer is no, and end the verb with exit status 3."""
    note(text)
    raise SystemExit(3)


@contextmanager
def progress(what: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr, silent when stderr is no terminal; yields a function that advances it."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda step: bar.advance(task, step)


def refusals(failed: Sequence[RuleVerdict]) -> str:
    """The rules that said no, by name in the first line, then one by one with numbers and what to do."""
    from ml_core.lab.judging.rule_advice import refusal

    return "\n".join([f"refused by: {', '.join(rule.rule for rule in failed)}", *map(refusal, failed)])


def rules_table(rules: Sequence[RuleVerdict]) -> list[dict[str, Any]]:
    """Rules of a gate or a promotion as rows of a result."""
    return [
        {"rule": r.rule, "value": r.value, "limit": r.limit, "verdict": "pass" if r.passed else "FAIL", "note": r.note}
        for r in rules
    ]


def _is_rows(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)


def _rows(rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(_cell(column), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping | list | tuple):
        return plain(json.dumps(value, ensure_ascii=False, default=str))
    return plain(str(value))
