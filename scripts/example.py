"""`surety example` from a checkout: `python -m scripts.example`."""

from ml_core.cli.main import run_verb

run_verb("example")
