"""`surety score`: a whole table, answered as the service answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.options import engine_options, file_option, read_as, sound_no, tag_of
from ml_core.cli.output import emit, note, output_option, progress

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.lab.batch.engines import Engine
    from ml_core.serve.model.loader import LoadedModel


@click.command(name="score")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--model", help="Name of the model that scores (default: SURETY_MODEL_NAME).")
@click.option("--tag", help="Score with this version instead of the promoted one: a tag, or v3.")
@file_option(
    "--config", "config_path", told="The model's YAML, where it says how IN is written (data.csv, dates, null values)."
)
@click.option("--level", type=click.FloatRange(0.5, 0.999),
              help="Confidence level of the sets (default: the model's own).")  # fmt: skip
@click.option("--on-error", type=click.Choice(["row", "reject"]), default="row", show_default=True,
              help="A bad row gets an error and no answer, or the whole table is refused.")  # fmt: skip
@click.option("--block-rows", type=click.IntRange(1, 100_000), default=16_384, show_default=True,
              help="Rows that are read and written at a time.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
@click.option("--restart", is_flag=True, help="Start again instead of continuing an interrupted run.")
@engine_options
@output_option
def command(
    source: Path,
    out: Path,
    model: str | None,
    tag: str | None,
    config_path: Path | None,
    level: float | None,
    on_error: Any,
    block_rows: int,
    engine: Engine,
    output: str,
    *,
    force: bool,
    restart: bool,
) -> None:
    """Score every row of IN into OUT, bit for bit as /predict answers it.

    Both are .parquet or .csv files; IN may be - for CSV on stdin. IN may also be a folder of them, or an address such
    as s3://bucket/visits: then OUT is a folder, or such an address, of Parquet parts, with a column file besides. IN
    needs every feature column of the model. Its id, group and time columns are carried along (from CSV as texts); its
    others, the outcome too, are not looked at. Separators, decimal commas, encodings, null words and forms of dates
    are those of --config; without it cells are separated by commas, in UTF-8.

    OUT has, in the order of IN: row (from 0), the ids, prediction, probability (of the second of two labels),
    confidence, probability_LABEL, p_value_LABEL and in_set_LABEL for each label, error, confidence_level, model_version
    and model_hash.
    The whole lineage is printed, and stands in the schema's metadata of a Parquet file.

    OUT appears when it is complete. Until then finished parts are kept in OUT.parts: after an interruption the same
    command goes on from there, and OUT is the same to the byte. An OUT that is there is kept unless --force is given.
    Exit status 3 if the model has not passed its gate.

    \b
    Example: surety score visits.parquet answers.parquet
    Example: surety score visits.csv answers.csv --tag v3 --level 0.95 --on-error reject
    Example: surety score besuche.csv answers.csv --config my-risk/model.yaml
    Example: zcat visits.csv.gz | surety score - answers.parquet
    Example: surety score visits/ answers/ --processes 4
    """
    if tag is not None and model is not None and ":" in tag:
        raise click.UsageError("Give --model or the whole tag, not both.")
    from ml_core.base.settings import load_settings
    from ml_core.lab.batch.table_places import find_tables
    from ml_core.lab.past_answers.batch_scoring import Workers, score_table
    from ml_core.lab.past_answers.folder_scoring import score_folder, wants_folder
    from ml_core.serve.model.loader import ModelLoader

    tables = None if str(source) == "-" else find_tables(source)
    as_folder = tables is not None and wants_folder(tables, out)
    settings = load_settings(**({} if model is None else {"model_name": model, "model": ""}))
    with sound_no():
        loaded = _loaded(settings, tag)
    if tag is None:
        _note_what_is_live(settings, loaded, level)
    options: dict[str, Any] = {"level": level, "on_error": on_error, "block_rows": block_rows, "force": force}
    options |= {"data": read_as(config_path, loaded.predictor.bundle.manifest.name)}
    options |= {"restart": restart, "workers": Workers(engine, ModelLoader(settings).artefact(loaded.tag))}
    with progress(f"scoring with {loaded.tag}", total=1.0) as advance:
        if tables is not None and as_folder:
            result = score_folder(tables, out, loaded, advance=advance, **options)
        else:
            rows = sys.stdin.buffer if tables is None else tables.places[0]
            result = score_table(rows, out, loaded, advance=advance, **options)
    if tables is not None and tables.others:
        note(f"files not looked at: {', '.join(tables.others)}")
    if result.ignored:
        note(f"columns not looked at: {', '.join(result.ignored)}")
    if result.resumed_rows:
        note(f"{result.resumed_rows} rows had been finished before")
    if result.refused:
        note(f"{result.refused} of {result.rows} rows were refused: the column error says why")
    facts = {name.removeprefix("lineage."): value for name, value in result.facts.items()}
    emit({"out": str(result.out), "rows": result.rows, "refused": result.refused, **facts}, output)


def _loaded(settings: Settings, tag: str | None) -> LoadedModel:
    """The model that was asked for, gated and whole."""
    from ml_core.serve.model.loader import ModelLoader

    loader = ModelLoader(settings)
    if tag is None:
        tag = loader.served_tag()
    elif ":" not in tag:
        tag = tag_of(loader, tag)
    return loader.load(tag)


def _note_what_is_live(settings: Settings, loaded: LoadedModel, level: float | None) -> None:
    """Say where a running service answers otherwise than this command is about to."""
    from ml_core.serve.rollout.rollout_store import RolloutStore

    state = None if settings.model else RolloutStore(settings).read()
    if state is None:
        return
    if state.champion != loaded.tag:
        note(f"the service answers with {state.champion}, this is the promoted {loaded.tag}: choose with --tag")
    flag = state.flags.confidence_level
    if level is None and flag is not None and flag != loaded.predictor.level:
        note(f"the service's flag confidence_level is {flag}, these sets are at {loaded.predictor.level}: see --level")
