"""Settings from environment variables: folders, the model to serve, limits. One frozen object, built at the start."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from ml_core.base.errors import ConfigError

__all__ = ["Settings", "load_settings"]


class Settings(BaseSettings):
    """Settings from environment variables with the prefix ``SURETY_``.

    ``MODEL_NAME`` and ``MODEL_STAGE`` (``Production`` means the champion) are understood as well.
    """

    model_config = SettingsConfigDict(
        env_prefix="SURETY_", frozen=True, extra="ignore", protected_namespaces=(), populate_by_name=True
    )

    home: Path = Field(Path(".surety"), description="Folder for promotion records, journal, feature store and MLflow.")
    model: str = Field("", description="Bento tag to serve instead of the promoted one; must have passed its gate.")
    model_name: str = Field(
        "readmission_risk",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        validation_alias=AliasChoices("SURETY_MODEL_NAME", "MODEL_NAME"),
        description="Name of the model to serve.",
    )
    model_stage: Literal["champion"] = Field(
        "champion",
        validation_alias=AliasChoices("SURETY_MODEL_STAGE", "MODEL_STAGE"),
        description="`champion`, or `Production`, its old name; a start with any other stage is refused.",
    )
    workers: int = Field(1, ge=1, le=256, description="Serving processes.")
    max_body_bytes: int = Field(1_048_576, ge=1_024, le=1 << 30, description="Largest JSON body, bytes.")
    max_bulk_bytes: int = Field(268_435_456, ge=1_024, le=1 << 34, description="Largest Arrow body, bytes.")
    max_batch_rows: int = Field(
        1_000, ge=1, le=1_000_000, description="Most records in one JSON batch (37 ms of work, see docs/figures.md)."
    )
    max_bulk_rows: int = Field(1_000_000, ge=1, le=100_000_000, description="Most rows in one Arrow stream.")
    max_bulk_unpacked_bytes: int = Field(
        134_217_728, ge=1_024, le=1 << 34, description="Most bytes that a compressed Arrow stream may unpack to."
    )
    inline_rows: int = Field(
        64, ge=0, le=10_000, description="Rows scored on the event loop; larger calls go to the worker's pools."
    )
    pool_threads: int = Field(
        2, ge=1, le=64, description="Threads for the calls of one model that is slow or takes many rows."
    )
    pool_queue: int = Field(
        2, ge=0, le=10_000, description="Such calls that may wait for a thread; more are refused (429)."
    )
    bulk_threads: int = Field(2, ge=1, le=64, description="Threads that read and write batches.")
    bulk_queue: int = Field(16, ge=0, le=10_000, description="Batches that may wait for one; more are refused (429).")
    deadline_ms: float = Field(
        1_000.0,
        gt=0,
        le=60_000,
        description="Longest wait for the model, ms, plus 1 ms a row; then the fallback answers.",
    )
    max_requests: int = Field(
        256, ge=1, le=100_000, description="Most requests of one worker in work at a time; more are refused (429)."
    )
    body_timeout_s: float = Field(30.0, gt=0, le=3_600, description="Longest time a caller may take to send a body, s.")
    max_buffered_bytes: int = Field(
        536_870_912, ge=1_024, le=1 << 36, description="Most bytes of bodies held at a time by one worker; more: 429."
    )
    api_keys_file: Path | None = Field(
        None,
        description="File of API keys (`surety keys add` makes it); where it is set, every route but the health probes "
        "asks for one.",
    )
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="Prefix under which a proxy shows the service, such as `/surety`; with or without it, a "
        "path is understood.",
    )
    cors_origins: str = Field(
        "",
        pattern=r"^(\*|https?://[A-Za-z0-9.:\[\]-]+(,https?://[A-Za-z0-9.:\[\]-]+)*)?$",
        description="Origins whose pages may call the service from a browser, separated by commas, such as "
        "`https://ward.example.org`; `*`: every origin; empty: none.",
    )
    keep_alive_s: int = Field(
        75,
        ge=1,
        le=3_600,
        description="How long an idle connection is kept open, s; longer than a balancer keeps its own, which so never "
        "sends on a connection that is being closed.",
    )
    poll_s: float = Field(
        0.5, gt=0.01, le=1.0, description="How often a worker looks for a changed rollout, or changed keys, s."
    )
    respawn: bool = Field(
        True, description="Replace lost processes in a container too, as BentoML does outside of one."
    )
    missing_worker_s: float = Field(
        30.0, gt=0, le=3_600, description="How long a lost worker may be missing before /livez fails, s."
    )
    circuit_failures: int = Field(5, ge=1, le=10_000, description="Failures in a row that open a model's circuit.")
    circuit_error_rate: float = Field(0.5, gt=0, le=1, description="Share of failed calls in the window that opens it.")
    circuit_p95_ms: float = Field(
        500.0, gt=0, description="95th percentile of call times in the window that opens it, ms."
    )
    circuit_window: int = Field(100, ge=1, le=100_000, description="Calls in that window.")
    circuit_minimum_calls: int = Field(20, ge=1, le=100_000, description="Calls before the window is judged.")
    circuit_wait_s: float = Field(
        60.0, gt=0, le=86_400, description="First wait of an open circuit before it probes, s."
    )
    circuit_wait_max_s: float = Field(300.0, gt=0, le=86_400, description="Longest wait after failed probes, s.")
    circuit_probes: int = Field(3, ge=1, le=100, description="Probes that must succeed before the circuit closes.")

    feature_modules: str = Field(
        "",
        description="Python files of feature versions that are not in this package, separated by `:` (`;` on Windows), "
        "such as `/models/nuclei.py`; a service needs those of its models.",
    )
    database: str = Field(
        "",
        pattern=r"^(postgres(ql)?://\S+)?$",
        description="PostgreSQL database that is the home of one service on many machines, such as "
        "`postgresql://surety@db/surety`; empty: the folder `SURETY_HOME` is.",
    )
    objects: str = Field(
        "",
        pattern=r"^((s3|gs|az|abfss?|file)://\S+|/\S*)?$",
        description="Object store of such a service, such as `s3://bucket/prefix`, or a folder that all machines see.",
    )
    machine: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$",
        description="Name of this machine in answers and reports; empty: the host's name.",
    )
    subject_key_file: Path | None = Field(
        None,
        description="File with the key that makes pseudonyms of subjects, the same on every machine; default: "
        "`subject.key` in the home, made on first use.",
    )

    log_inputs: bool = Field(
        True, description="Keep the feature values of every answer; replay, drift and retraining need them."
    )
    log_key_file: Path | None = Field(
        None,
        description="File with the key of the log's chains (64 hex digits a line; the first is used), best outside the "
        "home; default: `log.key` in the home, made on first use.",
    )
    log_retention_days: float = Field(
        180.0, gt=0, le=36_500, description="How long `surety log prune` keeps answers, days."
    )
    label_horizon_days: float = Field(
        30.0, ge=0, le=36_500, description="How long after an answer its label is certain and begins to count, days."
    )
    coverage_alarm_labels: float = Field(
        50_000.0, ge=100, le=1e12, description="Mean number of labels to a false coverage alarm of a class, at least."
    )
    outcome_grace_days: float = Field(
        1.0,
        ge=0,
        le=36_500,
        description="How long after its label horizon an outcome may still come before it is missing, days; not less "
        "than the time between two imports of labels.",
    )
    unverified_after: int = Field(
        200,
        ge=20,
        le=1_000_000,
        description="Due answers of a model from which on missing outcomes are judged.",
    )
    unverified_missing: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Share of the latest due answers without an outcome above which answers say unverified.",
    )
    unverified_gap: float = Field(
        0.02,
        gt=0,
        le=1,
        description="Answers say unverified if the return of outcomes depends on the set, and weighting for that moves "
        "the coverage of a class by more than this.",
    )
    drift_window_rows: int = Field(1_000, ge=100, le=1_000_000, description="Answers in one window of the drift alarm.")
    drift_block_rows: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="Consecutive answers that are one piece of evidence of the drift alarm: at least as many as come "
        "together, such as a ward's batch.",
    )
    drift_alarm_windows: float = Field(
        1_000.0, ge=10, le=1e12, description="Mean number of windows to a false drift alarm, at least."
    )
    monitor_timeout_s: float = Field(
        180.0, gt=0, le=86_400, description="Silence of the monitor after which answers say unmonitored, s."
    )

    trusted_keys: str = Field(
        "",
        pattern=r"^[\s,]*(ed25519:[A-Za-z0-9+/]{43}=[\s,]*)*$",
        description="Public keys that vouch for models besides those of the home and the image, as `surety trust show` "
        "prints them; separated by blanks or commas.",
    )

    @field_validator("model_stage", mode="before")
    @classmethod
    def _is_champion(cls, value: object) -> str:
        if str(value).lower() not in {"champion", "production"}:
            raise ValueError(
                f"is {value}, but only the champion (Production) is served: leave it out, and try another model with "
                "`surety rollout shadow` or `surety rollout canary`"
            )
        return "champion"

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of ``cors_origins``, one by one."""
        return tuple(self.cors_origins.split(",")) if self.cors_origins else ()

    @property
    def machine_name(self) -> str:
        """Name of this machine: as set, or the host's."""
        plain = "".join(c for c in socket.gethostname() if c.isalnum() or c in "._-").strip("._-")
        return self.machine or plain[:63] or "machine"

    @property
    def registry_uri(self) -> str:
        """Where MLflow's registry is: ``MLFLOW_TRACKING_URI``, or the home's database; may hold credentials.

        In a database of many machines MLflow's tables have the schema ``mlflow``.
        """
        if named := os.environ.get("MLFLOW_TRACKING_URI"):
            return named
        if not self.database:
            return f"sqlite:///{self.home.absolute() / 'mlflow.db'}"
        address, _, rest = self.database.partition("?")
        more = [part for part in rest.split("&") if part and not part.startswith("options=")]
        asked = "&".join((*more, "options=-csearch_path%3Dmlflow"))
        return f"postgresql+psycopg://{address.partition('://')[2]}?{asked}"

    @property
    def registry_shown(self) -> str:
        """The registry's address without credentials, for people and reports."""
        try:
            parts = urlsplit(self.registry_uri)
            if not parts.hostname:
                return self.registry_uri
            port = parts.port
        except ValueError:  # brackets that stay open, a port that is none
            return "an address that is none"
        return f"{parts.scheme}://{parts.hostname}{f':{port}' if port else ''}{parts.path}"

    @property
    def promotions(self) -> Path:
        """Folder with one promotion record per model name."""
        return self.home / "promotions"

    @property
    def gates(self) -> Path:
        """Folder with one gate report per model hash."""
        return self.home / "gates"

    @property
    def trust(self) -> Path:
        """Folder with the public keys that are trusted and the home's own signing key."""
        return self.home / "trust"

    @property
    def journal(self) -> Path:
        """Append-only JSON lines: every decision with its numbers."""
        return self.home / "journal.jsonl"

    @property
    def rollouts(self) -> Path:
        """Folder with one rollout state per model name."""
        return self.home / "rollout"

    @property
    def worker_reports(self) -> Path:
        """Folder with the reports of the processes that serve the configured model."""
        return self.home / "workers" / self.model_name

    @property
    def monitor(self) -> Path:
        """Folder with the monitor's memory, one file per model name."""
        return self.home / "monitor"

    @property
    def models(self) -> Path:
        """Folder with models in the layout of the Bento store, looked into where that store lacks a tag."""
        return self.home / "models"

    @property
    def shadow_log(self) -> Path:
        """Folder with what shadow scoring found, prediction by prediction."""
        return self.home / "shadow" / self.model_name

    @property
    def log(self) -> Path:
        """Folder with the prediction log of the configured model."""
        return self.home / "log" / self.model_name

    @property
    def labels(self) -> Path:
        """File with the labels of the configured model's answers."""
        return self.home / "labels" / f"{self.model_name}.db"

    @property
    def subject_key(self) -> Path:
        """File with the key that makes pseudonyms of subjects; it lies outside the log."""
        return self.subject_key_file or self.home / "subject.key"

    @property
    def log_key(self) -> Path:
        """File with the key of the log's chains."""
        return self.log_key_file or self.home / "log.key"

    @property
    def monitor_state(self) -> Path:
        """File with what the monitor published about the configured model."""
        return self.monitor / f"{self.model_name}.state.json"

    @property
    def feature_store(self) -> Path:
        """Folder with one Delta table per feature version."""
        return self.home / "features"


def load_settings(**given: Any) -> Settings:
    """Settings from the environment, and from ``given`` fields, which come first.

    Raises
    ------
    ConfigError
        A variable has a value that cannot be used; the message names it.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        variable = name if name.isupper() else f"SURETY_{name.upper()}"
        raise ConfigError(variable, first["msg"].removeprefix("Value error, ")) from error
