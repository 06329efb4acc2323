"""A project from its rows to a model that can be served, step by step; what was done before is not done again."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ml_core.base.documents import Document, read_document, write_document
from ml_core.base.errors import ArtefactError, ConfigError
from ml_core.base.settings import Settings, load_settings
from ml_core.features.columns import with_role
from ml_core.lab.batch.table_places import find_tables
from ml_core.lab.config import ModelConfig, load_config
from ml_core.lab.data.feature_pipeline import FeaturePipeline
from ml_core.lab.data.giveaways import Giveaway, Readings, giveaways
from ml_core.lab.journeys.challenger import train_challenger
from ml_core.lab.judging.promoter import Promotion, promote_version
from ml_core.lab.registry.importer import import_version
from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.lab.training.labelled_rows import LabelledRows, rows_from_store
from ml_core.lab.training.packing import Note
from ml_core.serve.model.bundle import verify_folder
from ml_core.serve.model.promotion_record import RuleVerdict

__all__ = ["STEPS", "ClassCoverage", "Project", "ProjectRun", "open_project", "run_project"]

STEPS = ("features", "answers", "train", "gate and promotion", "import")
MODEL_FILE = "model.yaml"
_HOME = ".surety"
_STATE = "run.json"

Done = Callable[[str], None]
"""Called after each step with its name."""


@dataclass(frozen=True, slots=True)
class Project:
    """A folder that `surety init` has written, or a configuration by itself.

    Attributes
    ----------
    path : as it was named
    file : the configuration
    config : what the file says, with the source of its rows
    settings : of its home: ``SURETY_HOME`` where that is set, else ``.surety`` in the project's folder; of a
        configuration by itself, ``.surety`` in the working directory
    """

    path: Path
    file: Path
    config: ModelConfig
    settings: Settings

    @property
    def has_own_home(self) -> bool:
        """Whether everything made lies in the project's folder."""
        return self.settings.home == self.path / _HOME


@dataclass(frozen=True, slots=True)
class ClassCoverage:
    """Coverage of one class on test rows.

    Attributes
    ----------
    label, rows : the class, and its test rows
    covered : share of them with the class in the set
    accepted_from, accepted_to : between them it passes the gate; None where nothing is asked
    mean_set_size : of their sets
    """

    label: str
    rows: int
    covered: float
    accepted_from: float | None
    accepted_to: float | None
    mean_set_size: float | None


@dataclass(frozen=True, slots=True)
class ProjectRun:
    """How a run ended.

    Attributes
    ----------
    status : ``ready``: it can be served; ``refused``: a rule said no; ``asked``: a question waits for its answer
    version, tag, model_hash : of the model; empty where there is none
    metrics : of the model on test rows
    classes : coverage of each class
    failed : rules that said no
    telling : columns that give every class away, and were not said to be known before
    steps : what was done now
    """

    status: Literal["ready", "refused", "asked"]
    version: str = ""
    tag: str = ""
    model_hash: str = ""
    metrics: dict[str, float] | None = None
    classes: tuple[ClassCoverage, ...] = ()
    failed: tuple[RuleVerdict, ...] = ()
    telling: tuple[Giveaway, ...] = ()
    steps: tuple[str, ...] = ()


class _State(Document):
    """What was done of a project, and with which content of its files."""

    fingerprint: str
    table_version: int = -1
    version: str = ""


def open_project(path: Path) -> Project:
    """The project in that folder, or that a configuration makes by itself.

    Raises
    ------
    ConfigError
        There is none, or its files cannot be used.
    """
    if path.is_file():
        config = load_config(path)
        return Project(path, path, config, load_settings(model_name=config.model))
    file = path / MODEL_FILE
    if not file.is_file():
        what = "there is no such folder" if not path.exists() else f"is no project: it has no {MODEL_FILE}"
        raise ConfigError(str(path), f"{what}; `surety init ROWS --label COLUMN {path}` makes one")
    config = load_config(file)
    home = Path(os.environ.get("SURETY_HOME") or path / _HOME)
    return Project(path, file, config, load_settings(home=home, model_name=config.model))


def run_project(
    project: Project, note: Note, done: Done, *, force: bool = False, start_over: bool = False
) -> ProjectRun:
    """Features, training, gate, promotion and import, as far as they are missing.

    A step is done again when the configuration, the column table or the file of rows has changed since.

    Parameters
    ----------
    note : called with what is done, in words
    done : called after each of ``STEPS``
    force : do every step again
    start_over : put the project's own home aside first, so that no earlier champion is in the way

    Raises
    ------
    DataError, InvalidRows, ConfigError
        Rows or files cannot be used.
    ArtefactError, CalibrationTooSmall, CalibrationDisagrees, RegistryError
        As ``train_challenger``.
    """
    if start_over:
        _put_aside(project, note)
    return _Run(project, note, done, force=force).run()


class _Run:
    """One run over the steps."""

    def __init__(self, project: Project, note: Note, done: Done, *, force: bool) -> None:
        self._project, self._config, self._settings = project, project.config, project.settings
        self._note, self._done = note, done
        self._path = project.settings.home / f"{project.config.model}.{_STATE}"
        self._state = self._known_state(force=force)
        self._steps: list[str] = []

    def run(self) -> ProjectRun:
        """All steps."""
        rows = self._features()
        telling = self._unanswered(rows)
        self._done(STEPS[1])
        if telling:
            return ProjectRun("asked", telling=telling, steps=tuple(self._steps))
        registry = ModelRegistry(self._settings)
        self._train()
        version = registry.by_version(self._config.model, self._state.version)
        self._done(STEPS[2])
        self._note("judging it")
        decision = promote_version(registry, version, self._config, self._settings)
        self._done(STEPS[3])
        with registry.bundle_folder(version) as folder:
            metrics = _metrics_in(folder)
        judged = ProjectRun(
            status="refused",
            version=version.version,
            model_hash=decision.model_hash,
            metrics=metrics,
            classes=_classes(decision, metrics, rows.classes),
            failed=decision.failed,
        )
        if decision.decision == "refused":
            return replace(judged, steps=tuple(self._steps))
        if decision.decision == "promoted":
            self._steps.append("promotion")
            self._note(f"version {decision.version} is the champion ({decision.model_hash[:12]}…)")
        imported = import_version(registry, version, self._settings)
        self._steps += ["import"] if imported.is_new else []
        self._done(STEPS[4])
        return replace(judged, status="ready", tag=imported.tag, steps=tuple(self._steps))

    def _known_state(self, *, force: bool) -> _State:
        fingerprint = _fingerprint(self._project)
        try:
            known = read_document(self._path, _State)
        except ArtefactError:  # of another edition, or damaged: it only saves work
            known = None
        same = known is not None and known.fingerprint == fingerprint and not force
        return known if same and known is not None else _State(fingerprint=fingerprint)

    def _keep(self, **changed: Any) -> None:
        self._state = self._state.model_copy(update=changed)
        write_document(self._path, self._state)

    def _features(self) -> LabelledRows:
        if self._state.table_version < 0:
            self._note(f"reading {self._config.data.source} into the feature store")
            result = FeaturePipeline(self._config, self._settings).run()
            if result.left_out:
                self._note(f"{result.left_out:,} rows are left out by data.leave_out_labels")
            self._steps.append("features")
            self._keep(table_version=result.version)
        self._done(STEPS[0])
        return rows_from_store(self._config, self._settings, self._state.table_version)

    def _train(self) -> None:
        if not self._state.version:
            version = self._state.table_version
            challenger = train_challenger(self._config, self._settings, self._note, table_version=version)
            self._steps.append("train")
            self._keep(version=challenger.version.version if challenger.version else "")

    def _unanswered(self, rows: LabelledRows) -> tuple[Giveaway, ...]:
        """Features that give every class away and that the configuration does not say to be known before."""
        known = set(self._config.data.known_before)
        found = giveaways(_readings(rows), rows.y_index, len(rows.classes))
        return tuple(one for one in found if one.every_class and one.column not in known)


def _readings(rows: LabelledRows) -> list[Readings]:
    label = with_role(rows.features.columns, "label")
    readings = []
    for column in rows.features.features:
        values = rows.columns[column.name]
        if label is None or column.dtype == "text":
            continue
        if column.dtype in ("category", "bool"):
            readings.append(Readings(column.name, values.astype(np.int64)))
            continue
        known = np.isfinite(values)
        codes = np.full(values.size, -1, dtype=np.int64)
        codes[known] = np.unique(values[known], return_inverse=True)[1]
        readings.append(Readings(column.name, codes, values.astype(np.float64)))
    return readings


def _fingerprint(project: Project) -> str:
    """sha256 (hex) over the two files, and size and time of change of the rows' files, or tags of their objects."""
    digest = hashlib.sha256()
    for path in (project.file, project.config.columns):
        digest.update(b"" if path is None else path.read_bytes())
    tables = find_tables(project.config.data.source)
    for name, place in zip(tables.names, tables.places, strict=True):
        if tables.is_folder:
            digest.update(f"{name}\0".encode())
        if not isinstance(place, Path):
            digest.update(place.digest.encode())
        elif place.is_file():
            status = place.stat()
            digest.update(f"{status.st_size}:{status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _put_aside(project: Project, note: Note) -> None:
    if not project.has_own_home:
        raise ConfigError(
            "--start-over", f"is for a home in the project, not for SURETY_HOME ({project.settings.home})"
        )
    home, number = project.settings.home, 1
    if not home.exists():
        return
    while (aside := home.with_name(f"{home.name}-old-{number}")).exists():
        number += 1
    shutil.move(home, aside)
    note(f"{home} is put aside as {aside.name}")


def _metrics_in(folder: Path) -> dict[str, float]:
    manifest, _, _ = verify_folder(folder, None)
    return dict(manifest.metrics)


def _classes(decision: Promotion, metrics: dict[str, float], classes: Sequence[object]) -> tuple[ClassCoverage, ...]:
    limits = {rule.rule: rule.limit for rule in decision.gate.rules}
    found = []
    for label in classes:
        covered = metrics.get(f"coverage_class_{label}")
        if covered is not None:
            found.append(
                ClassCoverage(
                    label=str(label),
                    rows=int(metrics.get(f"n_class_{label}", 0)),
                    covered=covered,
                    accepted_from=limits.get(f"coverage_class_{label}"),
                    accepted_to=limits.get(f"coverage_ceiling_class_{label}"),
                    mean_set_size=metrics.get(f"mean_set_size_class_{label}"),
                )
            )
    return tuple(found)
