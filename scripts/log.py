"""`surety log` from a checkout: `python -m scripts.log`."""

from ml_core.cli.main import run_verb

run_verb("log")
