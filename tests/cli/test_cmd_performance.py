"""performance check as a person types it."""

from __future__ import annotations

import numpy as np
import pytest

from ml_core.serve.rollout import changes
from tests.lab.watching.ward import HORIZON_DAYS, Ward, patients
from tests.toy_models import grouped_toy, toy_model


def matured(ward: Ward, rows) -> None:
    ward.answer(rows)
    ward.pass_days(HORIZON_DAYS + 1)
    ward.look()


def without_sense(n: int, seed: int):
    """Patients whose outcome has nothing to do with what is recorded."""
    rows = patients(n, seed)
    return rows.assign(readmission_30d=np.random.default_rng(seed).permutation(rows["readmission_30d"].to_numpy()))


def test_realised_performance_stands_beside_that_of_training(run, ward):
    rows = patients(400, seed=1)
    matured(ward, rows)
    told = run("performance", "check")
    found = told.result["realised"]
    assert (told.code, told.err, told.result["model"], told.result["matured"]) == (0, "", ward.home.v1, 400)
    assert found["n_per_class"] == [400 - int(rows["readmission_30d"].sum()), int(rows["readmission_30d"].sum())]
    assert 0.6 < found["auc"]["lower"] < found["auc"]["value"] < found["auc"]["upper"] < 1.0
    trained = toy_model().bundle.manifest.metrics
    names = ("roc_auc", "brier", "brier_skill", "log_loss", "mean_set_size")
    assert told.result["at_training"] == {name: trained[name] for name in names}


def test_performance_is_expected_before_any_label_has_come(run, ward):
    ward.answer(patients(300, seed=7))
    ward.look()
    told = run("performance", "check")
    found = told.result["expected"]
    assert (told.code, told.result["realised"], found["answers"]) == (0, None, 300)
    assert found.keys() == {"since", "until", "answers", "auc", "brier", "coverage_class_0", "coverage_class_1"}
    for name in ("auc", "brier", "coverage_class_0"):
        assert 0 < found[name]["lower"] < found[name]["value"] < found[name]["upper"] <= 1
        assert found[name]["standard_error"] > 0
    table = run("performance", "check", "--output", "table")
    assert (table.code, "expected" in table.out, "coverage_class_0" in table.out) == (0, True, True)


def test_the_slope_and_the_intercept_come_with_their_intervals_and_the_curve(run, ward):
    matured(ward, patients(400, seed=1))
    found = run("performance", "check").result["realised"]
    for name in ("calibration_slope", "calibration_intercept"):
        assert found[name]["lower"] < found[name]["value"] < found[name]["upper"]
    assert sum(point["n"] for point in found["reliability"]) == 400


def test_performance_by_group_has_no_numbers_of_few_patients(run, tmp_path):
    ward = Ward(tmp_path, champion=grouped_toy().folder)
    rows = patients(400, seed=1)
    sexes = np.random.default_rng(1).choice(np.array(["female", "male"], dtype=object), len(rows))
    sexes[:9] = None
    matured(ward, rows.assign(sex=sexes))
    told = run("performance", "check", "--by", "sex")
    women, men, unknown = told.result["groups"]
    assert (told.code, [g["group"] for g in (women, men, unknown)]) == (0, ["sex=female", "sex=male", "sex=unknown"])
    people = rows.groupby(sexes)["patient_id"].nunique()
    assert [women["subjects"], men["subjects"]] == [people["female"], people["male"]]
    for group in (women, men):
        assert group["auc"]["lower"] < group["auc"]["value"]
        assert group["calibration_slope"]["lower"] < group["calibration_slope"]["value"]
        assert min(point["n"] for point in group["reliability"]) >= 5
    assert {name for name, value in unknown.items() if value is not None} == {"group"}
    assert "groups" not in run("performance", "check").result
    ward.close()


def test_before_the_monitor_has_seen_answers_nothing_is_expected(run, ward):
    ward.look()
    assert run("performance", "check").result["expected"] is None


def test_an_area_surely_below_the_wanted_one_exits_with_three(run, ward):
    matured(ward, without_sense(400, seed=2))
    told = run("performance", "check", "--min-auc", "0.7")
    assert (told.code, "the AUC is below 0.7" in told.err) == (3, True)
    assert told.result["realised"]["auc"]["upper"] < 0.7


def test_an_area_that_may_be_the_wanted_one_exits_with_zero(run, ward):
    matured(ward, patients(400, seed=1))
    auc = run("performance", "check").result["realised"]["auc"]
    assert run("performance", "check", "--min-auc", f"{auc['upper'] - 1e-6}").code == 0
    assert run("performance", "check", "--min-auc", f"{auc['upper'] + 1e-6}").code == 3


def test_too_few_answers_are_no_reason_to_say_no(run, ward):
    matured(ward, patients(15, seed=3))
    told = run("performance", "check", "--min-auc", "1.0")
    found = told.result["realised"]
    assert (told.code, found["auc"], found["unjudged"]["auc"]) == (0, None, "too_few_rows")


def test_without_matured_labels_that_is_said(run, ward):
    ward.answer(patients(60, seed=4))
    ward.pass_days(6)
    ward.look()
    told = run("performance", "check", "--min-auc", "0.9")
    assert (told.code, told.result["realised"], told.result["matured"]) == (0, None, 0)
    assert f"{told.result['waiting']} wait for their horizon" in told.err
    assert told.result["waiting"] > 0


def test_a_table_on_a_terminal_is_readable(run, ward):
    matured(ward, patients(100, seed=5))
    told = run("performance", "check", "--output", "table")
    assert (told.code, ward.home.v1 in told.out, "at_training" in told.out) == (0, True, True)


def test_another_slot_has_its_own_answers(run, ward):
    matured(ward, patients(100, seed=6))
    ward.home.change(changes.full(ward.home.v2))
    ward.look()
    assert run("performance", "check").result["realised"] is None
    told = run("performance", "check", "--slot", "previous")
    assert (told.result["model"], told.result["matured"]) == (ward.home.v1, 100)


def test_where_nothing_is_live_or_no_monitor_has_run_the_command_is_broken(run, tmp_path):
    told = run("performance", "check")
    assert (told.code, told.out, "start the service" in told.err) == (1, "", True)
    ward = Ward(tmp_path)
    told = run("performance", "check")
    assert (told.code, told.out, "surety monitor" in told.err) == (1, "", True)
    ward.close()


@pytest.mark.parametrize(
    "arguments",
    [(), ("check", "--min-auc", "1.5"), ("check", "--min-auc", "good"), ("check", "--since", "soon"), ("show",)],
)
def test_wrong_usage_exits_with_two(run, arguments):
    assert run("performance", *arguments).code == 2


@pytest.mark.parametrize("arguments", [(), ("check",)])
def test_help_has_an_example(run, arguments):
    told = run("performance", *arguments, "--help")
    assert (told.code, "Example: surety performance check" in told.out) == (0, True)
