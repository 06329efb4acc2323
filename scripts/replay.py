"""`surety replay` from a checkout: `python -m scripts.replay`."""

from ml_core.cli.main import run_verb

run_verb("replay")
