"""`surety alarms` from a checkout: `python -m scripts.alarms`."""

from ml_core.cli.main import run_verb

run_verb("alarms")
