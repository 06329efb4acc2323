"""`surety retrain` from a checkout: `python -m scripts.retrain`."""

from ml_core.cli.main import run_verb

run_verb("retrain")
