"""The artefact: a folder of plain files that is verified byte by byte before anything in it is parsed."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import orjson

from ml_core.base.errors import ArtefactError, ChecksumMismatch, FeatureVersionMismatch, InvalidCalibration
from ml_core.base.files import read_plain_file
from ml_core.features.columns import Column, coded_levels, table_hash
from ml_core.serve.features.table_versions import COLUMNS_FILE, version_of_bytes
from ml_core.serve.features.versions import FeatureVersion, get_feature_version
from ml_core.serve.model.groupings import GroupedCalibration, Groupings
from ml_core.serve.model.manifest import MANIFEST_FILE, FileEntry, GroupFacts, Manifest, parse_manifest
from ml_core.serve.model.prediction_sets import ConformalCalibration
from ml_core.serve.model.weighted_sets import DensityRatio, WeightedCalibration

__all__ = [
    "CALIBRATION_FILE",
    "CATBOOST_FILE",
    "FALLBACK_FILE",
    "GOLDEN_FILE",
    "KNOWN_FILES",
    "LIGHTGBM_FILE",
    "LINEAR_FILE",
    "MANIFEST_FILE",
    "MAX_MANIFEST_BYTES",
    "NATIVE_FILES",
    "ONNX_FILE",
    "REFERENCE_FILE",
    "REQUIRED_FILES",
    "TREES_FILE",
    "XGBOOST_FILE",
    "Bundle",
    "Calibrations",
    "copy_verified",
    "features_of_artefact",
    "pack_calibration",
    "read_baseline",
    "read_bundle",
    "verify_folder",
    "write_bundle",
]

ONNX_FILE = "model.onnx"
XGBOOST_FILE = "model.ubj"
LIGHTGBM_FILE = "model.lgb.txt"
CATBOOST_FILE = "model.cbm.json"
TREES_FILE = "trees.npz"
LINEAR_FILE = "linear.json"
CALIBRATION_FILE = "calibration.npz"
FALLBACK_FILE = "fallback.json"
REFERENCE_FILE = "reference.npz"
GOLDEN_FILE = "golden.json"
REQUIRED_FILES = (ONNX_FILE, CALIBRATION_FILE, FALLBACK_FILE, REFERENCE_FILE, GOLDEN_FILE)
NATIVE_FILES = (XGBOOST_FILE, LIGHTGBM_FILE, CATBOOST_FILE)
"""The model in the form of the library that trained it, for people and to compare ``model.onnx`` with; no pickle."""
KNOWN_FILES = frozenset((*REQUIRED_FILES, *NATIVE_FILES, TREES_FILE, LINEAR_FILE, COLUMNS_FILE))

_PARTS, _WEIGHT = ("model", "scorecard"), "_weight"
_RATIO = {f"ratio_{name}": name for name in ("center", "scale", "coefficients", "intercept")}
MAX_MANIFEST_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class Bundle:
    """A verified model folder, parsed; nothing of it is read from disk again.

    Attributes
    ----------
    manifest, model_hash : the manifest and the sha256 (hex) of its bytes
    features : the feature version it was trained with, of the same module hash
    onnx : the serialised scorer
    trees, linear : content of ``trees.npz`` and ``linear.json``, which explain answers; b"" for a model without
    calibration : what the model's prediction sets are made with
    fallback : content of ``fallback.json`` (prior and scorecard)
    scorecard_calibration : what the scorecard's sets are made with
    golden : records and the exact answers they must give
    groupings : the groups of patients that it knows; None for a model without any
    grouped, grouped_scorecard : calibrations by group, of the model and of the scorecard, where groups have a promise
    weighted, weighted_scorecard : calibrations whose rows are weighted as patients come now, where they are
    """

    manifest: Manifest
    model_hash: str
    features: FeatureVersion
    onnx: bytes
    calibration: ConformalCalibration
    fallback: dict[str, Any]
    scorecard_calibration: ConformalCalibration
    golden: list[dict[str, Any]]
    groupings: Groupings | None = None
    grouped: GroupedCalibration | None = None
    grouped_scorecard: GroupedCalibration | None = None
    weighted: WeightedCalibration | None = None
    weighted_scorecard: WeightedCalibration | None = None
    trees: bytes = b""
    linear: bytes = b""

    @property
    def beside(self) -> tuple[Column, ...]:
        """Raw columns that are no features and are asked for because of a grouping."""
        return () if self.groupings is None else self.groupings.beside


@dataclass(frozen=True)
class Calibrations:
    """What one scorer's sets are made with.

    Attributes
    ----------
    whole : of all calibration rows
    cells : of the groups that have a calibration of their own, in the order of the manifest
    weighted : the same scores as ``whole`` with a weight for each; None where all count alike
    """

    whole: ConformalCalibration
    cells: tuple[ConformalCalibration, ...] = ()
    weighted: WeightedCalibration | None = None

    def id_with(self, groups: GroupFacts | None) -> str:
        """sha256 (hex) over all of them, as the manifest names it."""
        if self.weighted is not None:
            return self.weighted.calibration_id
        grouped = self.grouped(groups)
        return self.whole.calibration_id if grouped is None else grouped.calibration_id

    def grouped(self, groups: GroupFacts | None) -> GroupedCalibration | None:
        """The calibrations by group, where a group has a promise.

        Raises
        ------
        InvalidCalibration
            They are not those that the facts describe.
        """
        if groups is None or groups.calibrated_by is None:
            return None
        return GroupedCalibration.of(groups, Groupings(groups), self.whole, self.cells)


def pack_calibration(
    model: ConformalCalibration,
    scorecard: ConformalCalibration,
    model_cells: Sequence[ConformalCalibration] = (),
    scorecard_cells: Sequence[ConformalCalibration] = (),
    weighted: tuple[WeightedCalibration, WeightedCalibration] | None = None,
) -> bytes:
    """Bytes of ``calibration.npz``: sorted float64 scores per class, of the model and of the scorecard.

    ``model_1`` holds the scores of the second class, and ``model_1_cell_0`` those of its rows in the first group that
    has a calibration of its own. ``model_1_weight`` are weights of ``model_1`` and ``ratio_…`` is the density ratio,
    where calibrations are ``weighted`` (of the model, of the scorecard).
    """
    arrays: dict[str, Any] = {"guarantee": np.array([model.guarantee])}
    for part, whole, cells in (("model", model, model_cells), ("scorecard", scorecard, scorecard_cells)):
        for where, calibration in (("", whole), *((f"_cell_{c}", cell) for c, cell in enumerate(cells))):
            for k, scores in enumerate(calibration.scores):
                arrays[f"{part}_{k}{where}"] = scores
    for part, of_part in zip(_PARTS, weighted or (), strict=False):
        arrays |= {f"{part}_{k}{_WEIGHT}": weights for k, weights in enumerate(of_part.weights)}
        arrays |= {name: getattr(of_part.ratio, of) for name, of in _RATIO.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def write_bundle(folder: Path, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> str:
    """Write a model folder and say its ``model_hash``.

    Parameters
    ----------
    folder : a new or empty folder
    facts : every field of ``Manifest`` but ``format_version`` and ``files``
    files : name to content; the required ones and, where there are such, the model in its library's own form,
        ``trees.npz``, ``linear.json`` and ``columns.json``

    Raises
    ------
    ArtefactError
        A file is missing or unknown, or the folder is not empty.
    """
    _check_names(files)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ArtefactError(str(folder.name), "the folder for a new model is not empty")
    entries = {name: FileEntry(size=len(raw), sha256=_sha256(raw)) for name, raw in files.items()}
    manifest = Manifest.model_validate({**facts, "format_version": 1, "files": entries})
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    raw_manifest = manifest.to_bytes()
    (folder / MANIFEST_FILE).write_bytes(raw_manifest)
    return _sha256(raw_manifest)


def read_bundle(
    folder: Path, expected_hash: str | None = None, admit: Callable[[str], None] = lambda _: None
) -> Bundle:
    """The model in that folder: verified whole first, then parsed from the very bytes that were verified.

    Parameters
    ----------
    folder : holds ``manifest.json`` and exactly the files it names
    expected_hash : the ``model_hash`` it must have, where the caller knows it
    admit : raises where a model of that hash is not wanted; called before anything but the manifest is parsed

    Raises
    ------
    ChecksumMismatch
        A file is not the one the manifest names, or the manifest is not the one expected.
    FeatureVersionMismatch
        The feature module or column table here is not the one the model was trained with.
    ArtefactError
        Any other reason not to trust the folder: missing, extra, linked, nested or unreadable files.
    """
    manifest, model_hash, content = verify_folder(folder, expected_hash)
    admit(model_hash)
    golden: list[dict[str, Any]] = _parse_json(GOLDEN_FILE, content[GOLDEN_FILE], list)
    return replace(
        _baseline(manifest, model_hash, content),
        onnx=content[ONNX_FILE],
        golden=golden,
        trees=content.get(TREES_FILE, b""),
        linear=content.get(LINEAR_FILE, b""),
    )


def read_baseline(folder: Path, expected_hash: str | None, admit: Callable[[str], None]) -> Bundle:
    """What of an artefact answers without its model: calibration, scorecard and prior; no scorer, no golden records.

    The other files may be damaged or missing. Parameters and errors are those of ``read_bundle``.
    """
    manifest, model_hash = _read_manifest(folder, expected_hash)
    admit(model_hash)
    _check_names(manifest.files)
    names = (CALIBRATION_FILE, FALLBACK_FILE, *(name for name in (COLUMNS_FILE,) if name in manifest.files))
    content = {name: _read_verified(folder / name, manifest.files[name]) for name in names}
    return _baseline(manifest, model_hash, content)


def _baseline(manifest: Manifest, model_hash: str, content: Mapping[str, bytes]) -> Bundle:
    features = features_of_artefact(manifest, content)
    facts = manifest.groups
    groupings = None if facts is None else _groupings(facts, features)
    n_cells = 0 if facts is None else sum(cell.is_own for cell in facts.cells)
    is_weighted, sure = manifest.weighting is not None, manifest.training_conditional
    model, scorecard = _parse_calibration(
        content[CALIBRATION_FILE], len(manifest.classes), n_cells, sure, is_weighted=is_weighted
    )
    grouped, grouped_scorecard = (_grouped(facts, each) for each in (model, scorecard))
    found = (model.weighted or grouped or model.whole).calibration_id
    if found != manifest.calibration_id:
        raise ChecksumMismatch(CALIBRATION_FILE, "is not the calibration that the manifest names")
    promised = manifest.inner_levels
    if manifest.training_conditional and promised != model.whole.inner_levels(manifest.confidence_level):
        raise ArtefactError(MANIFEST_FILE, "its inner levels are not those of its calibration")
    return Bundle(
        manifest=manifest,
        model_hash=model_hash,
        features=features,
        onnx=b"",
        calibration=model.whole,
        fallback=_parse_json(FALLBACK_FILE, content[FALLBACK_FILE], dict),
        scorecard_calibration=scorecard.whole,
        golden=[],
        groupings=groupings,
        grouped=grouped,
        grouped_scorecard=grouped_scorecard,
        weighted=model.weighted,
        weighted_scorecard=scorecard.weighted,
    )


def verify_folder(folder: Path, expected_hash: str | None = None) -> tuple[Manifest, str, dict[str, bytes]]:
    """Manifest, ``model_hash`` and verified content of every file; no parser but the manifest's has run.

    Raises
    ------
    ArtefactError
        As ``read_bundle``.
    """
    present = _list_plain_files(folder)
    if MANIFEST_FILE not in present:
        raise ArtefactError(MANIFEST_FILE, f"is missing in {folder.name}")
    manifest, model_hash = _read_manifest(folder, expected_hash)
    _check_names(manifest.files)
    for name in sorted(present - manifest.files.keys() - {MANIFEST_FILE}):
        raise ArtefactError(name, "is not named in the manifest")
    for name in sorted(manifest.files.keys() - present):
        raise ArtefactError(name, "is named in the manifest but missing")
    return manifest, model_hash, {n: _read_verified(folder / n, e) for n, e in manifest.files.items()}


def copy_verified(source: Path, target: Path, expected_hash: str | None = None) -> str:
    """Copy the manifest and the files it lists, each from the bytes that were verified, and nothing else.

    Parameters
    ----------
    target : a folder that is not there yet

    Returns
    -------
    str
        The ``model_hash``.

    Raises
    ------
    ArtefactError
        As ``read_bundle``.
    """
    _, model_hash, content = verify_folder(source, expected_hash)
    raw = read_plain_file(source / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    if _sha256(raw) != model_hash:
        raise ChecksumMismatch(MANIFEST_FILE, "was changed while it was copied")
    target.mkdir(parents=True)
    for name, bytes_of in {**content, MANIFEST_FILE: raw}.items():
        (target / name).write_bytes(bytes_of)
    return model_hash


def _read_manifest(folder: Path, expected_hash: str | None) -> tuple[Manifest, str]:
    raw = read_plain_file(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    model_hash = _sha256(raw)
    if expected_hash is not None and model_hash != expected_hash:
        raise ChecksumMismatch(MANIFEST_FILE, f"has sha256 {model_hash[:12]}…, expected {expected_hash[:12]}…")
    return parse_manifest(raw), model_hash


def _check_names(files: Mapping[str, Any]) -> None:
    for name in REQUIRED_FILES:
        if name not in files:
            raise ArtefactError(name, "a model folder needs this file")
    for name in sorted(files.keys() - KNOWN_FILES):
        raise ArtefactError(name, "is no file of a model folder")


def _list_plain_files(folder: Path) -> set[str]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise ArtefactError(folder.name, "is no readable model folder") from error
    for entry in entries:
        if entry.is_symlink():
            raise ArtefactError(entry.name, "is a symbolic link")
        if not entry.is_file(follow_symlinks=False):
            raise ArtefactError(entry.name, "is no plain file")
    return {entry.name for entry in entries}


def _read_verified(path: Path, entry: FileEntry) -> bytes:
    raw = read_plain_file(path, _MAX_FILE_BYTES, entry.size)
    if _sha256(raw) != entry.sha256:
        raise ChecksumMismatch(path.name, "its sha256 is not the one in the manifest")
    return raw


def features_of_artefact(manifest: Manifest, content: Mapping[str, bytes]) -> FeatureVersion:
    """The feature version of a model: of the code here, or made of the column table that travels with the model.

    Parameters
    ----------
    content : verified content of the artefact's files, the column table among them where there is one

    Raises
    ------
    UnknownFeatureVersion, FeatureVersionMismatch, ArtefactError
        As :func:`read_bundle`.
    """
    if COLUMNS_FILE in content:
        features = version_of_bytes(manifest.feature_version, content[COLUMNS_FILE], COLUMNS_FILE)
    else:
        features = get_feature_version(manifest.feature_version)
        if features.is_table:
            raise ArtefactError(COLUMNS_FILE, f"is missing: {features.name} is a column table, which is with its model")
    if features.module_hash != manifest.feature_module_sha256:
        raise FeatureVersionMismatch(features.name, manifest.feature_module_sha256, features.module_hash)
    if table_hash(features.columns) != manifest.column_table_sha256:
        raise FeatureVersionMismatch(features.name, manifest.column_table_sha256, table_hash(features.columns))
    if len(features.feature_names) != manifest.n_features:
        raise ArtefactError(MANIFEST_FILE, f"names {manifest.n_features} features, {features.name} has other ones")
    return features


def _groupings(facts: GroupFacts, features: FeatureVersion) -> Groupings:
    """The declared groupings, which look at columns as the feature version has them."""
    columns = {column.name: column for column in features.columns}
    for grouping in facts.declared:
        column = columns.get(grouping.column)
        is_feature = column is not None and column.role == "feature"
        levels = coded_levels(column) if is_feature and column is not None else grouping.levels
        if grouping.is_feature != is_feature or (column is not None and not is_feature) or grouping.levels != levels:
            raise ArtefactError(
                MANIFEST_FILE, f"the grouping {grouping.name} does not fit the columns of {features.name}"
            )
    return Groupings(facts)


def _grouped(facts: GroupFacts | None, calibrations: Calibrations) -> GroupedCalibration | None:
    try:
        return calibrations.grouped(facts)
    except InvalidCalibration as error:
        raise ArtefactError(MANIFEST_FILE, str(error)) from error


def _parse_calibration(
    raw: bytes, n_classes: int, n_cells: int, confidence: Decimal | None, *, is_weighted: bool
) -> tuple[Calibrations, Calibrations]:
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            content = {name: arrays[name] for name in arrays.files}
        guarantee = str(content.pop("guarantee")[0])
    except (ValueError, KeyError, OSError, EOFError, IndexError) as error:
        raise ArtefactError(CALIBRATION_FILE, "is no table of calibration scores") from error
    parts, places = _PARTS, ("", *(f"_cell_{c}" for c in range(n_cells)))
    stored = (*places, _WEIGHT) if is_weighted else places
    names = {f"{part}_{k}{where}" for part in parts for k in range(n_classes) for where in stored}
    names |= set(_RATIO) if is_weighted else set()
    if content.keys() != names or guarantee not in ("class_conditional", "marginal"):
        raise ArtefactError(CALIBRATION_FILE, f"does not hold the scores of {n_classes} classes")
    kind = cast("Literal['class_conditional', 'marginal']", guarantee)
    if any(array.dtype != np.float64 for array in content.values()):
        raise ArtefactError(CALIBRATION_FILE, "has scores that are not float64")
    try:
        model, scorecard = (
            [
                ConformalCalibration(kind, tuple(content[f"{part}_{k}{where}"] for k in range(n_classes)), confidence)
                for where in places
            ]
            for part in parts
        )
        weighted = [_weighted(whole[0], part, content) for whole, part in zip((model, scorecard), parts, strict=True)]
    except InvalidCalibration as error:
        raise ArtefactError(CALIBRATION_FILE, str(error)) from error
    return Calibrations(model[0], tuple(model[1:]), weighted[0]), Calibrations(
        scorecard[0], tuple(scorecard[1:]), weighted[1]
    )


def _weighted(plain: ConformalCalibration, part: str, content: Mapping[str, Any]) -> WeightedCalibration | None:
    if f"{part}_0{_WEIGHT}" not in content:
        return None
    weights = tuple(content[f"{part}_{k}{_WEIGHT}"] for k in range(plain.n_classes))
    return WeightedCalibration(plain, weights, DensityRatio({of: content[name] for name, of in _RATIO.items()}))


def _parse_json(name: str, raw: bytes, kind: type) -> Any:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ArtefactError(name, "is not JSON") from error
    if not isinstance(value, kind):
        raise ArtefactError(name, f"holds no JSON {kind.__name__}")
    return value


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
