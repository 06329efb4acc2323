"""Files are held against dvc.lock byte for byte, whatever DVC thinks of them."""

from __future__ import annotations

import hashlib
import json

import pytest
import yaml
from click.testing import CliRunner

from scripts.data_check import command


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stages = {}
    for name in ("data/rows.parquet", "gate.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode() * 1_000)
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        stages[path.stem] = {"cmd": "make it", "outs": [{"path": name, "hash": "md5", "md5": md5}]}
    stages["last"] = {"cmd": "look at it", "deps": [{"path": "gate.json"}]}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
    return tmp_path


def checked():
    done = CliRunner().invoke(command, ["--output", "json"])
    return done.exit_code, [row["state"] for row in json.loads(done.stdout)], done.stderr


def test_files_as_they_were_are_as_named(place):
    assert checked() == (0, ["as named", "as named"], "")


@pytest.mark.parametrize("position", [0, 8_000, -1])
def test_one_changed_byte_is_another_file(place, position):
    raw = bytearray((place / "data" / "rows.parquet").read_bytes())
    raw[position] ^= 1
    (place / "data" / "rows.parquet").write_bytes(raw)
    code, states, said = checked()
    assert (code, states) == (3, ["another", "as named"])
    assert "data/rows.parquet" in said


def test_what_is_not_there_is_missing(place):
    (place / "gate.json").unlink()
    assert checked()[:2] == (3, ["as named", "missing"])


def test_without_a_lock_nothing_is_versioned_yet(place):
    (place / "dvc.lock").unlink()
    done = CliRunner().invoke(command)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "make repro" in done.stderr
