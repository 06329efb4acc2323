"""`surety audit` from a checkout: `python -m scripts.audit`."""

from ml_core.cli.main import run_verb

run_verb("audit")
