"""plan as a person types it."""

from __future__ import annotations

import pytest

from ml_core.lab.measuring import coverage_plan


@pytest.fixture(autouse=True)
def few_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_plan, "_STREAMS", 5)


def test_a_plan_tells_both_classes_and_what_promises_need(run):
    told = run("plan", "--rows", "20000", "--class-share", "0.11")
    assert told.code == 0
    assert [(cell["of"], cell["calibration_rows"]) for cell in told.result["cells"]] == [
        ("class", 440),
        ("others", 3560),
    ]
    assert told.result["cells"][0]["refused_at_0.85"] == pytest.approx(0.364, abs=0.001)
    assert told.result["needs"][0]["rows"] == 410
    assert told.result["floor"] == pytest.approx(0.88)


def test_a_table_has_a_column_for_each_class(run):
    told = run("plan", "--rows", "2000", "--class-share", "0.3", "--groups", "2", "--output", "table")
    assert told.code == 0
    assert all(word in told.out for word in ("class", "others", "noticed", "delay_double"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rows", "0", "--class-share", "0.1"), "--rows"),
        (("--rows", "100", "--class-share", "1.5"), "--class-share"),
        (("--rows", "100", "--class-share", "0.1", "--level", "0.2"), "must lie between"),
        (("--rows", "100", "--class-share", "0.1", "--level", "high"), "no decimal number"),
        (("--rows", "100", "--class-share", "0.1", "--test-share", "0.9"), "leave no rows to train on"),
    ],
)
def test_wrong_sizes_are_wrong_usage(run, options, says):
    told = run("plan", *options)
    assert told.code == 2
    assert says in told.err
