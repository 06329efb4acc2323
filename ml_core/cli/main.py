"""The command group. A verb's module is imported only when the verb runs, so help and light verbs start at once."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import click

from ml_core.base.errors import SuretyError
from ml_core.cli.output import note, one_line, plain

__all__ = ["VERBS", "main", "run_verb", "surety"]

_LONGEST_USAGE = 4_000

VERBS = {
    "init": ("ml_core.cli.cmd_init", "A project of one's own from a file of rows."),
    "run": ("ml_core.cli.cmd_run", "A project from rows to a promoted model, as far as it is missing."),
    "build": ("ml_core.cli.cmd_build", "Build a bento around a project's model."),
    "serve": ("ml_core.cli.cmd_serve", "Serve a project's model, with the monitor beside it."),
    "data": ("ml_core.cli.cmd_data", "Make the synthetic cohort, or fetch the hospital data set."),
    "plan": ("ml_core.cli.cmd_plan", "What gate and monitor can see at given sizes; rows that a promise needs."),
    "features": ("ml_core.cli.cmd_features", "Raw file to validated columns in the feature store."),
    "train": ("ml_core.cli.cmd_train", "Train, calibrate, evaluate and register a challenger."),
    "models": ("ml_core.cli.cmd_models", "What the registry and the Bento store hold."),
    "validate": ("ml_core.cli.cmd_validate", "The pre-deployment gate, rule by rule."),
    "promote": ("ml_core.cli.cmd_promote", "Challenger against champion."),
    "import-model": ("ml_core.cli.cmd_import_model", "MLflow to Bento store."),
    "trust": ("ml_core.cli.cmd_trust", "Keys whose owners may say that a model may answer."),
    "sign": ("ml_core.cli.cmd_sign", "Sign a model folder in OpenSSF's format."),
    "verify": ("ml_core.cli.cmd_verify", "A model folder against a signature in OpenSSF's format."),
    "rollout": ("ml_core.cli.cmd_rollout", "What is live: shadow, canary, full, rollback, flags, circuits."),
    "keys": ("ml_core.cli.cmd_keys", "API keys: who may ask for what."),
    "monitor": ("ml_core.cli.cmd_monitor", "Watch a running service: canary, coverage, drift; raise alarms."),
    "alarms": ("ml_core.cli.cmd_alarms", "Alarms of the monitor: which are on, and acknowledging them."),
    "coverage": ("ml_core.cli.cmd_coverage", "Coverage of answers whose outcome is known."),
    "performance": ("ml_core.cli.cmd_performance", "Realised performance of answers whose outcome is known."),
    "threshold": ("ml_core.cli.cmd_threshold", "From which probability on to act, for a wanted sensitivity."),
    "labels": ("ml_core.cli.cmd_labels", "What turned out to be true: bring labels in, look at them."),
    "log": ("ml_core.cli.cmd_log", "The prediction log: verify, seal, prune, erase a person."),
    "score": ("ml_core.cli.cmd_score", "Answers for a whole table file, equal to the service's."),
    "drift": ("ml_core.cli.cmd_drift", "Current rows against a reference, feature by feature."),
    "replay": ("ml_core.cli.cmd_replay", "Old answers given again, bit for bit, by the model that gave them."),
    "explain": ("ml_core.cli.cmd_explain", "Why an answer is what it is, column by column."),
    "audit": ("ml_core.cli.cmd_audit", "Everything known about one answer."),
    "retrain": ("ml_core.cli.cmd_retrain", "Decide, train on what became known, gate, register."),
    "recalibrate": (
        "ml_core.cli.cmd_recalibrate",
        "Calibrate the champion anew on the newest outcomes.",
    ),
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


def run_verb(verb: str) -> NoReturn:
    """Run one verb with the arguments of this process, as the files in ``scripts/`` do."""
    main([verb, *sys.argv[1:]])


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of ``surety``: whatever goes wrong becomes one line on stderr and an exit status.

    Wrong usage is 2, with click's hint at the help. Everything else that fails is 1. A fault of this software is told
    by its class and place; its message may quote values, so that, and the traceback, are shown only where
    ``SURETY_LOG_LEVEL`` is DEBUG.
    """
    try:
        _speak_plainly()
        code = surety.main(args=arguments, prog_name="surety", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        told = io.StringIO()
        error.show(told)
        note(told.getvalue().rstrip("\n")[:_LONGEST_USAGE])
        sys.exit(error.exit_code)
    except click.Abort:
        note("Aborted!")
        sys.exit(1)
    except SuretyError as error:
        _fail(str(error))
    except BrokenPipeError:  # who read the result has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.filename or type(error).__name__}: {error.strerror or 'cannot be used'}")
    except MemoryError:
        _fail("there is not enough memory for this")
    except Exception as error:
        logging.getLogger(__name__).debug("a fault", exc_info=True)
        _fail(f"internal fault: {_class_and_place(error)}; SURETY_LOG_LEVEL=DEBUG shows the traceback")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(problem: str) -> NoReturn:
    note(one_line(f"surety: {problem}"))
    sys.exit(1)


def _class_and_place(error: BaseException) -> str:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" at {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
    return f"{type(error).__name__}{where}"


class _PlainLines(logging.Formatter):
    """Log lines without control characters; what libraries log may hold values of a registry."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, fit for a terminal."""
        return plain(super().format(record))


def _speak_plainly() -> None:
    """Log to stderr from the wanted level on; libraries' warnings are for their developers.

    Raises
    ------
    UsageError
        ``SURETY_LOG_LEVEL`` is no level.
    """
    level = os.environ.get("SURETY_LOG_LEVEL", "WARNING").upper()
    if level not in logging.getLevelNamesMapping():
        raise click.UsageError(f"SURETY_LOG_LEVEL is {level!r}: DEBUG, INFO, WARNING or ERROR was expected.")
    logging.basicConfig(level=level, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        if type(handler.formatter) is logging.Formatter:
            handler.setFormatter(_PlainLines(logging.BASIC_FORMAT))
    if not sys.warnoptions and level != "DEBUG":
        warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()
