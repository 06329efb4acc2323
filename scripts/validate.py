"""`surety validate` from a checkout: `python -m scripts.validate`."""

from ml_core.cli.main import run_verb

run_verb("validate")
