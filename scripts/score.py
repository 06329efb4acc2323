"""`surety score` from a checkout: `python -m scripts.score`."""

from ml_core.cli.main import run_verb

run_verb("score")
