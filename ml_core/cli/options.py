"""What several verbs take: the model's name, its configuration, a registered version, a span of time, a request id."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ml_core.cli.output import note, refuse

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.lab.batch.engines import Engine
    from ml_core.lab.config import DataConfig, ModelConfig
    from ml_core.lab.registry.model_registry import ModelRegistry, RegisteredVersion
    from ml_core.lab.watching.live_performance import MaturedAnswers
    from ml_core.serve.model.loader import ModelLoader

__all__ = [
    "CONFIGS",
    "Duration",
    "Moment",
    "asked_grouping",
    "by_option",
    "config_of",
    "config_option",
    "engine_options",
    "file_option",
    "judged_version",
    "one_answer",
    "raw_id",
    "read_as",
    "settings_option",
    "slot_option",
    "sound_no",
    "tag_of",
    "wanted_version",
    "version_in",
]

CONFIGS = Path("configs")
F = TypeVar("F", bound=Callable[..., Any])
_MOST_NAMED = 20
_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic only in newer editions of click
    """Seconds, written as 5s, 1m, 1h or 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds in a text such as ``1m``."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value))
        if found is None or float(found[1]) <= 0:
            self.fail(f"{value!r} is no duration such as 5s, 1m, 1h or 7d", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class Moment(click.ParamType):  # type: ignore[type-arg]  # generic only in newer editions of click
    """A moment, written as a date, as ISO 8601, or as how long ago it was (24h, 7d)."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The moment in a text such as ``2026-11-01`` or ``24h``, UTC."""
        from ml_core.base.clock import utc_now
        from ml_core.serve.features.column_rules import as_moment

        if isinstance(value, datetime):
            return value
        ago = re.fullmatch(r"(\d{1,9})([smhdw])", str(value))
        try:
            found = utc_now() - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]]) if ago else as_moment(value)
        except OverflowError:  # before there were years
            found = None
        if found is None:
            self.fail(f"{value!r} is neither 2026-11-01, 2026-11-01T10:15:00Z nor 24h, 7d", param, ctx)
        return found.astimezone(UTC)


def settings_option(told: str = "Name of the model", *, with_keys: bool = False) -> Callable[[F], F]:
    """``--model``; the verb is given ``settings``, which are of that model.

    Parameters
    ----------
    with_keys : the verb uses the secret keys of log or subjects, which must be those that the home has seen
    """

    def load(_context: click.Context, _option: click.Parameter, model: str | None) -> Settings:
        from ml_core.base.settings import load_settings

        settings = load_settings(**({} if model is None else {"model_name": model}))
        if with_keys:
            from ml_core.serve.log.key_register import check_outside_keys

            check_outside_keys(settings)
        return settings

    return click.option("--model", "settings", callback=load, help=f"{told} (default: SURETY_MODEL_NAME).")


def file_option(*names: str, told: str, **more: Any) -> Callable[[F], F]:
    """An option that takes the path of a file."""
    return click.option(*names, type=click.Path(path_type=Path), help=told, **more)


def engine_options(command: F) -> F:
    """``--processes`` and ``--dask``; the verb is given ``engine``."""

    def chosen(context: click.Context, _option: click.Parameter, dask: str | None) -> Engine:
        from ml_core.lab.batch.engines import engine_of

        processes = context.params.pop("processes")
        if dask is not None and processes > 1:
            raise click.UsageError("Give --processes or --dask, not both.")
        return engine_of(processes, dask)

    dask = click.option("--dask", "engine", metavar="ADDRESS", callback=chosen,
                        help="Have the workers of this Dask scheduler do it (docs/batch.md).")  # fmt: skip
    processes = click.option("--processes", type=click.IntRange(1, 256), default=1, show_default=True, is_eager=True,
                             help="Processes of this machine that share the work.")  # fmt: skip
    return processes(dask(command))


def config_option(**more: Any) -> Callable[[F], F]:
    """``--config``, the model's YAML; it must be given unless there is a default."""
    given = more or {"required": True}
    return file_option("--config", "config_path", told="The model's YAML.", **given)


def slot_option(told: str = "Whose answers.") -> Callable[[F], F]:
    """``--slot``, the champion's unless told otherwise."""
    slots = click.Choice(["champion", "challenger", "previous"])
    return click.option("--slot", type=slots, default="champion", show_default=True, help=told)


def by_option(told: str) -> Callable[[F], F]:
    """``--by``, the name of a grouping of patients."""
    return click.option("--by", "grouping", metavar="GROUPING", default=None, help=told)


def asked_grouping(found: MaturedAnswers, grouping: str) -> None:
    """Refuse a grouping that the model does not declare, and say how many answers are in no group."""
    facts = found.model.manifest.groups
    known = [] if facts is None else [each.name for each in facts.declared]
    if grouping not in known:
        told = f"it declares {', '.join(known)}" if known else "it declares no groups (conformal.groups)"
        named = f"{found.model.tag} does not know the grouping {grouping!r}"
        raise click.BadParameter(f"{named}: {told}.", param_hint="--by")
    groupless = sum(row.groups is None for row in found.rows)
    if groupless:
        note(f"{groupless} answers matured under a release that did not keep their group: they are in none")


def judged_version(command: F) -> F:
    """The options of the verbs that judge a registered version: which one, and on what."""
    options = (
        click.option("--model", default=None, help="Name of the registered model."),
        click.option("--alias", default=None, help="The version with this alias (default: challenger)."),
        click.option("--version", default=None, help="This version."),
        file_option("--config", "config_path", told="The model's YAML (default: the one in configs/ of this model)."),
        file_option("--data", told="Labelled rows to judge on instead of the training table."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def config_of(model: str | None, path: Path | None) -> ModelConfig:
    """The configuration in that file, or the one in ``configs/`` that is of that model.

    Raises
    ------
    ConfigError
        The file is of another model, or no file, or more than one, is of it.
    """
    from ml_core.base.errors import ConfigError
    from ml_core.lab.config import load_config

    if path is not None:
        config = load_config(path)
        if model is not None and config.model != model:
            raise ConfigError(str(path), f"is of the model {config.model}, not of {model}")
        return config
    if model is None:
        raise click.UsageError("Give --model or --config.")
    found = [(p, c) for p in sorted(CONFIGS.glob("*.yaml")) if (c := load_config(p)).model == model]
    if len(found) != 1:
        names = ", ".join(str(p) for p, _ in found) or "no file"
        raise ConfigError(str(CONFIGS), f"{names} here is of the model {model}: name one with --config")
    return found[0][1]


def read_as(config: Path | None, model: str) -> DataConfig | None:
    """How the configuration says that raw files are written and what their values mean; None without one.

    Raises
    ------
    ConfigError
        It cannot be used, or is of another model.
    """
    return None if config is None else config_of(model, config).data


def wanted_version(
    registry: ModelRegistry, name: str, alias: str | None, version: str | None, run_id: str | None = None
) -> RegisteredVersion:
    """The version that was asked for by number, run or alias; one of them at most is given."""
    if sum(x is not None for x in (alias, version, run_id)) > 1:
        raise click.UsageError("Give only one way to name the version.")
    if version is not None:
        return registry.by_version(name, version)
    if run_id is not None:
        return registry.by_run(name, run_id)
    return registry.by_alias(name, alias or "challenger")


def tag_of(loader: ModelLoader, wanted: str) -> str:
    """The Bento tag of a model that can be loaded, from its tag or its version (``v3``, ``3``).

    Raises
    ------
    NotLoaded
        No model here has that name, or more than one.
    """
    from ml_core.base.errors import NotLoaded

    tags = loader.tags()
    found = [tag for tag in tags if wanted == tag or wanted.removeprefix("v") == version_in(tag)]
    if len(found) != 1:
        raise NotLoaded(
            f"{wanted} names {len(found)} models that could be loaded; there are: {', '.join(tags) or 'none'}. "
            "Bring one in with `surety import-model`"
        )
    return found[0]


def version_in(tag: str) -> str:
    """The version in a tag such as ``name:v3-0a1b2c3d``."""
    return tag.rpartition(":")[2].removeprefix("v").rpartition("-")[0]


def one_answer(settings: Settings, request_id: str | None, client_request_id: str | None) -> str:
    """The id of the one answer that is meant: the id itself, or what its caller named it.

    Raises
    ------
    UsageError
        Neither or both are given, or several answers have that name.
    SystemExit
        No answer has it; a note says so.
    """
    if (request_id is None) == (client_request_id is None):
        raise click.UsageError("Give either a request id or --client-request-id.")
    if request_id is not None:
        return request_id
    from ml_core.base.clock import utc_text
    from ml_core.serve.log.reader import PredictionLog

    found = PredictionLog.of(settings).by_client_request_id(str(client_request_id))
    if not found:
        note(f"surety: no answer has the client_request_id {client_request_id!r}")
        raise SystemExit(1)
    if len(found) > 1:
        for answer in found[:_MOST_NAMED]:
            note(f"{answer.request_id}  {utc_text(answer.at)}")
        named = f"{len(found)} answers have the client_request_id {client_request_id!r}"
        raise click.UsageError(f"{named}: name one of these ids.")
    return found[0].request_id


def raw_id(text: str) -> bytes:
    """The bytes of a request id."""
    from ml_core.serve.log.entries import id_bytes

    try:
        return id_bytes(text)
    except ValueError as error:
        raise click.UsageError(f"{text!r} is no request id.") from error


@contextmanager
def sound_no() -> Iterator[None]:
    """A model without a passed gate, or one that the rollout refuses, ends the verb with exit status 3."""
    from ml_core.base.errors import NotGated, RolloutRefused

    try:
        yield
    except (NotGated, RolloutRefused) as error:
        refuse(f"surety: {error}")
