"""Whole numbers are exact to 64 bits from every kind of file and request, or refused; types follow the column table."""

import decimal
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_core.base.errors import DataError, InvalidRecord, InvalidRows
from ml_core.base.settings import Settings
from ml_core.features.columns import Column
from ml_core.lab.config import ModelConfig
from ml_core.lab.data.feature_pipeline import FeaturePipeline
from ml_core.lab.data.feature_store import FeatureStore
from ml_core.lab.data.frames import encode_frame
from ml_core.lab.data.schemas import validate_frame
from ml_core.lab.data.table_blocks import open_table
from ml_core.lab.data.table_frames import numbers_of_text
from ml_core.serve.features.record import RecordReader
from ml_core.serve.features.table import encode_table
from ml_core.serve.features.versions import get_feature_version
from tests.own_versions import install

NAME = "v901"
GROUP = Column("patient", "int", "Number of the patient.", role="group")
COUNT = Column("stays", "int", "Earlier stays.", nullable=True)
VALUE = Column("lactate", "float", "Lactate.")
LABEL = Column("died", "category", "Died.", role="label", levels=(0, 1))
COLUMNS = (GROUP, COUNT, VALUE, LABEL)
BIG = 100_000_000_000_000_000  # 18 digits: neighbours are one float64


@pytest.fixture
def version(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path, NAME, COLUMNS)
    return get_feature_version(NAME)


def run(path, home):
    config = ModelConfig.model_validate({"model": "risk", "feature_version": NAME, "data": {"source": path}})
    result = FeaturePipeline(config, Settings(home=home)).run()
    return FeatureStore(Settings(home=home).feature_store, "risk").read(NAME), result


def rows(n=400):
    return pd.DataFrame(
        {
            "patient": BIG + np.arange(n),
            "stays": np.arange(n) % 7,
            "lactate": np.arange(n) / 10,
            "died": np.arange(n) % 2,
        }
    )


def as_csv(frame, path):
    frame.to_csv(path, index=False)


def as_parquet(frame, path):
    frame.to_parquet(path, index=False)


def as_decimals(frame, path):
    numbers = pa.array([decimal.Decimal(n) for n in frame["patient"].tolist()], pa.decimal128(18, 0))
    pq.write_table(pa.Table.from_pandas(frame).set_column(0, "patient", numbers), path)


def as_csv_with_a_gap(frame, path):
    frame.assign(stays=frame["stays"].astype(object).where(frame.index != 3, None)).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("write", "name"),
    [(as_csv, "a.csv"), (as_csv_with_a_gap, "a.csv"), (as_parquet, "a.parquet"), (as_decimals, "a.parquet")],
)
def test_ids_of_18_digits_stay_as_many_patients_as_there_are(version, tmp_path, write, name):
    frame = rows()
    write(frame, tmp_path / name)
    stored, _ = run(tmp_path / name, tmp_path / "home")
    assert stored["patient"].tolist() == frame["patient"].tolist()
    read = open_table(tmp_path / name, version.columns)
    blocks = [block.cells["patient"].objects() for block in read.blocks(150)]
    assert [int(n) for block in blocks for n in block] == frame["patient"].tolist()


def test_ids_that_have_already_become_floats_are_refused(version, tmp_path):
    rows().assign(patient=lambda f: f["patient"].astype(float)).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InvalidRows, match="patient: not exact"):
        run(tmp_path / "a.parquet", tmp_path / "home")


def test_ids_beyond_64_bits_are_refused_from_csv(version, tmp_path):
    frame = rows(50).astype({"patient": object})
    frame.loc[3, "patient"] = 2**64 + 1
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InvalidRows, match="patient: not exact"):
        run(tmp_path / "a.csv", tmp_path / "home")


@pytest.mark.parametrize("value", [2**53 - 1, 1 - 2**53, float(2**53 - 1)])
def test_a_feature_is_read_where_float64_holds_it(version, value):
    record = {"patient": 7, "stays": value, "lactate": 1.0}
    reader = RecordReader(version.columns)
    assert reader.arrays([reader.read(record)])["stays"].tolist() == [value]


@pytest.mark.parametrize("value", [2**53, 2**53 + 1, -(2**53), float(2**53), 2**63, 10**30, -(2**70)])
def test_a_feature_beyond_float64_is_refused_in_every_way_in(version, value):
    record = {"patient": 7, "stays": value, "lactate": 1.0}
    with pytest.raises(InvalidRecord, match="stays") as refused:
        RecordReader(version.columns).read(record)
    assert "kept exactly" in refused.value.fields[0].problem
    encoded = encode_table(version.columns, {name: [cell] for name, cell in record.items()})
    assert encoded.checks == {("stays", "not exact"): 1}
    frame = pd.DataFrame({name: pd.Series([cell], dtype=object) for name, cell in record.items()})
    assert validate_frame(frame, NAME, labelled=False).problems == (("stays", "not exact", 1),)
    if isinstance(value, int) and abs(value) < 2**63:
        assert encode_frame(frame.astype({"stays": "int64"}), version).checks == encoded.checks
        assert validate_frame(frame.astype({"stays": "int64"}), NAME, labelled=False).problems


@pytest.mark.parametrize(
    ("value", "is_kept"),
    [(2**63 - 1, True), (-(2**63), True), (2**53 + 1, True), (2**63, False), (float(2**53), False), (2**80, False)],
)
def test_an_id_has_64_bits_in_every_way_in(version, value, is_kept):
    record = json.loads(json.dumps({"patient": value, "stays": 1, "lactate": 1.0}))
    reader = RecordReader(version.columns)
    encoded = encode_table(version.columns, {name: [cell] for name, cell in record.items()})
    frame = pd.DataFrame({name: pd.Series([cell], dtype=object) for name, cell in record.items()})
    assert validate_frame(frame, NAME, labelled=False).good.tolist() == encoded.good.tolist() == [is_kept]
    if is_kept:
        assert reader.read(record).ids == {"patient": value}
        assert encoded.ids["patient"] == [value]
    else:
        with pytest.raises(InvalidRecord, match="patient"):
            reader.read(record)


@pytest.mark.parametrize("value", [2**63 - 1, 2**63, 2**64 - 1])
def test_unsigned_ids_of_arrow_are_kept_or_refused(version, value):
    cells = {"patient": np.array([value], dtype=np.uint64), "stays": np.array([1]), "lactate": np.array([1.0])}
    encoded = encode_table(version.columns, cells)
    assert encoded.ids["patient"] == ([value] if value < 2**63 else [None])
    frame = pd.DataFrame(cells)
    assert validate_frame(frame, NAME, labelled=False).good.tolist() == encoded.good.tolist() == [value < 2**63]


def test_texts_of_whole_numbers_are_read_exactly():
    read = numbers_of_text(pd.Series(["9007199254740993", None, "-9223372036854775808"], dtype=object))
    assert read.dtype == pd.Int64Dtype()
    assert read.tolist() == [9007199254740993, pd.NA, -9223372036854775808]
    mixed = numbers_of_text(pd.Series(["9007199254740993", "x", "1.5"], dtype=object))
    assert mixed.tolist() == [9007199254740993, "x", 1.5]


# --- physical types -----------------------------------------------------------------------------------------------


def retyped(monkeypatch, tmp_path, *columns):
    install(monkeypatch, tmp_path, NAME, columns)


def test_a_column_that_becomes_a_decimal_keeps_its_decimals(version, tmp_path, monkeypatch):
    pd.DataFrame({"patient": [1, 2, 3], "stays": [0, 1, 2], "lactate": [1.0] * 3, "died": [0, 1, 0]}).to_csv(
        tmp_path / "a.csv", index=False
    )
    run(tmp_path / "a.csv", tmp_path / "home")
    retyped(monkeypatch, tmp_path, GROUP, Column("stays", "float", "Earlier stays."), VALUE, LABEL)
    pd.DataFrame({"patient": [1, 2, 3], "stays": [0.37, 1.37, 2.37], "lactate": [1.0] * 3, "died": [0, 1, 0]}).to_csv(
        tmp_path / "b.csv", index=False
    )
    stored, result = run(tmp_path / "b.csv", tmp_path / "home")
    assert stored["stays"].tolist() == [0.37, 1.37, 2.37]
    assert result.type_changes == ("column stays was int64 and is double now",)
    assert FeatureStore(Settings(home=tmp_path / "home").feature_store, "risk").read(NAME, 0)["stays"].tolist() == [
        0,
        1,
        2,
    ]


def test_ids_with_leading_zeros_and_labels_that_become_texts_are_stored_as_the_table_says(
    version, tmp_path, monkeypatch
):
    as_csv(rows(40), tmp_path / "a.csv")
    run(tmp_path / "a.csv", tmp_path / "home")
    group = Column("patient", "text", "Number of the patient.", role="group")
    label = Column("died", "category", "Died.", role="label", levels=("no", "yes"))
    retyped(monkeypatch, tmp_path, group, COUNT, VALUE, label)
    frame = rows(40).assign(patient=[f"{n:05d}" for n in range(40)], died=lambda f: f["died"].map({0: "no", 1: "yes"}))
    as_csv(frame, tmp_path / "b.csv")
    stored, result = run(tmp_path / "b.csv", tmp_path / "home")
    assert stored["patient"].tolist() == frame["patient"].tolist()
    assert stored["died"].tolist() == frame["died"].tolist()
    assert len(result.type_changes) == 2


def test_a_column_more_or_fewer_is_a_new_version_with_a_sentence(version, tmp_path, monkeypatch):
    as_csv(rows(40), tmp_path / "a.csv")
    run(tmp_path / "a.csv", tmp_path / "home")
    retyped(monkeypatch, tmp_path, GROUP, Column("sodium", "float", "Sodium."), VALUE, LABEL)
    as_csv(rows(40).assign(sodium=140.5), tmp_path / "b.csv")
    stored, result = run(tmp_path / "b.csv", tmp_path / "home")
    assert stored["sodium"].tolist() == [140.5] * 40
    assert "stays" not in stored
    assert result.type_changes == ("column sodium is new", "column stays is gone")


def test_rows_of_other_types_are_not_appended(version, tmp_path, monkeypatch):
    store = FeatureStore(tmp_path / "features")
    store.overwrite(NAME, rows(20))
    retyped(monkeypatch, tmp_path, GROUP, Column("stays", "float", "Earlier stays."), VALUE, LABEL)
    with pytest.raises(DataError, match=r"column stays was int64 and is double now.*surety features run"):
        store.append(NAME, rows(20).assign(stays=0.5))
    assert store.latest(NAME) == 0
