"""What commands print: for people in tables, for programs as JSON."""

import json

from ml_core.cli.output import emit

RULES = [
    {
        "rule": "calibration_same_law_class_malignant",
        "value": 0.121175,
        "limit": 0.0025,
        "verdict": "pass",
        "note": "a" * 60,
    },
    {"rule": "coverage", "value": None, "limit": None, "verdict": "FAIL", "note": ""},
]


def test_rows_inside_a_result_stand_below_it_with_the_room_of_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    emit({"model": "m", "passed": True, "rules": RULES}, "table")
    lines = capsys.readouterr().out.splitlines()
    told = next(line for line in lines if "calibration_same_law_class_malignant" in line)
    assert "0.121175" in told
    assert lines.index(told) > next(i for i, line in enumerate(lines) if "passed" in line)
    assert "rules" in lines


def test_values_that_are_no_rows_stay_beside_their_name(capsys):
    emit({"aliases": ["challenger"], "failed_rules": [], "rows": {"train": 3}}, "table")
    out = capsys.readouterr().out
    assert '["challenger"]' in out
    assert '{"train": 3}' in out


def test_json_is_whole_whatever_the_width(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    emit({"rules": RULES}, "json")
    assert json.loads(capsys.readouterr().out) == {"rules": RULES}
