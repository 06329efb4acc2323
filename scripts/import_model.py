"""`surety import-model` from a checkout: `python -m scripts.import_model`."""

from ml_core.cli.main import run_verb

run_verb("import-model")
