"""Writes the pages of docs/reference/ (`make docs`), or says which are not as they would be written (`--check`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from scripts.docs import chart, columns, commands, configuration, routes, settings

__all__ = ["FOLDER", "PAGES", "command", "stale"]

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGES: Mapping[str, Callable[[], str]] = {
    "http.md": routes.render,
    "cli.md": commands.render,
    "settings.md": settings.render,
    "configuration.md": configuration.render,
    "columns.md": columns.render,
    "chart.md": chart.render,
}


def stale(folder: Path) -> list[str]:
    """Pages in that folder that are not what the code says now."""
    return [name for name, render in PAGES.items() if _written(folder / name) != render()]


def _written(page: Path) -> str:
    return page.read_text(encoding="utf-8") if page.exists() else ""


@click.command(name="docs")
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, help="Where the pages are.")
@click.option("--check", is_flag=True, help="Write nothing; exit status 3 if a page is not current.")
def command(folder: Path, *, check: bool) -> None:
    """Write the reference pages that are made from the code.

    \b
    Example: python -m scripts.docs --check
    """
    found = stale(folder)
    for name in found:
        click.echo(f"{folder / name}{' is not current: run make docs' if check else ''}", err=True)
        if not check:
            (folder / name).write_text(PAGES[name](), encoding="utf-8")
    if check and found:
        raise SystemExit(3)


if __name__ == "__main__":
    command()
