"""`surety report` from a checkout: `python -m scripts.report`."""

from ml_core.cli.main import run_verb

run_verb("report")
