"""What the environment decides: places, the model to serve, limits. One frozen object, built at the edge."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ml_core.errors import ConfigError

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
    model_stage: str = Field(
        "Production",
        pattern=r"^(?i:production|champion)$",
        validation_alias=AliasChoices("SURETY_MODEL_STAGE", "MODEL_STAGE"),
        description="Only the champion is served; Production is its old name.",
    )
    workers: int = Field(1, ge=1, le=256, description="Serving processes.")
    max_body_bytes: int = Field(1_048_576, ge=1_024, le=1 << 30, description="Largest JSON body, bytes.")
    max_bulk_bytes: int = Field(268_435_456, ge=1_024, le=1 << 34, description="Largest Arrow body, bytes.")
    max_batch_rows: int = Field(
        1_000, ge=1, le=1_000_000, description="Most records in one JSON batch (42 ms of work, see docs/figures.md)."
    )
    max_bulk_rows: int = Field(1_000_000, ge=1, le=100_000_000, description="Most rows in one Arrow stream.")
    inline_rows: int = Field(
        64, ge=0, le=10_000, description="Rows scored on the event loop; larger calls go to the worker's pool."
    )
    pool_threads: int = Field(2, ge=1, le=64, description="Threads of that pool.")

    @property
    def promotions(self) -> Path:
        """Folder with one promotion record per model name."""
        return self.home / "promotions"

    @property
    def gates(self) -> Path:
        """Folder with one gate report per model hash."""
        return self.home / "gates"

    @property
    def journal(self) -> Path:
        """Append-only JSON lines: every decision with its numbers."""
        return self.home / "journal.jsonl"

    @property
    def feature_store(self) -> Path:
        """Folder with one Delta table per feature version."""
        return self.home / "features"


def load_settings() -> Settings:
    """Settings from the environment.

    Raises
    ------
    ConfigError
        A variable has a value that cannot be used; the message names it.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        variable = name if name.isupper() else f"SURETY_{name.upper()}"
        raise ConfigError(variable, first["msg"]) from error
