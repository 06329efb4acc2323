"""`surety drift`: whether the rows of now still look like the reference."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.options import engine_options, file_option, settings_option
from ml_core.cli.output import emit, note, progress, refuse

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.lab.batch.engines import Engine
    from ml_core.lab.config import DataConfig, DriftConfig
    from ml_core.lab.drift.drift_check import DriftCheck
    from ml_core.lab.drift.drift_report import DriftReport
    from ml_core.serve.features.versions import FeatureVersion


class Report(click.ParamType):  # type: ignore[type-arg]  # generic only in newer editions of click
    """``table``, ``json`` or a file for the JSON report."""

    name = "table|json|FILE.json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """The form, or the file."""
        text = str(value)
        if text not in ("table", "json") and not text.lower().endswith(".json"):
            self.fail(f"{text!r} is neither table, json nor a file that ends in .json", param, ctx)
        return text if text in ("table", "json") else Path(text)


@click.group(name="drift")
def command() -> None:
    """Current rows against a reference. The verdicts are advice, each for one check."""


@command.command(name="check")
@file_option("--reference", told="Rows that are normal: .parquet, .csv, a folder of them, an address such as "
             "s3://bucket/then, or reference.npz (default: the live model's).")  # fmt: skip
@file_option("--current", told="Rows to judge: .parquet, .csv, a folder of them, or an address such as s3://bucket/now "
             "(default: the newest answers of the live model).")  # fmt: skip
@settings_option("Whose live answers")
@click.option(
    "--rows", type=click.IntRange(min=1), default=1_000, show_default=True, help="Number of newest answers to compare."
)
@click.option("--rule", type=click.Choice(["ks_mean_shift", "extended"]),
              help="What counts as drift (default: the configuration's, else ks_mean_shift).")  # fmt: skip
@file_option(
    "--config",
    "config_path",
    told="The model's YAML: its limits, its feature version, and how files of rows are written.",
)
@click.option(
    "--feature-version",
    default=None,
    help="Feature version that gives the column types, e.g. v2 (default: the configuration's).",
)
@click.option("--domain", "with_domain", is_flag=True, help="Also train a classifier to tell the two tables apart.")
@click.option(
    "--subject",
    "--patient",
    "patient",
    default=None,
    metavar="COLUMN",
    help="Column that says whose a row is, so that rows of one count once (default: the feature version's).",
)
@engine_options
@click.option("--output", "--output-file", "output", type=Report(),
              help="Form of the result, json unless stdout is a terminal; or a file for the JSON report.")  # fmt: skip
def check_drift(
    reference: Path | None,
    current: Path | None,
    settings: Settings,
    rows: int,
    rule: str | None,
    config_path: Path | None,
    feature_version: str | None,
    patient: str | None,
    engine: Engine,
    output: str | Path | None,
    *,
    with_domain: bool,
) -> None:
    """Compare every feature of the current rows with the reference. Exit status 3 if retraining is advised.

    It is advised where many features drifted, where the drifted ones are important to the model, where the model's
    probabilities drifted, and where outcomes show that skill was lost. The last two are known of live answers only.

    Each feature ends in a named state; one that could not be tested is never called ok. Without a feature version the
    columns of both files are compared as their cells look. Without --current the live log is looked at.

    \b
    Example: surety drift check --model readmission_risk --output drift.json
    Example: surety drift check --reference data/cohort.parquet --current data/week.parquet --rule extended
    Example: surety drift check --reference reference.npz --feature-version v1 --current week.csv
    Example: surety drift check --reference then.parquet --current now.parquet --subject patient_id --domain
    Example: surety drift check --reference reference.npz --feature-version v1 --current s3://bucket/june --processes 4
    """
    from ml_core.base.errors import CannotJudge
    from ml_core.lab.drift.drift_check import check_files

    config, version, seed, data = _asked(settings, config_path, rule, feature_version)
    columns = () if version is None else version.features
    if current is None:
        if with_domain:
            raise click.UsageError("--domain compares rows with rows: give --reference FILE and --current FILE.")
        if patient is not None:
            raise click.UsageError("--subject names a column of --current FILE; live answers have a subject instead.")
        found = _check_live(reference, config, settings, rows, data)
    elif reference is None:
        raise click.UsageError("Give --reference FILE with --current FILE.")
    else:
        named = patient or _group_column(version, data, reference, current)
        with progress("looking at the rows", total=1.0) as advance:
            found = check_files(
                reference, current, config, columns,
                with_domain=with_domain, seed=seed, patient=named, data=data, engine=engine, advance=advance,
            )  # fmt: skip
    _tell(found, output)
    if not found.features_tested:
        raise CannotJudge("drift", "no feature has 30 values on both sides of a kind the rule compares")
    if found.retrain_advised:
        refuse(f"retraining is advised: {'; '.join(found.reasons)}")


def _check_live(
    reference: Path | None, config: DriftConfig, settings: Settings, rows: int, data: DataConfig | None
) -> DriftCheck:
    """The newest answers of the live model against its own reference, or against a file."""
    from ml_core.lab.drift.drift_check import also_advised, read_reference
    from ml_core.lab.watching.live_drift import check_live, live_window
    from ml_core.lab.watching.live_performance import lost_skill

    live = live_window(settings, rows)
    window = None if reference is None else read_reference(reference, live.reference.columns, data=data)
    told = f"{live.rows} answers of {live.reference.tag} from {live.since.isoformat()} to {live.until.isoformat()}"
    lost = lost_skill(settings, rows)
    return also_advised(check_live(live, config, window, notes=[told]), () if lost is None else (lost,))


def _group_column(version: FeatureVersion | None, data: DataConfig | None, *tables: Path) -> str | None:
    """The feature version's column that says of whom a row is, where every table of rows has it."""
    from ml_core.base.errors import DataError
    from ml_core.lab.data.people import group_of
    from ml_core.lab.drift.drift_table import DriftTable

    if version is None:
        return None
    try:
        name = group_of(version).name
    except DataError:
        return None
    of_rows = [table for table in tables if table.suffix.lower() != ".npz"]
    return name if all(name in DriftTable(table, data=data).columns for table in of_rows) else None


def _asked(
    settings: Settings, config_path: Path | None, rule: str | None, feature_version: str | None
) -> tuple[DriftConfig, FeatureVersion | None, int, DataConfig | None]:
    """Limits, feature version, seed, form of files: from the command line, else from the YAML, else the defaults."""
    from ml_core.lab.config import DriftConfig, load_config
    from ml_core.lab.data.kept_tables import column_tables, kept_version

    config = None if config_path is None else load_config(config_path)
    limits = DriftConfig() if config is None else config.drift
    name = feature_version if feature_version is not None or config is None else config.feature_version
    chosen = limits if rule is None else DriftConfig.model_validate({**limits.model_dump(), "rule": rule})
    version = None if name is None else kept_version(column_tables(settings), name)
    return chosen, version, *((0, None) if config is None else (config.seed, config.data))


def _tell(found: DriftCheck, output: str | Path | None) -> None:
    """Print the check; with a file, write it there and print the short form."""
    if isinstance(output, Path):
        _write(output, asdict(found))
        note(f"report: {output}")
        output = None
    form = output or ("table" if sys.stdout.isatty() else "json")
    if form == "json":
        emit(asdict(found), form)
        return
    emit([_row(report) for report in (*found.features, *found.scores)], form)
    emit(_summary(found), form)


def _row(report: DriftReport) -> dict[str, Any]:
    before, after = (None if x is None else f"{x:.5g}" for x in (report.reference_mean, report.current_mean))
    return {
        "feature": report.feature,
        "state": report.state,
        "D": None if report.ks_statistic is None else f"{report.ks_statistic:.3f}",
        "p": None if report.p_value is None else f"{report.p_value:.2g}",
        "mean": None if before is None else f"{before} -> {after}",
        "missing": f"{report.missing_reference:.1%} -> {report.missing_current:.1%}",
        "flags": ", ".join(report.flags),
    }


def _summary(found: DriftCheck) -> dict[str, Any]:
    told = {key: value for key, value in asdict(found).items() if key not in ("features", "scores", "notes", "domain")}
    domain = found.domain
    if domain is not None:
        told["domain"] = f"AUC {domain.auc:.3f}, p {domain.p_value:.2g}: {'drifted' if domain.drifted else 'alike'}"
    return {**told, "reasons": "; ".join(found.reasons), "notes": "; ".join(found.notes)}


def _write(path: Path, report: dict[str, Any]) -> None:
    from ml_core.base.files import written_for_user

    with written_for_user(path) as draft:
        draft.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
