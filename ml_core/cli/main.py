"""The command group. A verb's module is imported only when the verb runs, so help and light verbs start at once."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import click

from ml_core.base.errors import SuretyError

__all__ = ["VERBS", "main", "run_verb", "surety"]

VERBS = {
    "data": ("ml_core.cli.cmd_data", "Make the synthetic cohort, or fetch the hospital data set."),
    "features": ("ml_core.cli.cmd_features", "Raw file to validated columns in the feature store."),
    "train": ("ml_core.cli.cmd_train", "Train, calibrate, evaluate and register a challenger."),
    "models": ("ml_core.cli.cmd_models", "What the registry and the Bento store hold."),
    "validate": ("ml_core.cli.cmd_validate", "The pre-deployment gate, rule by rule."),
    "promote": ("ml_core.cli.cmd_promote", "Challenger against champion."),
    "import-model": ("ml_core.cli.cmd_import_model", "MLflow to Bento store."),
    "rollout": ("ml_core.cli.cmd_rollout", "What is live: shadow, canary, full, rollback, flags, circuits."),
    "keys": ("ml_core.cli.cmd_keys", "API keys: who may ask for what."),
    "monitor": ("ml_core.cli.cmd_monitor", "Watch a running service: canary, coverage, drift; raise alarms."),
    "alarms": ("ml_core.cli.cmd_alarms", "Alarms of the monitor: which are on, and acknowledging them."),
    "coverage": ("ml_core.cli.cmd_coverage", "Coverage of answers whose outcome is known."),
    "performance": ("ml_core.cli.cmd_performance", "Realised performance of answers whose outcome is known."),
    "labels": ("ml_core.cli.cmd_labels", "What turned out to be true: bring labels in, look at them."),
    "log": ("ml_core.cli.cmd_log", "The prediction log: verify, seal, prune, erase a person."),
    "score": ("ml_core.cli.cmd_score", "Answers for a whole table file, equal to the service's."),
    "drift": ("ml_core.cli.cmd_drift", "Current rows against a reference, feature by feature."),
    "replay": ("ml_core.cli.cmd_replay", "Old answers given again, bit for bit, by the model that gave them."),
    "audit": ("ml_core.cli.cmd_audit", "Everything known about one answer."),
    "retrain": ("ml_core.cli.cmd_retrain", "Decide, train on what became known, gate, register."),
    "report": ("ml_core.cli.cmd_report", "Everything a model has to say for itself, on one page."),
    "status": ("ml_core.cli.cmd_status", "Where a model stands, and what to do next."),
    "example": ("ml_core.cli.cmd_example", "Make whatever of the example is missing, so that it can be served."),
}


class Verbs(click.Group):
    """A click group that knows its verbs by name and loads them late."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of the verbs, in the order of a model's life."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The verb of that name, imported now."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(VERBS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="surety-bundle", prog_name="surety")
def surety() -> None:
    """Serve tabular classifiers whose answers people act on.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 the answer is no (for example, the gate refused the model),
    4 nothing is there to look at (for example, a log without answers).

    \b
    Example: surety validate --model readmission_risk --alias challenger --config configs/readmission_v1.yaml
    """


def run_verb(verb: str) -> Any:
    """Run one verb with the arguments of this process, as the files in ``scripts/`` do."""
    return main([verb, *sys.argv[1:]])


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of ``surety``: errors raised on purpose become one line and exit status 1."""
    logging.basicConfig(level=os.environ.get("SURETY_LOG_LEVEL", "WARNING").upper(), stream=sys.stderr)
    try:
        return surety.main(args=arguments, prog_name="surety")
    except SuretyError as error:
        click.echo(f"surety: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
