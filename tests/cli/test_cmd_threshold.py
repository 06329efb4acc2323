"""surety threshold as a person types it."""

from __future__ import annotations

import numpy as np
import pytest

from ml_core.lab.measuring.sensitivity_threshold import sensitivity_threshold
from tests.toy_models import toy_model


def test_the_threshold_of_the_promoted_model_is_told_with_what_it_costs(run, home):
    told = run("threshold", "--sensitivity", "0.8")
    found = told.result
    assert (told.code, told.err, found["model"], found["label"], found["confidence"]) == (0, "", home.v1, "1", 0.95)
    bundle = toy_model().bundle
    effect = bundle.manifest.metrics["calibration_effect_class_1"]
    own = 1.0 - bundle.calibration.scores[1]
    exact = sensitivity_threshold(own, 0.8, 0.95, effect=effect).threshold
    assert exact - 1e-15 < found["threshold"] < exact
    assert found["sensitivity"] == np.mean(own >= found["threshold"]) > 0.8
    assert found["specificity_lower"] < found["specificity"] < found["specificity_upper"]
    assert found["rows"] + found["other_rows"] == sum(bundle.calibration.sizes)


def test_more_confidence_costs_specificity(run, home):
    bold, sure = (
        run("threshold", "--sensitivity", "0.8", "--confidence", c, "--tag", home.v1).result for c in ("0.6", "0.99")
    )
    assert sure["threshold"] < bold["threshold"]
    assert sure["specificity"] < bold["specificity"]


def test_the_other_class_can_be_asked_for(run, home):
    found = run("threshold", "--sensitivity", "0.9", "--label", "0").result
    assert (found["label"], found["rows"]) == ("0", toy_model().bundle.calibration.sizes[0])


def test_too_few_rows_are_a_sound_no(run, home):
    told = run("threshold", "--sensitivity", "0.999", "--confidence", "0.999")
    assert (told.code, told.out, "are needed" in told.err) == (3, "", True)


def test_a_table_on_a_terminal_is_readable(run, home):
    told = run("threshold", "--sensitivity", "0.8", "--output", "table")
    assert (told.code, home.v1 in told.out, "specificity" in told.out) == (0, True, True)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--sensitivity", "1"),
        ("--sensitivity", "0"),
        ("--sensitivity", "high"),
        ("--sensitivity", "0.8", "--confidence", "1"),
        ("--sensitivity", "0.8", "--label", "7"),
    ],
)
def test_wrong_usage_exits_with_two(run, home, arguments):
    assert run("threshold", *arguments).code == 2


def test_a_model_that_is_not_there_is_named(run, home):
    told = run("threshold", "--sensitivity", "0.8", "--tag", "toy_risk:v9-00000000")
    assert (told.code, "toy_risk:v9-00000000" in told.err) == (1, True)


def test_help_has_an_example(run):
    told = run("threshold", "--help")
    assert (told.code, "Example: surety threshold" in told.out) == (0, True)
