"""`surety rollout` from a checkout: `python -m scripts.rollout`."""

from ml_core.cli.main import run_verb

run_verb("rollout")
