"""A ward whose champion went the whole way: trained from the feature store, registered, judged and promoted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_core.lab.config import ModelConfig
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.journeys.challenger import train_challenger
from ml_core.lab.judging.promoter import promote_version
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.serve.model.promotion_record import promotion_name
from tests.homes import bento_store
from tests.lab.watching.ward import Ward
from tests.toy_models import NAME, toy_config, toy_frame


def config(**changes: Any) -> ModelConfig:
    return toy_config(gate={"min_roc_auc": 0.6, "min_positives": 40}, **changes)


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    """A ward whose champion was trained from the feature store, registered, judged and promoted."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with bento_store(tmp_path / "bento"):
        place = Ward(tmp_path)
        settings = place.home.settings
        FeatureStore(settings.feature_store, NAME).overwrite("v1", toy_frame())
        (settings.home / promotion_name(NAME)).unlink()
        version = train_challenger(config(), settings, lambda _: None).version
        assert version is not None
        assert promote_version(ModelRegistry(settings), version, config(), settings).decision == "promoted"
        yield place
        place.close()
