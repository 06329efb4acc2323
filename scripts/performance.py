"""`surety performance` from a checkout: `python -m scripts.performance`."""

from ml_core.cli.main import run_verb

run_verb("performance")
