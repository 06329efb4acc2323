"""The command group. A verb's module is imported only when the verb runs, so help and light verbs start at once."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import click

from ml_core.errors import SuretyError

VERBS = {
    "data": ("scripts.data", "Make the synthetic cohort, or fetch the hospital data set."),
    "features": ("scripts.features", "Raw file to validated columns in the feature store."),
    "train": ("scripts.train", "Train, calibrate, evaluate and register a challenger."),
    "models": ("scripts.models", "What the registry and the Bento store hold."),
    "validate": ("scripts.validate", "The pre-deployment gate, rule by rule."),
    "promote": ("scripts.promote", "Challenger against champion."),
    "import-model": ("scripts.import_model", "MLflow to Bento store."),
    "rollout": ("scripts.rollout", "What is live: shadow, canary, full, rollback, flags, circuits."),
    "keys": ("scripts.keys", "API keys: who may ask for what."),
    "monitor": ("scripts.monitor", "Watch a running service: canary, coverage, drift; raise alarms."),
    "alarms": ("scripts.alarms", "Alarms of the monitor: which are on, and acknowledging them."),
    "coverage": ("scripts.coverage", "Coverage of answers whose outcome is known."),
    "performance": ("scripts.performance", "Realised performance of answers whose outcome is known."),
    "labels": ("scripts.labels", "What turned out to be true: bring labels in, look at them."),
    "log": ("scripts.log", "The prediction log: verify, seal, prune, erase a person."),
    "score": ("scripts.score", "Answers for a whole table file, equal to the service's."),
    "drift": ("scripts.drift", "Current rows against a reference, feature by feature."),
    "replay": ("scripts.replay", "Old answers given again, bit for bit, by the model that gave them."),
    "audit": ("scripts.audit", "Everything known about one answer."),
    "retrain": ("scripts.retrain", "Decide, train on what became known, gate, register."),
    "report": ("scripts.report", "Everything a model has to say for itself, on one page."),
    "status": ("scripts.status", "Where a model stands, and what to do next."),
    "example": ("scripts.example", "Make whatever of the example is missing, so that it can be served."),
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

    Exit status: 0 done, 1 broken, 2 wrong usage, 3 a sound "no" (a gate refused).

    \b
    Example: surety validate --model readmission_risk --alias challenger --config configs/readmission_v1.yaml
    """


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
