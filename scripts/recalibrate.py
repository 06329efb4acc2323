"""`surety recalibrate` from a checkout: `python -m scripts.recalibrate`."""

from ml_core.cli.main import run_verb

run_verb("recalibrate")
