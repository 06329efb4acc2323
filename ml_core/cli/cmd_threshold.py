"""`surety threshold`: from which probability on to act, so that a wanted sensitivity is reached."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ml_core.cli.options import settings_option
from ml_core.cli.output import emit, output_option, refuse

if TYPE_CHECKING:
    from ml_core.base.settings import Settings

_ROUNDING = 2.0**-52  # a score 1 - p was rounded: so much lower, the row at the threshold is flagged for certain
_INSIDE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command(name="threshold")
@click.option("--tag", default=None, help="Model in the Bento store or the home (default: the promoted one).")
@click.option("--label", default=None, help="Class to be found (default: the second of two classes).")
@click.option("--sensitivity", type=_INSIDE, required=True, help="Share of the class to be flagged, at least.")
@click.option("--confidence", type=_INSIDE, default=0.95, show_default=True, help="How sure that must be.")
@settings_option()
@output_option
def command(
    tag: str | None, label: str | None, sensitivity: float, confidence: float, settings: Settings, output: str
) -> None:
    """The highest probability of a class from which on to flag an answer, so that enough of the class is flagged.

    One that is picked where the calibration rows reach the wanted sensitivity misses it in half of the cases. This one
    reaches it with the stated confidence, by an exact bound, as long as live rows are like the calibration rows.
    Exit status 3 if these are too few for any threshold.

    \b
    Example: surety threshold --sensitivity 0.8 --confidence 0.95
    """
    import numpy as np

    from ml_core.base.errors import CannotJudge, DataError
    from ml_core.lab.measuring.sensitivity_threshold import sensitivity_threshold
    from ml_core.serve.model.bundle import read_bundle
    from ml_core.serve.model.loader import ModelLoader

    loader = ModelLoader(settings)
    chosen = tag or loader.named_tag()
    manifest, model_hash, _ = loader.files(chosen)
    if manifest.guarantee == "marginal":
        raise DataError(
            f"the calibration of {chosen}",
            "keeps scores of all classes together (guarantee marginal), so nothing is known of one class: calibrate "
            "with class_conditional",
        )
    names = [str(each) for each in manifest.classes]
    if label is None and len(names) > 2:
        raise click.UsageError(f"the model has {len(names)} classes: name one of them with --label")
    if label is not None and label not in names:
        raise click.UsageError(f"--label is none of the model's classes {', '.join(names)}")
    k = 1 if label is None else names.index(label)
    scores = read_bundle(loader.artefact(chosen), model_hash).calibration.scores
    try:
        found = sensitivity_threshold(
            np.maximum(1.0 - scores[k] - _ROUNDING, 0.0),
            sensitivity,
            confidence,
            others=scores[1 - k] if len(names) == 2 else None,  # of two classes P(k) = 1 - P(the other)
            effect=manifest.metrics.get(f"calibration_effect_class_{names[k]}", 1.0),
        )
    except CannotJudge as error:
        refuse(str(error))
    emit({"model": chosen, "label": names[k], "wanted": sensitivity, "confidence": confidence, **asdict(found)}, output)
