"""A new feature version is a new file; what it lacks is one line, before any row is read."""

import sys
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest

import ml_core.serve.features
from ml_core.base.errors import ConfigError, DataError, UnknownFeatureVersion
from ml_core.base.settings import Settings
from ml_core.lab.config import DataConfig, ModelConfig
from ml_core.lab.data.feature_pipeline import FeaturePipeline, PipelineResult
from ml_core.serve.features.versions import get_feature_version
from tests.own_versions import forget

MODULE = '''"""Feature version v90: one number."""

import numpy as np

from ml_core.features.columns import Column

COLUMNS = (
    Column("who", "text", "Who.", role="group", pattern="[a-z0-9]+"),
    Column("size", "float", "How large.", low=0, high=100),
    Column("found", "category", "What was found.", role="label", levels=("no", "yes")),
)
FEATURE_NAMES = ("size",)
FEATURE_DOCS = ("As recorded",)


def transform(columns):
    return columns["size"][:, None].astype(np.float32)
'''


@pytest.fixture
def written(tmp_path, monkeypatch) -> Iterator[Callable[[str], None]]:
    """Write ml_core/serve/features/v90.py, as far as Python can tell."""
    monkeypatch.setattr(ml_core.serve.features, "__path__", [*ml_core.serve.features.__path__, str(tmp_path)])
    yield lambda source: (tmp_path / "v90.py").write_text(source) and None
    sys.modules.pop("ml_core.serve.features.v90", None)
    forget()


@pytest.fixture
def run(tmp_path) -> Callable[[], PipelineResult]:
    """Bring twenty rows into the store."""
    rows = pd.DataFrame(
        {"who": [f"p{i}" for i in range(20)], "size": np.linspace(1, 9, 20), "found": ["no", "yes"] * 10}
    )
    rows.to_parquet(tmp_path / "rows.parquet")
    config = ModelConfig(model="m", feature_version="v90", data=DataConfig(source=tmp_path / "rows.parquet"))
    return lambda: FeaturePipeline(config, Settings(home=tmp_path / "home")).run()


def test_a_file_is_all_it_takes(written, run):
    written(MODULE)
    assert (run().rows_kept, get_feature_version("v90").feature_names) == (20, ("size",))


def test_a_version_without_a_file_is_unknown(written):
    with pytest.raises(UnknownFeatureVersion, match="v91"):
        get_feature_version("v91")


@pytest.mark.parametrize("name", ["COLUMNS", "FEATURE_NAMES", "transform"])
def test_what_the_module_lacks_is_named(written, name):
    written(MODULE.replace(name, f"{name}_of_mine"))
    with pytest.raises(ConfigError, match=f"feature version v90: has no {name}$"):
        get_feature_version("v90")


def test_a_fault_of_the_column_table_is_told(written):
    written(MODULE.replace('"float"', '"number"'))
    with pytest.raises(ConfigError, match="feature version v90: column 'size' has the dtype 'number'"):
        get_feature_version("v90")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('columns["size"][:, None]', r"gives float64 of shape \(20, 1\); float32 of shape \(20, 1\) is wanted"),
        ('columns["size"].astype(np.float32)', r"gives float32 of shape \(20,\); float32 of shape \(20, 1\)"),
        ('np.log(columns["size"][:, None] * 0).astype(np.float32)', "gives infinities"),
        (
            '(columns["size"] - columns["size"].mean())[:, None].astype(np.float32)',
            "gives row 0 other values when it is alone: it may look at one row at a time",
        ),
    ],
    ids=["type", "shape", "infinite", "neighbours"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_transform_that_would_mislead_the_service_stops_the_run(written, run, tmp_path, body, words):
    written(MODULE.replace('columns["size"][:, None].astype(np.float32)', body))
    with pytest.raises(DataError, match=f"feature version v90: its transform {words}"):
        run()
    assert not (tmp_path / "home").exists()
