"""`surety status` from a checkout: `python -m scripts.status`."""

from ml_core.cli.main import run_verb

run_verb("status")
