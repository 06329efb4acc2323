"""`surety train` from a checkout: `python -m scripts.train`."""

from ml_core.cli.main import run_verb

run_verb("train")
