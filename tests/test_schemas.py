"""Configurations, data and the OpenAPI document fit the schemas they are meant for (`make schema`)."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import schemathesis
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from ml_core.lab.config import ModelConfig, load_config
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.data.raw_tables import read_source
from ml_core.lab.data.schemas import validate_frame
from scripts.docs.routes import document

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def columns_of(config: ModelConfig, place: Path) -> Path:
    """The file of raw rows that a configuration names; for the synthetic cohort one is made where it is missing."""
    source = ROOT / config.data.source
    for found in (source, ROOT.parent / "shared" / "data" / source.name):
        if found.exists():
            return found
    if (config.data.adapter, config.feature_version) != ("columns", "v1"):
        pytest.skip(f"{config.data.source} is not at hand")
    made = place / "cohort.parquet"
    make_cohort(2_000, config.seed)[0].to_parquet(made, index=False)
    return made


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configuration_fits_its_model(path: Path) -> None:
    assert load_config(path).model


def test_no_two_configurations_are_of_one_model() -> None:
    models = [load_config(path).model for path in CONFIGS]
    assert len(models) == len(set(models)) >= 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_data_fit_the_schema_of_their_feature_version(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    raw = read_source(columns_of(config, tmp_path), config.data.adapter, config.feature_version)
    verdict = validate_frame(raw.frame, config.feature_version)
    assert (verdict.good.all(), verdict.problems) == (True, ())
    assert len(verdict.good) >= 2_000


def test_the_openapi_document_is_openapi() -> None:
    found = document()
    assert found["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(copy.deepcopy(found)).validate()


@pytest.mark.parametrize("name", sorted(document()["components"]["schemas"]))
def test_every_schema_in_it_is_a_json_schema(name: str) -> None:
    Draft202012Validator.check_schema(document()["components"]["schemas"][name])


def test_what_is_no_openapi_is_told() -> None:
    broken = copy.deepcopy(document())
    broken["paths"]["/predict"]["post"]["responses"] = ["200"]
    with pytest.raises(Exception, match="is not of type"):
        schemathesis.openapi.from_dict(broken).validate()
    with pytest.raises(SchemaError):
        Draft202012Validator.check_schema({"type": "nothing"})
