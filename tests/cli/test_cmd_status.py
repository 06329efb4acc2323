"""status as a person types it, and that what it advises can be typed as well."""

from __future__ import annotations

import re
import shlex

import click

from ml_core.cli.main import surety
from ml_core.lab.watching import model_status
from tests.lab.watching.test_model_status import every_state
from tests.serve.answering.stored import Home
from tests.toy_models import NAME


def test_one_object_tells_where_the_model_stands(run):
    told = run("status", "--endpoint", "http://ward:8080")
    assert list(told.result) == [
        "model_registered", "registry_uri", "drift_status", "deployment_gate", "api_endpoint", "next_action",
    ]  # fmt: skip
    assert told.result["api_endpoint"] == "http://ward:8080/predict"


def test_an_empty_home_is_told_with_a_status_of_its_own(run):
    told = run("status")
    assert (told.code, "empty" in told.err) == (4, True)


def test_a_home_with_a_model_is_not_empty(run, home):
    assert run("status", "--model", NAME).code == 0


def test_a_wrong_name_is_wrong_usage_of_a_setting(run):
    told = run("status", "--model", "no such name")
    assert (told.code, "SURETY_MODEL_NAME" in told.err) == (1, True)


def test_every_next_action_is_a_command_with_options_that_exist(tmp_path):
    told = [
        model_status.model_status(home.settings, "http://x").next_action for home in every_state(Home(tmp_path / "h"))
    ]
    assert len(set(told)) == 12
    for action in told:
        if action == "none":
            continue
        words = shlex.split(action)
        if words[:2] == ["make", "serve"]:
            assert all(re.fullmatch(r"(MODEL|CONFIG)=\S+", word) for word in words[2:])
            continue
        assert words[0] == "surety"
        group, rest = surety, words[1:]
        context = click.Context(surety)
        while isinstance(group, click.Group):
            found = group.get_command(context, rest[0])
            assert found is not None, action
            group, rest = found, rest[1:]
        group.make_context(action, list(rest))  # raises where an option or argument is unknown or missing
