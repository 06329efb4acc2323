"""`surety labels` from a checkout: `python -m scripts.labels`."""

from ml_core.cli.main import run_verb

run_verb("labels")
