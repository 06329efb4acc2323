"""The monitor of one service on many machines: what it finds is what it finds in files, and a look is whole or has not been."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_core.base.errors import HomeUnreachable
from ml_core.lab.watching.ledger import Ledger, open_ledger_tables
from ml_core.serve.home.homes import open_home
from tests.lab.watching.ward import HORIZON_DAYS, Ward, unforeseen
from tests.postgres import Server

Opening = Callable[[str], Ward]


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Opening]:
    opened: list[Ward] = []

    def ward(url: str) -> Ward:
        keys = {}
        for kind in ("log", "subject"):
            file = tmp_path / f"{kind}.key"
            file.write_text("1f" * 32, encoding="ascii")
            keys[f"{kind}_key_file"] = file
        folder = tmp_path / ("database" if url else "folder")
        folder.mkdir()
        opened.append(Ward(folder, database=url, **keys))
        return opened[-1]

    yield ward
    for each in opened:
        each.close()


def lived(ward: Ward) -> None:
    """A fortnight in which coverage is lost, with its outcomes."""
    ward.look()
    for day in range(3):
        ward.answer(unforeseen(150, seed=1_000 + day))
        ward.pass_days(1)
        ward.look()
    ward.pass_days(HORIZON_DAYS)


def known(ward: Ward) -> dict[str, Any]:
    """What the ledger holds that hangs on no random id, and so on no order of answers of one moment."""
    settings, model_hash = ward.home.settings, ward.home.hash_of(ward.home.v1)
    with Ledger.reading(open_ledger_tables(settings, settings.model_name)) as ledger:
        assert ledger is not None
        return {
            "detectors": {
                name: (state.get("labels"), state.get("misses"), since is None)
                for name, (state, since) in ledger.detectors(model_hash).items()
            },
            "matured": sorted((r.at_us, r.p_values, r.label, r.missed) for r in ledger.matured(model_hash)),
            "due": ledger.outcomes.cells(model_hash, (0, 1), 0, 1 << 40),
            "latest": [ledger.latest_misses(model_hash, label, 1_000) for label in ("0", "1", None)],
            "waiting": ledger.count_waiting(),
        }


def raised(ward: Ward) -> list[str]:
    entries = open_home(ward.home.settings).journal.entries()
    return [entry["alarm"] for entry in entries if entry["event"] == "alarm.raised"]


def test_what_is_found_is_what_is_found_in_files(opening: Opening, database_url: str) -> None:
    wards = [opening(""), opening(database_url)]
    for ward in wards:
        lived(ward)
        ward.look()
        ward.look()
        assert raised(ward) == ["coverage:1"]
    in_files, in_database = map(known, wards)
    assert in_database == in_files
    assert len(in_files["matured"]) == 450
    assert not list((wards[1].home.settings.home / "monitor").glob("*.db"))


def test_a_look_in_which_the_database_goes_away_has_not_been(
    opening: Opening, database_url: str, database_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward = opening(database_url)
    lived(ward)
    before = known(ward)
    whole = Ledger.add_matured

    def goes_away(ledger: Ledger, rows: Any) -> None:
        whole(ledger, rows)
        database_server.end_sessions(database_url)

    with monkeypatch.context() as away:
        away.setattr(Ledger, "add_matured", goes_away)
        with pytest.raises(HomeUnreachable):
            ward.look()
    assert known(ward) == before
    ward.look()
    assert raised(ward) == ["coverage:1"]
    assert len(known(ward)["matured"]) == 450
