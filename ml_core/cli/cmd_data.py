"""`surety data`: make the synthetic cohort, fetch the hospital data set."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from ml_core.cli.options import file_option
from ml_core.cli.output import emit, note, output_option, picked, progress


@click.group(name="data")
def command() -> None:
    """Make the synthetic cohort (v1), or fetch Diabetes 130-US hospitals (v2)."""


@command.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("data/cohort.parquet"), show_default=True,
              help="File to write, .parquet or .csv; the law goes beside it as NAME.law.parquet.")  # fmt: skip
@click.option("--rows", type=click.IntRange(1, 10_000_000), default=20_000, show_default=True, help="Encounters.")
@click.option("--seed", type=click.IntRange(0), default=20_140, show_default=True, help="Same seed, same cohort.")
@click.option("--start", type=click.DateTime(["%Y-%m-%d"]), default="2026-01-01", show_default=True, help="First day.")
@click.option(
    "--days", type=click.IntRange(1, 36_500), default=365, show_default=True, help="Days the encounters span."
)
@click.option("--shift-age", type=float, default=0.0, show_default=True, help="Drift: years added to every age.")
@click.option(
    "--shift-glucose", type=float, default=0.0, show_default=True, help="Drift: mg/dL added to every glucose."
)
@click.option("--missing", type=click.FloatRange(0, 0.9), default=0.08, show_default=True,
              help="Share of each measurement that was not taken.")  # fmt: skip
@click.option("--prevalence", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Label shift: share readmitted; about 0.15 if not given.")  # fmt: skip
@click.option("--signal", type=float, default=1.0, show_default=True,
              help="Concept drift: factor on the slopes of the law; 0.5 halves every effect.")  # fmt: skip
@click.option("--unit-error", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Share of glucose values entered in mmol/L.")  # fmt: skip
@output_option
def make(
    out: Path, rows: int, seed: int, start: object, days: int, shift_age: float, shift_glucose: float, missing: float,
    prevalence: float | None, signal: float, unit_error: float, output: str,
) -> None:  # fmt: skip
    """Make a synthetic cohort with a known law (a demonstration, never evidence).

    Beside the cohort a second file holds, row by row, the probability each label was drawn with.

    \b
    Example: surety data make --rows 20000 --seed 7 --out data/cohort.parquet
    Drifted: surety data make --shift-age 5 --prevalence 0.25 --out data/later.parquet
    """
    import pandas as pd

    from ml_core.lab.data.cohort import CohortKnobs, make_cohort
    from ml_core.lab.data.table_frames import write_table

    knobs = CohortKnobs(shift_age, shift_glucose, missing, prevalence, signal, unit_error)
    with progress("synthetic cohort", total=2) as advance:
        frame, probability = make_cohort(rows, seed, knobs, start=f"{start:%Y-%m-%d}", days=days)
        advance(1)
        law = out.with_name(f"{out.stem}.law.parquet")
        write_table(frame, out)
        write_table(pd.DataFrame({"true_probability": probability}), law)
        advance(1)
    note("synthetic: no patient stands behind these rows")
    emit(
        {
            "path": str(out),
            "law": str(law),
            "rows": len(frame),
            "patients": int(frame["patient_id"].nunique()),
            "prevalence": round(float(frame["readmission_30d"].mean()), 4),
            "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        },
        output,
    )


@command.command()
@file_option("--out", default=Path("data/diabetes130.parquet"), show_default=True, told="File to write.")
@file_option("--path", "source", told="Take it from this .csv or .parquet file instead of OpenML.")
@click.option("--unverified", is_flag=True, help="Accept rows whose checksum is not the published one.")
@output_option
def fetch(out: Path, source: Path | None, *, unverified: bool, output: str) -> None:
    """Fetch Diabetes 130-US hospitals 1999-2008 (UCI, CC BY 4.0) from OpenML or a file, and verify it.

    \b
    Example: surety data fetch
    Example: surety data fetch --path ~/Downloads/diabetic_data.csv
    """
    from ml_core.lab.data.diabetes130 import FETCH_STEPS, fetch_diabetes130

    with progress("Diabetes 130-US hospitals", total=FETCH_STEPS) as advance:
        fetched = fetch_diabetes130(out, source, unverified=unverified, step=lambda: advance(1))
    note("Diabetes 130-US Hospitals for Years 1999-2008, UCI, doi 10.24432/C5230J, CC BY 4.0")
    emit(
        {
            "path": str(fetched.path),
            **picked(fetched, "origin", "rows", "verified", "csv_sha256"),
        },
        output,
    )
