"""docs/reference/cli.md: every verb and sub-verb, its usage, what it does, its options and an example."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import click

from ml_core.cli.main import VERBS, surety
from scripts.docs.markdown import anchor, cell, code, table

__all__ = ["commands", "render"]

_HEAD = """# Commands

Made from the commands' own help by `make docs`; do not edit.

Results go to stdout, as a table on a terminal and as JSON elsewhere (`--output table|json`); notes and progress go to
stderr. Every command has `--help`. Exit status: 0 done, 1 failed, 2 wrong usage, 3 the answer is no
(for example, the gate refused the model). Environment variables are in [settings](settings.md).
"""

Path = tuple[str, ...]


def commands(group: click.Command = surety, path: Path = ()) -> Iterator[tuple[Path, click.Command]]:
    """Every command below a group, groups included, by the words that run it."""
    if not isinstance(group, click.Group):
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None:
            yield (*path, name), command
            yield from commands(command, (*path, name))


def render() -> str:
    """The whole page."""
    verbs = [(f"[`surety {name}`](#{anchor(f'surety {name}')})", cell(text)) for name, (_, text) in VERBS.items()]
    sections = [_section(path, command) for path, command in commands()]
    return "\n".join((_HEAD, table(("verb", "does"), verbs), *sections))


def _section(path: Path, command: click.Command) -> str:
    name = f"surety {' '.join(path)}"
    context = click.Context(command, info_name=name, show_default=True)
    told, examples = _help(command)
    parts = [f"{'#' * (len(path) + 1)} {name}", f"`{name} {' '.join(command.collect_usage_pieces(context))}`", told]
    if examples:
        parts.append("\n".join(("```sh", *examples, "```")))
    options = [_option(param, context) for param in command.params if isinstance(param, click.Option)]
    if options:
        parts.append(table(("option", "meaning", "default", "allowed"), options).rstrip())
    return "\n\n".join(parts) + "\n"


def _help(command: click.Command) -> tuple[str, list[str]]:
    """What a command's help tells, and the commands of its examples, with what is said of them as comments."""
    told, _, shown = inspect.cleandoc(command.help or "").partition("\b\n")
    lines = [line.strip().partition(": ") for line in shown.splitlines() if line.strip()]
    return told.strip(), [line if word == "Example" else f"{line}  # {word}" for word, _, line in lines]


def _option(option: click.Option, context: click.Context) -> tuple[str, str, str, str]:
    """One row. Where a default stands in no words of ours, click knows it, and says so at the end of its own help."""
    names = ", ".join((*option.opts, *option.secondary_opts))
    takes = "" if option.is_flag else f" {option.metavar or _TAKES.get(option.type.name, option.type.name.upper())}"
    meaning, _, told = (option.help or "").removesuffix(".").removesuffix(")").partition(" (default: ")
    shown = re.search(r"\[default: (.*?)(; [^\]]*)?\]$", (option.get_help_record(context) or ("", ""))[1])
    default = "required" if option.required else told or (code(shown[1].strip('"')) if shown else "")
    meaning = f"{meaning}." if told else option.help or ""
    return code(names + takes), cell(meaning), cell(default), _allowed(option.type)


_TAKES = {"integer range": "INTEGER", "float range": "FLOAT", "choice": "CHOICE", "datetime": "DAY"}


def _allowed(kind: click.ParamType[Any]) -> str:
    if isinstance(kind, click.Choice):
        return ", ".join(map(code, kind.choices))
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    low = "" if kind.min is None else f"{'above ' if kind.min_open else ''}{kind.min:,}"
    high = "" if kind.max is None else f"{'below' if kind.max_open else 'to'} {kind.max:,}"
    return f"{low}{' or more' if low and not high and not kind.min_open else ''} {high}".strip()
