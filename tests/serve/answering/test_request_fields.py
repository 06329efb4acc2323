"""Parser, OpenAPI document and service take the same fields of ``/predict``."""

from __future__ import annotations

import inspect
from dataclasses import fields

import service
from ml_core.serve.answering.request_fields import PREDICT_FIELDS
from ml_core.serve.answering.requests import PredictRequest, parse_predict
from ml_core.serve.http.openapi import openapi_document


def test_every_field_is_read_described_and_taken_by_the_service() -> None:
    names = [field.name for field in PREDICT_FIELDS]
    assert [field.attribute for field in PREDICT_FIELDS] == [field.name for field in fields(PredictRequest)]
    schema = openapi_document({}, {}, (0, 1), 10, "1")["components"]["schemas"]["PredictRequest"]
    assert (list(schema["properties"]), schema["required"]) == (names, ["features"])
    for one in (service.Surety, service.SuretyIsolated):
        assert list(inspect.signature(one.inner.predict.func).parameters)[1:] == names


def test_a_field_that_is_left_out_or_null_is_the_default() -> None:
    nulls = {field.name: None for field in PREDICT_FIELDS if not field.is_required}
    assert parse_predict({"features": {}, **nulls}) == parse_predict({"features": {}}) == PredictRequest({})


def test_the_services_method_takes_fields_by_place_and_by_name() -> None:
    class Echo:
        def predict(self, body: dict[str, object]) -> dict[str, object]:
            return body

    one = object.__new__(service.Surety.inner)
    one.worker = Echo()
    body = {"features": {"age": 1}, "confidence_level": 0.8}
    assert one.predict(*body.values()) == one.predict(**body) == one.predict(body["features"], confidence_level=0.8)
    assert one.predict(**body) == body
