"""Every command, with each of its options, is on the page of commands."""

from __future__ import annotations

import click
import pytest

from scripts.docs.commands import commands, render

PAGE = render()
FOUND = dict(commands())


def section(path: tuple[str, ...]) -> str:
    heading = f"{'#' * (len(path) + 1)} surety {' '.join(path)}\n"
    return PAGE.partition(f"\n{heading}")[2].partition("\n##")[0]


@pytest.mark.parametrize("path", FOUND, ids=" ".join)
def test_every_option_is_in_the_section_of_its_command(path: tuple[str, ...]) -> None:
    told = section(path)
    assert told
    for param in FOUND[path].params:
        if isinstance(param, click.Option):
            assert all(name in told for name in param.opts), param.name
            assert not param.required or "| required |" in told


@pytest.mark.parametrize("path", [p for p, c in FOUND.items() if not isinstance(c, click.Group)], ids=" ".join)
def test_every_command_has_a_usage_and_an_example(path: tuple[str, ...]) -> None:
    told = section(path)
    name = f"surety {' '.join(path)}"
    assert f"`{name} [OPTIONS]" in told
    example = told.partition("```sh\n")[2].partition("\n```")[0]
    assert name in example
    assert "Example:" not in told


def rows(*options: click.Option) -> list[str]:
    from scripts.docs.commands import _section

    @click.command(params=list(options))
    def verb() -> None:
        """A verb."""

    return [line for line in _section(("verb",), verb).splitlines() if line.startswith("| `")]


def test_options_are_told_with_default_range_and_choices() -> None:
    assert rows(
        click.Option(["--share"], type=click.FloatRange(0, 1, min_open=True), default=0.1, help="How much."),
        click.Option(["--at-least"], type=click.IntRange(1), help="How many (default: as many as there are)."),
        click.Option(["--rule"], type=click.Choice(["a", "b"]), required=True, help="Which | one."),
        click.Option(["--dry-run"], is_flag=True, help="Do nothing."),
        click.Option(["--why"], default="", help="For the journal."),
    ) == [
        "| `--share FLOAT` | How much. | `0.1` | above 0 to 1 |",
        "| `--at-least INTEGER` | How many. | as many as there are | 1 or more |",
        "| `--rule CHOICE` | Which \\| one. | required | `a`, `b` |",
        "| `--dry-run` | Do nothing. |  |  |",
        "| `--why TEXT` | For the journal. |  |  |",
    ]
