"""status as a person types it."""

from __future__ import annotations


def test_one_object_tells_where_the_model_stands(run):
    told = run("status", "--endpoint", "http://ward:8080")
    assert told.code == 0
    assert list(told.result) == [
        "model_registered", "registry_uri", "drift_status", "deployment_gate", "api_endpoint", "next_action",
    ]  # fmt: skip
    assert told.result["api_endpoint"] == "http://ward:8080/predict"


def test_a_wrong_name_is_wrong_usage_of_a_setting(run):
    told = run("status", "--model", "no such name")
    assert (told.code, "SURETY_MODEL_NAME" in told.err) == (1, True)
