"""Labels of any text go through answers, bulk replies, documents, cards and metrics, and come back as they were."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ml_core.lab.registry.mlflow_names import mlflow_name, name_from_mlflow
from ml_core.lab.registry.model_card import ModelCard, card_text
from ml_core.serve.answering.live import Live, LiveModel
from ml_core.serve.http.openapi import answer_schema
from ml_core.serve.model.bundle import FALLBACK_FILE, Bundle, read_bundle
from ml_core.serve.model.loader import LoadedModel
from ml_core.serve.model.predictor import Predictor
from ml_core.serve.running.runner import ConformalRunner, GuardedRunner, model_breaker
from tests.homes import remade
from tests.many_classes import AWKWARD
from tests.serve.answering.builders import ask_all, toy_records
from tests.toy_models import NAME, passed_gate, toy_model

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
PAIRS = st.lists(TEXTS, min_size=2, max_size=2, unique=True).map(tuple)


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="surety-labels-"))
    yield folder
    shutil.rmtree(folder)


def named(place: Path, labels: tuple[str, ...]) -> Bundle:
    """The toy model with these labels."""
    folder = Path(tempfile.mkdtemp(dir=place)) / "bundle"
    fallback = {**toy_model().bundle.fallback, "prior": dict(zip(labels, (0.8, 0.2), strict=True))}
    metrics = {
        name.replace("_class_0", f"_class_{labels[0]}").replace("_class_1", f"_class_{labels[1]}"): value
        for name, value in toy_model().bundle.manifest.metrics.items()
    }
    remade(toy_model().folder, folder, {FALLBACK_FILE: orjson.dumps(fallback)}, classes=labels, metrics=metrics)
    return read_bundle(folder)


def live_of(bundle: Bundle) -> Live:
    from ml_core.base.settings import Settings

    model = LoadedModel(f"{NAME}:v1-{bundle.model_hash[:8]}", "1", Predictor(bundle), passed_gate(bundle.model_hash))
    guard = GuardedRunner(ConformalRunner(model), model_breaker(NAME, Settings()), 2, Settings())
    return Live(LiveModel(model, guard))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=PAIRS)
@example(labels=AWKWARD[:2])
@example(labels=AWKWARD[2:])
@example(labels=("a" * 5_000, "a" * 4_999))
@example(labels=("\\", '"\n'))
def test_a_label_comes_back_from_everywhere(place, labels):
    bundle = named(place, labels)
    assert bundle.manifest.classes == labels
    (answer,) = ask_all(live_of(bundle), toy_records(1)).predictions
    told = orjson.loads(orjson.dumps(answer))
    assert list(told["probabilities"]) == list(told["p_values"]) == list(labels)
    assert told["prediction"] in labels
    assert set(told["prediction_set"]) <= set(labels)
    assert list(answer_schema(labels)["properties"]["probabilities"]["properties"]) == list(labels)
    schema = pa.schema([pa.field(f"probability_{label}", pa.float64()) for label in labels])
    assert pa.ipc.read_schema(schema.serialize()).names == [f"probability_{label}" for label in labels]
    card = card_text(ModelCard(NAME, "1", bundle.model_hash, bundle, None, None))
    assert all(" ".join(label.split()).replace("|", "\\|") in card for label in labels)
    for label in labels:
        safe = mlflow_name(f"coverage_class_{label}")
        assert len(safe) == 250 or name_from_mlflow(safe) == f"coverage_class_{label}"


@given(TEXTS)
@example('yes, "once"\\')
@example("a\nb")
def test_prometheus_labels_are_escaped_and_read_back(text):
    registry = CollectorRegistry()
    Gauge("surety_coverage", "of a class", ["label"], registry=registry).labels(text).set(0.5)
    (family,) = text_string_to_metric_families(generate_latest(registry).decode())
    assert family.samples[0].labels == {"label": text}
