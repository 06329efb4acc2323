"""`surety keys` from a checkout: `python -m scripts.keys`."""

from ml_core.cli.main import run_verb

run_verb("keys")
