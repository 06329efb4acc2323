"""`surety features` from a checkout: `python -m scripts.features`."""

from ml_core.cli.main import run_verb

run_verb("features")
