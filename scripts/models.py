"""`surety models` from a checkout: `python -m scripts.models`."""

from ml_core.cli.main import run_verb

run_verb("models")
