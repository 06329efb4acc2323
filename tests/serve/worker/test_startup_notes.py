"""Arguments and settings of BentoML that have no effect on this service are said."""

from __future__ import annotations

import pytest

from ml_core.serve.worker.startup import start_notes


@pytest.mark.parametrize("words", [["--api-workers", "4"], ["--api-workers=4"]])
def test_the_argument_for_workers(words):
    (note,) = start_notes(["bentoml", "serve", "service:Surety", *words], {})
    assert "--api-workers" in note
    assert "SURETY_WORKERS" in note


@pytest.mark.parametrize(
    "options",
    [
        "services.Surety.workers=4",
        "api_server.http.cors.enabled=true",
        "services.Surety.http.cors.enabled=true",
        "services.Surety.endpoints.livez=/alive",
        "api_server.metrics.enabled=false",
    ],
)
def test_each_setting_by_options_and_by_file(tmp_path, options):
    key = options.partition("=")[0]
    (note,) = start_notes([], {"BENTOML_CONFIG_OPTIONS": options})
    assert key in note
    nested: object = 1
    for name in reversed(key.split(".")):
        nested = {name: nested}
    file = tmp_path / "config.yaml"
    file.write_text(str(nested).replace("'", '"'))
    (note,) = start_notes([], {"BENTOML_CONFIG": str(file)})
    assert f"{key} in BENTOML_CONFIG has no effect" in note


@pytest.mark.parametrize("content", ["services: {Surety: {traffic: {timeout: 3}}}", "", "[", "a: &a [*a]"])
def test_what_has_an_effect_or_cannot_be_read_gives_no_note(tmp_path, content):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    environment = {"BENTOML_CONFIG": str(file), "BENTOML_CONFIG_OPTIONS": "services.Surety.traffic.timeout=3"}
    assert start_notes(["bentoml", "serve", "service:Surety", "--port", "3000"], environment) == ()
    assert start_notes([], {"BENTOML_CONFIG": str(tmp_path / "none.yaml")}) == ()
