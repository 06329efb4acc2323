"""`surety monitor` from a checkout: `python -m scripts.monitor`."""

from ml_core.cli.main import run_verb

run_verb("monitor")
