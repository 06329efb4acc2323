"""`surety data` from a checkout: `python -m scripts.data`."""

from ml_core.cli.main import run_verb

run_verb("data")
