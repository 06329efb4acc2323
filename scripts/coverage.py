"""`surety coverage` from a checkout: `python -m scripts.coverage`."""

from ml_core.cli.main import run_verb

run_verb("coverage")
