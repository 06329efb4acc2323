"""`surety drift` from a checkout: `python -m scripts.drift`."""

from ml_core.cli.main import run_verb

run_verb("drift")
