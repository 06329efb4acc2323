"""The pages of docs/reference/ are what the code says."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.docs.__main__ import FOLDER, PAGES, command, stale


@pytest.mark.parametrize("name", PAGES)
def test_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


def test_every_page_in_the_folder_is_made() -> None:
    assert {page.name for page in FOLDER.iterdir()} == set(PAGES)


def test_page_that_differs_is_found_and_written_anew(tmp_path: Path) -> None:
    for name, render in PAGES.items():
        (tmp_path / name).write_text(render(), encoding="utf-8")
    (tmp_path / "cli.md").write_text("something else")
    assert stale(tmp_path) == ["cli.md"]
    run = partial(CliRunner().invoke, command)
    assert run(["--folder", str(tmp_path), "--check"]).exit_code == 3
    assert (tmp_path / "cli.md").read_text() == "something else"
    assert run(["--folder", str(tmp_path)]).exit_code == 0
    assert run(["--folder", str(tmp_path), "--check"]).exit_code == 0
