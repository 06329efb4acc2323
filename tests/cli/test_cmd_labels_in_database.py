"""labels typed on two machines of one service: what one has brought in, the other knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ml_core.lab.data.table_frames import write_table
from tests.serve.log.labelled import rid, text_of

FILE = "outcomes.csv"


@pytest.fixture
def on(
    run: Callable[..., Any], tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Types a command on the machine of that name."""
    write_table(pd.DataFrame({"request_id": [text_of(n) for n in range(4)], "label": [0, 1, 0, 1]}), tmp_path / FILE)
    monkeypatch.setenv("SURETY_DATABASE", database_url)
    for kind in ("LOG", "SUBJECT"):  # all machines have the same keys
        (tmp_path / f"{kind}.key").write_text("1f" * 32, encoding="ascii")
        monkeypatch.setenv(f"SURETY_{kind}_KEY_FILE", str(tmp_path / f"{kind}.key"))

    def typed(machine: str, *arguments: str) -> Any:
        monkeypatch.setenv("SURETY_HOME", str(tmp_path / machine))
        return run(*arguments)

    return typed


def test_a_table_that_was_brought_in_once_is_known_everywhere(on: Callable[..., Any], tmp_path: Path) -> None:
    told = on("a", "labels", "import", FILE, "--source", "office")
    assert (told.code, told.result["unknown"]) == (0, 4)
    again = on("b", "labels", "import", FILE)
    assert (again.code, again.result["unknown"], again.result["duplicate"]) == (0, 0, 4)
    shown = on("b", "labels", "show", text_of(1))
    assert (shown.code, shown.result["label"]) == (0, 1)
    assert [each["source"] for each in shown.result["history"]] == ["office"]
    assert not list(tmp_path.glob("*/labels/*.db"))


def test_another_model_has_none_of_them(on: Callable[..., Any]) -> None:
    on("a", "labels", "import", FILE)
    assert on("a", "labels", "show", text_of(1), "--model", "another").result["label"] is None


def test_a_correction_from_another_machine_holds(on: Callable[..., Any], tmp_path: Path) -> None:
    on("a", "labels", "import", FILE)
    write_table(pd.DataFrame({"request_id": [text_of(1)], "label": [0]}), tmp_path / "later.csv")
    assert on("b", "labels", "import", "later.csv").result["conflict"] == 1
    shown = on("a", "labels", "show", text_of(1)).result
    assert (shown["label"], [each["label"] for each in shown["history"]]) == (0, [1, 0])


def test_a_database_that_is_away_stores_nothing_and_says_so_in_one_line(
    on: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml_core.serve.home import postgres

    monkeypatch.setattr(postgres, "_WAIT_S", 0.2)
    monkeypatch.setenv("SURETY_DATABASE", "postgresql://surety:s3cret@127.0.0.1:9/home")
    told = on("a", "labels", "import", FILE)
    assert (told.code, told.out) == (1, "")
    assert "s3cret" not in told.err
    assert rid(1).hex() not in told.err
