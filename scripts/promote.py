"""`surety promote` from a checkout: `python -m scripts.promote`."""

from ml_core.cli.main import run_verb

run_verb("promote")
