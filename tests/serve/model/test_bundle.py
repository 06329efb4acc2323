"""A model folder is believed only whole; damage of every kind is in tests/security/test_artefacts.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import ml_core.serve.model.bundle as bundle_module
from ml_core.base.errors import ArtefactError, ChecksumMismatch, FeatureVersionMismatch, GoldenMismatch
from ml_core.serve.features.table_versions import COLUMNS_FILE
from ml_core.serve.model.bundle import (
    CALIBRATION_FILE,
    GOLDEN_FILE,
    ONNX_FILE,
    pack_calibration,
    read_baseline,
    read_bundle,
    verify_folder,
    write_bundle,
)
from ml_core.serve.model.manifest import MANIFEST_FILE, Manifest, parse_manifest
from ml_core.serve.model.predictor import Predictor, check_golden
from tests.toy_models import copied_bundle, grouped_toy, table_toy, toy_model, toy_record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copied_bundle(tmp_path / "bundle")


@pytest.fixture
def no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if anything but the manifest is parsed."""

    def parsed(*_: object, **__: object) -> None:
        pytest.fail("a parser saw an unverified file")

    monkeypatch.setattr(bundle_module, "_parse_json", parsed)
    monkeypatch.setattr(bundle_module, "_parse_calibration", parsed)


def rewritten(folder: Path, to: Path, **contents: bytes) -> Path:
    """The same artefact with other file contents under a manifest that is right about them."""
    manifest, _, files = verify_folder(folder)
    facts = manifest.model_dump(exclude={"files", "format_version"})
    write_bundle(to, facts, {**files, **{name.replace("__", "."): raw for name, raw in contents.items()}})
    return to


def remade_table(to: Path, columns: bytes | None = None, **changes: object) -> Path:
    """The artefact of the toy whose column table is data, with another table or other facts."""
    manifest, _, files = verify_folder(table_toy().folder)
    facts = manifest.model_dump(exclude={"files", "format_version"})
    files = {**files, COLUMNS_FILE: files[COLUMNS_FILE] if columns is None else columns}
    write_bundle(to, {**facts, **changes}, {name: raw for name, raw in files.items() if raw})
    return to


def test_a_column_table_travels_with_its_model(tmp_path: Path) -> None:
    bundle = read_bundle(remade_table(tmp_path / "made"))
    assert bundle.features.is_table
    check_golden(Predictor(bundle))
    baseline = read_baseline(tmp_path / "made", None, lambda _: None)
    assert baseline.features.columns == bundle.features.columns


def test_a_column_table_is_covered_by_the_hash_of_the_model(tmp_path: Path) -> None:
    made = remade_table(tmp_path / "made")
    raw = (made / COLUMNS_FILE).read_bytes()
    (made / COLUMNS_FILE).write_bytes(raw.replace(b"120", b"121", 1))
    with pytest.raises(ChecksumMismatch, match=COLUMNS_FILE):
        read_bundle(made)


def test_the_table_of_another_name_is_refused(tmp_path: Path) -> None:
    raw = (table_toy().folder / COLUMNS_FILE).read_bytes().replace(b"120", b"121", 1)
    with pytest.raises(ArtefactError, match="is the table of table_"):
        read_bundle(remade_table(tmp_path / "made", raw))
    with pytest.raises(ArtefactError, match=r"columns\.json: is missing: table_\w+ is a column table"):
        read_bundle(remade_table(tmp_path / "without", b""))
    with pytest.raises(ArtefactError, match=COLUMNS_FILE):
        read_bundle(remade_table(tmp_path / "code", feature_version="v1"))


def test_another_standard_transform_than_the_one_that_trained_is_refused(tmp_path: Path) -> None:
    made = remade_table(tmp_path / "made", feature_module_sha256="0" * 64)
    with pytest.raises(FeatureVersionMismatch, match="Use the edition that trained it, or train it again"):
        read_bundle(made)


def test_whole_folder_is_read_and_reproduces_its_golden_answers(folder: Path) -> None:
    bundle = read_bundle(folder, toy_model().model_hash)
    check_golden(Predictor(bundle))
    assert bundle.model_hash == toy_model().model_hash


def test_file_of_another_size_is_not_even_read(folder: Path, no_parser: None) -> None:
    os.truncate(folder / ONNX_FILE, (1 << 30) - 1)  # a hole: it takes no room
    tracemalloc.start()
    try:
        with pytest.raises(ChecksumMismatch, match=ONNX_FILE):
            read_bundle(folder, toy_model().model_hash)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_named_pipe_that_appears_after_the_look_is_refused_without_waiting_for_it(
    folder: Path, no_parser: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = bundle_module._list_plain_files(folder)
    monkeypatch.setattr(bundle_module, "_list_plain_files", lambda _: listed)
    (folder / ONNX_FILE).unlink()
    os.mkfifo(folder / ONNX_FILE)
    with pytest.raises(ArtefactError, match=ONNX_FILE):
        read_bundle(folder)


def test_link_that_appears_after_the_look_is_not_followed(
    folder: Path, tmp_path: Path, no_parser: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = bundle_module._list_plain_files(folder)
    monkeypatch.setattr(bundle_module, "_list_plain_files", lambda _: listed)
    shutil.move(folder / ONNX_FILE, tmp_path / "elsewhere")
    (folder / ONNX_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtefactError, match=ONNX_FILE):
        read_bundle(folder)


def test_another_models_folder_is_refused_where_the_hash_is_known(folder: Path, tmp_path: Path) -> None:
    golden = json.loads((folder / GOLDEN_FILE).read_bytes())
    other = rewritten(folder, tmp_path / "other", golden__json=json.dumps(golden[:5]).encode())
    with pytest.raises(ChecksumMismatch, match=MANIFEST_FILE):
        read_bundle(other, toy_model().model_hash)


def test_changed_feature_module_is_refused(folder: Path, tmp_path: Path) -> None:
    manifest, _, files = verify_folder(folder)
    facts = {**manifest.model_dump(exclude={"files", "format_version"}), "feature_module_sha256": "0" * 64}
    write_bundle(tmp_path / "other", facts, files)
    with pytest.raises(FeatureVersionMismatch, match="must be a new version"):
        read_bundle(tmp_path / "other")


def test_calibration_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    bundle = read_bundle(folder)
    swapped = pack_calibration(bundle.scorecard_calibration, bundle.calibration)
    with pytest.raises(ChecksumMismatch, match=CALIBRATION_FILE):
        read_bundle(rewritten(folder, tmp_path / "other", calibration__npz=swapped))


def test_pickled_arrays_are_refused(folder: Path, tmp_path: Path) -> None:
    import io

    buffer = io.BytesIO()
    np.savez(buffer, guarantee=np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(ArtefactError, match=CALIBRATION_FILE):
        read_bundle(rewritten(folder, tmp_path / "other", calibration__npz=buffer.getvalue()))


def test_scorer_that_is_no_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = rewritten(folder, tmp_path / "other", model__onnx=b"not a model")
    with pytest.raises(ArtefactError, match=ONNX_FILE):
        Predictor(read_bundle(other))


def test_model_that_no_longer_gives_its_golden_answers_is_refused(folder: Path, tmp_path: Path) -> None:
    golden = json.loads((folder / GOLDEN_FILE).read_bytes())
    golden[7]["proba"][1] = float(np.nextafter(golden[7]["proba"][1], 1))
    other = rewritten(folder, tmp_path / "other", golden__json=json.dumps(golden).encode())
    with pytest.raises(GoldenMismatch, match="record 7"):
        check_golden(Predictor(read_bundle(other)))


def test_model_without_golden_records_is_refused(folder: Path, tmp_path: Path) -> None:
    other = rewritten(folder, tmp_path / "other", golden__json=b"[]")
    with pytest.raises(GoldenMismatch):
        check_golden(Predictor(read_bundle(other)))


def test_a_manifest_without_a_horizon_is_as_before_there_was_one_and_one_with_it_says_it() -> None:
    raw = (toy_model().folder / MANIFEST_FILE).read_bytes()
    assert b"label_horizon_days" not in raw
    manifest = parse_manifest(raw)
    assert manifest.label_horizon_days is None
    told = manifest.model_copy(update={"label_horizon_days": 7.5})
    assert parse_manifest(told.to_bytes()).label_horizon_days == 7.5


def test_artefact_holds_no_time_host_run_or_path() -> None:
    raw = (toy_model().folder / MANIFEST_FILE).read_text()
    for trace in (os.uname().nodename, str(Path.home()), str(toy_model().folder)):
        assert trace not in raw
    assert not re.search(r"20[0-9]{2}-[0-9]{2}", raw)
    assert parse_manifest(raw.encode()).training.table == ""


def test_one_row_and_many_give_the_same_bits() -> None:
    predictor = Predictor(toy_model().bundle)
    records = [predictor.reader.read(toy_record(age=age, glucose=60.5 + 3 * age)) for age in range(120)]
    together = predictor.predict(predictor.reader.arrays(records))
    for i, record in enumerate(records):
        alone = predictor.predict(predictor.reader.arrays([record]))
        assert np.array_equal(alone.proba[0], together.proba[i])
        assert np.array_equal(alone.p_values[0], together.p_values[i])
        assert np.array_equal(alone.sets[0], together.sets[i])


@pytest.fixture
def by_group(tmp_path: Path) -> Path:
    shutil.copytree(grouped_toy().folder, tmp_path / "grouped")
    return tmp_path / "grouped"


def test_an_artefact_with_groups_is_read_whole_and_reproduces_its_golden_answers(by_group: Path) -> None:
    bundle = read_bundle(by_group, grouped_toy().model_hash)
    check_golden(Predictor(bundle))
    assert bundle.grouped is not None
    assert bundle.grouped_scorecard is not None
    assert bundle.grouped.calibration_id == bundle.manifest.calibration_id != bundle.calibration.calibration_id
    assert bundle.grouped.names == bundle.grouped_scorecard.names
    assert [column.name for column in bundle.beside] == ["sex"]


def test_cells_of_another_calibration_are_refused(by_group: Path, tmp_path: Path) -> None:
    bundle = read_bundle(by_group)
    assert bundle.grouped is not None
    assert bundle.grouped_scorecard is not None
    own, scorecards = bundle.grouped.calibrations[:2], bundle.grouped_scorecard.calibrations[:2]
    for cells in (own[::-1], scorecards, own[:1], (*own, own[0]), ()):
        raw = pack_calibration(bundle.calibration, bundle.scorecard_calibration, cells, scorecards)
        with pytest.raises(ArtefactError, match=CALIBRATION_FILE):
            read_bundle(rewritten(by_group, tmp_path / f"other-{len(list(tmp_path.iterdir()))}", calibration__npz=raw))


def test_groups_that_do_not_fit_the_columns_are_refused(by_group: Path, tmp_path: Path) -> None:
    manifest, _, files = verify_folder(by_group)
    facts = manifest.model_dump(exclude={"files", "format_version"})
    for n, (which, change) in enumerate(
        [
            (0, {"column": "age"}),
            (0, {"column": "patient_id"}),
            (1, {"column": "no_feature"}),
            (1, {"is_feature": False}),
        ]
    ):
        declared = [dict(one) for one in facts["groups"]["declared"]]
        declared[which] |= change
        other = {**facts, "groups": {**facts["groups"], "declared": declared}}
        write_bundle(tmp_path / f"other-{n}", other, files)
        with pytest.raises(ArtefactError, match="does not fit the columns"):
            read_bundle(tmp_path / f"other-{n}")


def test_a_promise_by_group_without_groups_is_no_manifest(by_group: Path) -> None:
    manifest, _, _ = verify_folder(by_group)
    facts = manifest.model_dump()
    for change in ({"groups": None}, {"guarantee": "class_conditional"}):
        with pytest.raises(ValidationError):
            Manifest.model_validate({**facts, **change})
