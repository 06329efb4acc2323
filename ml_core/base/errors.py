"""Every error this project raises on purpose, in one tree.

The docstring of a class says when it is raised. A class takes facts and builds the message: what was found, what was
expected, and what to do. ``code`` is stable; clients and exit codes depend on it. HTTP status codes are in
``serve/http``, in one table by ``code``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = [
    "ArtefactError",
    "BadModelOutput",
    "CalibrationDisagrees",
    "CalibrationTooSmall",
    "CannotJudge",
    "ChecksumMismatch",
    "CircuitOpen",
    "ConfigError",
    "DataError",
    "DeadlineExceeded",
    "FeatureVersionMismatch",
    "FieldProblem",
    "GoldenMismatch",
    "HomeTooNew",
    "HomeTooOld",
    "HomeUnreachable",
    "HomeUnwritable",
    "InvalidCalibration",
    "InvalidRecord",
    "InvalidRequest",
    "InvalidRows",
    "LabelsNotStored",
    "LogBusy",
    "LogDamaged",
    "LogUnavailable",
    "ModelUnavailable",
    "NotGated",
    "NotJson",
    "NotLoaded",
    "Overloaded",
    "PromotionRefused",
    "RegistryError",
    "RegistryUnreachable",
    "RetrainBusy",
    "RolloutConflict",
    "RolloutRefused",
    "ScorerDisagrees",
    "SeatLost",
    "SpoolForked",
    "SuretyError",
    "UnknownFeatureVersion",
    "WorkersLost",
]


class SuretyError(Exception):
    """Base of all errors raised on purpose."""

    code = "internal"

    def __reduce__(self) -> tuple[Any, ...]:
        """How one comes out of another process: as it is, its message is not built again."""
        return _from_another_process, (type(self), self.args), self.__dict__


def _from_another_process(kind: type[SuretyError], arguments: tuple[Any, ...]) -> SuretyError:
    error = kind.__new__(kind)
    error.args = arguments
    return error


class _AboutError(SuretyError):
    """Base of errors that name a file, setting, model or command (``what``) and say what is wrong with it."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what}: {problem}")
        self.what = what


# --- what a caller sent -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One field of one record that cannot be accepted, and why.

    ``problem`` may quote the offending value: it goes back to the caller who sent it and never to a log.
    """

    field: str
    problem: str


class InvalidRecord(SuretyError):
    """Raised when a record breaks the column table of its feature version."""

    code = "invalid_record"

    def __init__(self, fields: Sequence[FieldProblem]) -> None:
        self.fields = tuple(fields)
        super().__init__(f"{len(self.fields)} field(s) cannot be accepted: {', '.join(f.field for f in self.fields)}")


class InvalidRequest(SuretyError):
    """Raised when a request's own fields (not its records) are wrong."""

    code = "invalid_request"

    def __init__(self, fields: Sequence[FieldProblem]) -> None:
        self.fields = tuple(fields)
        super().__init__("; ".join(f"{f.field}: {f.problem}" for f in self.fields))


class NotJson(SuretyError):
    """Raised when a body is not strict JSON; the text says why, without quoting the body."""

    code = "invalid_json"


# --- configuration and data ---------------------------------------------------------------------------------------


class ConfigError(_AboutError):
    """Raised when a configuration file or environment variable cannot be used."""

    code = "config"


class DataError(_AboutError):
    """Raised when a table cannot be read or used at all (missing file, unknown format, missing columns, no rows)."""

    code = "data"


class InvalidRows(SuretyError):
    """Raised when a table has rows that break the column table and no quarantine was asked for."""

    code = "invalid_rows"

    def __init__(
        self,
        where: str,
        rows: int,
        total: int,
        checks: Sequence[tuple[str, str, int]],
        unknown_levels: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    ) -> None:
        self.rows = rows
        self.total = total
        self.checks = tuple(checks)  # (column, check, how many rows)

        def named(column: str, check: str) -> str:
            levels = unknown_levels.get(column, {}) if check == "not a level" else {}
            return f": {', '.join(f'{level!r} {n}' for level, n in levels.items())}" if levels else ""

        detail = "; ".join(
            f"{column}: {check} ({count} rows{named(column, check)})" for column, check, count in self.checks[:10]
        )
        more = "" if len(self.checks) <= 10 else f"; and {len(self.checks) - 10} more"
        super().__init__(
            f"{where}: {rows} of {total} rows break the column table: {detail}{more}. "
            "Correct them, or set them aside with --quarantine"
        )


class WorkersLost(SuretyError):
    """Raised when processes that shared a piece of work ended before it was done; what they had finished is kept."""

    code = "workers_lost"

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(f"{problem}: {cure}")


class UnknownFeatureVersion(SuretyError):
    """Raised when a feature version is asked for that this code does not have."""

    code = "unknown_feature_version"

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"feature version {name!r} is not known here; known: {', '.join(known)}")


# --- conformal ----------------------------------------------------------------------------------------------------


class CalibrationTooSmall(SuretyError):
    """Raised at training time when a class has too few calibration rows for the confidence asked."""

    code = "calibration_too_small"

    def __init__(self, label: object, rows: int, needed: int, level: object) -> None:
        super().__init__(
            f"class {label!r} has {rows} calibration rows; confidence {level} needs {needed}: "
            "add rows or lower the confidence"
        )


class InvalidCalibration(SuretyError):
    """Raised when arrays cannot be a conformal calibration (order, finiteness, shapes, labels)."""

    code = "invalid_calibration"

    def __init__(self, problem: str) -> None:
        super().__init__(f"calibration: {problem}")


class CalibrationDisagrees(SuretyError):
    """Raised at training time when MAPIE's threshold for a class differs from ours."""

    code = "calibration_disagrees"

    def __init__(self, label: object, ours: float, mapie: float) -> None:
        super().__init__(f"class {label!r}: our threshold {ours!r} is not MAPIE's {mapie!r}; nothing was registered")


# --- artefacts ----------------------------------------------------------------------------------------------------


class ArtefactError(_AboutError):
    """Raised when a model folder cannot be trusted or used."""

    code = "artefact"


class ChecksumMismatch(ArtefactError):
    """Raised when a file of a model folder is not the one its manifest names."""

    code = "checksum_mismatch"


class FeatureVersionMismatch(ArtefactError):
    """Raised when a model was trained with another edition of its feature module than the one present here."""

    code = "feature_version_mismatch"

    def __init__(self, version: str, expected: str, found: str) -> None:
        super().__init__(
            "manifest.json",
            f"trained with feature version {version} of sha256 {expected[:12]}…, the module here has {found[:12]}…: "
            "a changed transform must be a new version. Use the edition that trained it, or train it again",
        )


class GoldenMismatch(ArtefactError):
    """Raised when a loaded model does not reproduce its own golden answers."""

    code = "golden_mismatch"

    def __init__(self, index: int, what: str) -> None:
        super().__init__(
            "golden.json", f"record {index} no longer gives its recorded {what}; the model must not answer"
        )


class ScorerDisagrees(ArtefactError):
    """Raised when the converted model differs from the one it was made of."""

    code = "scorer_disagrees"

    def __init__(self, difference: float, limit: float) -> None:
        super().__init__("model.onnx", f"differs from the trained model by {difference:.3g}, more than {limit:.0e}")


# --- models in their stores ---------------------------------------------------------------------------------------


class RegistryError(_AboutError):
    """Raised when the MLflow registry refuses, lacks or cannot deliver what was asked."""

    code = "registry"


class RegistryUnreachable(RegistryError):
    """Raised when the MLflow registry does not answer in time."""

    code = "registry_unreachable"


class PromotionRefused(SuretyError):
    """Raised when a gate or a promotion rule says no; ``rules`` names those that failed."""

    code = "promotion_refused"

    def __init__(self, model: str, rules: Sequence[str]) -> None:
        self.rules = tuple(rules)
        super().__init__(f"{model} is refused by: {', '.join(self.rules)}")


class RolloutRefused(_AboutError):
    """Raised when a change of the rollout is not allowed: no passed gate, other columns, nothing to go back to."""

    code = "rollout_refused"


class RolloutConflict(SuretyError):
    """Raised when the rollout was changed by somebody else meanwhile."""

    code = "rollout_conflict"

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"the rollout is at generation {found}, not {expected}: look again and repeat")


class RetrainBusy(SuretyError):
    """Raised when retraining is asked for while another run is at it."""

    code = "retrain_busy"

    def __init__(self, model: str) -> None:
        super().__init__(f"{model} is being retrained already: wait for that run to end")


class CannotJudge(SuretyError):
    """Raised when rows cannot decide a question at all (none of a class, an empty split)."""

    code = "cannot_judge"

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what} cannot be judged: {problem}")


class NotGated(SuretyError):
    """Raised when a model without a passed gate is asked to answer."""

    code = "not_gated"

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(f"{model} may not answer: {problem}")


class HomeUnwritable(SuretyError):
    """Raised when ``SURETY_HOME`` cannot be written to, be it that its disk is full."""

    code = "home_unwritable"

    def __init__(self, problem: str) -> None:
        super().__init__(f"SURETY_HOME cannot be written to: {problem} (docs/runbook.md, The disk is full)")


class HomeUnreachable(SuretyError):
    """Raised when the database or the object store of a home on many machines cannot be reached now."""

    code = "home_unreachable"

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place} cannot be reached: {problem} (docs/runbook.md, The database is away)")


class HomeTooOld(SuretyError):
    """Raised when a home's tables are of an earlier version than this release works with."""

    code = "home_too_old"

    def __init__(self, kind: str, found: int, wanted: int) -> None:
        super().__init__(
            f"the home's tables for {kind} are of version {found}, this release needs {wanted}: run `surety home "
            "migrate`, which leaves them usable by the release before"
        )


class HomeTooNew(SuretyError):
    """Raised when a home's tables are of a version that this release must not touch."""

    code = "home_too_new"

    def __init__(self, kind: str, found: int, known: int) -> None:
        super().__init__(
            f"the home's tables for {kind} are of version {found}, this release knows versions up to {known}: "
            "use the release that made them, or a newer one"
        )


class SeatLost(SuretyError):
    """Raised when a process that only one may be at a time finds that another has taken its place meanwhile."""

    code = "seat_lost"

    def __init__(self, name: str) -> None:
        super().__init__(f"another process has taken the place of {name} meanwhile: nothing was written")


class ModelUnavailable(SuretyError):
    """Raised when no model can answer for now; ``retry_after_s`` where it is known when to ask again."""

    code = "model_unavailable"
    retry_after_s: float | None = None

    def __init__(self, problem: str) -> None:
        super().__init__(problem)


class CircuitOpen(ModelUnavailable):
    """Raised when a circuit breaker refuses a call without making it."""

    code = "circuit_open"

    def __init__(self, name: str, state: str, reason: str, retry_after_s: float) -> None:
        self.name = name
        self.state = state
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(f"circuit {name} is {state} ({reason}); ask again in {retry_after_s:.1f} s")


class DeadlineExceeded(ModelUnavailable):
    """Raised when a model call has not come back in time; it may still be running."""

    code = "deadline"

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"the model gave no answer within {deadline_s:g} s")


class Overloaded(SuretyError):
    """Raised when a request is refused at once because more wait already than can be answered in time."""

    code = "overloaded"

    def __init__(self, waiting: int, limit: int, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{waiting} calls are waiting or running, at most {limit} may")


class NotLoaded(ModelUnavailable):
    """Raised when no model is loaded: none promoted, not in the Bento store, or refused on the way."""

    code = "model_not_loaded"


class BadModelOutput(ModelUnavailable):
    """Raised when a model's output is no set of probabilities (shape, finite, sum of one)."""

    code = "bad_model_output"


# --- the prediction log -------------------------------------------------------------------------------------------


class LogUnavailable(SuretyError):
    """Raised in strict mode when an answer cannot be stored and so must not be given."""

    code = "log_unavailable"

    def __init__(self, problem: str, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"the prediction log cannot store: {problem}")


class LogBusy(SuretyError):
    """Raised when a file of the prediction log, or tables, are to be changed while others use them."""

    code = "log_busy"

    def __init__(
        self, file: str, problem: str = "a worker writes to it; closed days can be changed, or stop the service first"
    ) -> None:
        super().__init__(f"{file}: {problem}")


class LogDamaged(SuretyError):
    """Raised when a file of the prediction log cannot be read or is not what it should be."""

    code = "log_damaged"

    def __init__(self, file: str, problem: str) -> None:
        self.file = file
        super().__init__(f"{file}: {problem}")


class SpoolForked(LogDamaged):
    """Raised when a spool of the prediction log and what the home's database has of it have parted ways."""

    code = "spool_forked"


class LabelsNotStored(SuretyError):
    """Raised when labels cannot be stored for now: the disk is full or read-only, or others hold the file too long."""

    code = "labels_not_stored"

    def __init__(self, file: str, problem: str, retry_after_s: float = 1.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{file}: none of these labels was stored: {problem}; to send them again is safe")
