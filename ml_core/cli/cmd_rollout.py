"""`surety rollout`: what is live, changed while the service runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any

import click

from ml_core.cli.cmd_monitor import verdict_row
from ml_core.cli.options import settings_option, slot_option, sound_no, tag_of
from ml_core.cli.output import emit, note, output_option, picked

if TYPE_CHECKING:
    from ml_core.base.settings import Settings
    from ml_core.serve.model.loader import ModelLoader
    from ml_core.serve.rollout.changes import Change
    from ml_core.serve.rollout.rollout_state import RolloutState
    from ml_core.serve.rollout.worker_reports import SlotReport


@click.group(name="rollout")
def command() -> None:
    """Shadow, canary, full, rollback, flags and circuits, obeyed by every worker within a second.

    Every change is in the journal, with who, why, before and after. Exit status 3 if the change is refused: a model
    without a passed gate, or with other columns, never answers callers.
    """


@dataclass(frozen=True)
class Wanted:
    """How a change is made: of which model, with which words, and whether it is only tried."""

    settings: Settings
    why: str
    dry_run: bool
    wait: float
    output: str

    @cached_property
    def state(self) -> RolloutState:
        """What the change is decided on, read once; where somebody else changes it meanwhile, it is refused.

        Raises
        ------
        NotLoaded
            There is none yet.
        """
        from ml_core.base.errors import NotLoaded
        from ml_core.serve.rollout.rollout_store import RolloutStore

        found = RolloutStore(self.settings).read()
        if found is None:
            raise NotLoaded(f"nothing of {self.settings.model_name} is live yet: start the service first")
        return found

    @property
    def loader(self) -> ModelLoader:
        """Finds the models that could be live."""
        from ml_core.serve.model.loader import ModelLoader

        return ModelLoader(self.settings)

    def make(self, change: Change) -> None:
        """Change the rollout, wait for the workers to obey, and print what is live then."""
        from ml_core.serve.rollout.rollout_store import RolloutStore

        before, after = RolloutStore(self.settings).change(
            change, why=self.why, expected=self.state.generation, dry_run=self.dry_run
        )
        if self.dry_run:
            note("dry run: nothing was changed")
            emit({"before": _shown(before), "after": _shown(after)}, self.output)
            return
        alive, obeying, problems = _obeyed(self.settings, after.generation, self.wait)
        emit({**_shown(after), "workers_alive": alive, "workers_obeying": obeying, "problems": problems}, self.output)
        if problems or obeying < alive:
            note("not every worker has done it; what was live before stays live there")
            raise SystemExit(1)


def changing(verb: Callable[..., None]) -> Callable[..., None]:
    """The options of every verb that changes the rollout, given to it as ``wanted``; a refusal is exit status 3."""

    @wraps(verb)
    def run(settings: Settings, why: str, wait: float, output: str, *, dry_run: bool, **own: Any) -> None:
        with sound_no():
            verb(Wanted(settings, why, dry_run, wait, output), **own)

    options = (
        settings_option(),
        click.option("--why", default="", help="The reason, kept in the journal."),
        click.option("--dry-run", is_flag=True, help="Check and show; change nothing."),
        click.option("--wait", default=5.0, show_default=True, help="Seconds to wait for running workers to obey."),
        output_option,
    )
    for option in reversed(options):
        run = option(run)
    return run


@command.command(name="show")
@settings_option()
@output_option
def show_rollout(settings: Settings, output: str) -> None:
    """The rollout, the counts of all workers, and what the guards say.

    \b
    Example: surety rollout show --output table
    """
    from ml_core.lab.watching.canary_monitor import Monitor

    look = Monitor(settings).look(act=False)
    if look.state is None:
        emit({"model": settings.model_name, "live": None, "note": "nothing has been served yet"}, output)
        return
    emit(
        {
            **_shown(look.state),
            "flags": look.state.flags.model_dump(mode="json"),
            "circuits": {slot: order.model_dump() for slot, order in look.state.circuits.items()},
            "guards": None if look.state.guards is None else look.state.guards.model_dump(),
            "workers_alive": look.alive,
            "slots": [_slot(s) for s in (look.champion, look.challenger) if s is not None],
            "verdicts": [verdict_row(v) for v in look.verdicts],
        },
        output,
    )  # fmt: skip


@command.command(name="shadow")
@click.argument("tag", required=False)
@changing
def shadow(wanted: Wanted, tag: str | None) -> None:
    """Score every request with TAG as well, after the reply; nobody sees its answers, so it needs no gate.

    TAG is a Bento tag or a version such as v3; by default the present challenger, else the promoted model.

    \b
    Example: surety rollout shadow v3 --why "new lab codes"
    """
    from ml_core.serve.rollout import changes

    chosen = _chosen(wanted, tag)
    _, _, model_hash = _check_contract(wanted, chosen)
    wanted.make(changes.shadow(chosen, model_hash))


@command.command(name="canary")
@click.argument("weight", type=click.FloatRange(0, 1, min_open=True, max_open=True))
@click.argument("tag", required=False)
@click.option("--max-error-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.02,
              show_default=True, help="Largest share of calls in which the model fails.")  # fmt: skip
@click.option("--max-fallback-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05,
              show_default=True, help="Largest share of fallback answers.")  # fmt: skip
@click.option("--slow-ms", type=click.FloatRange(min=0, min_open=True), default=100.0, show_default=True,
              help="What counts as a slow call.")  # fmt: skip
@click.option("--max-slow-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05,
              show_default=True, help="Largest share of slow calls.")  # fmt: skip
@click.option("--max-set-size", type=click.FloatRange(min=0, min_open=True),
              help="Largest mean set size (default: the champion's on its test rows, plus 0.25).")  # fmt: skip
@click.option("--min-answers", type=click.IntRange(min=1), default=100, show_default=True,
              help="Answers before a guard may trip.")  # fmt: skip
@click.option("--false-alarm", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.01,
              show_default=True, help="Probability of ever taking back a canary within its limits.")  # fmt: skip
@click.option("--unguarded", is_flag=True, help="Nobody watches it: no guard takes it back, no monitor is needed.")
@changing
def start_canary(
    wanted: Wanted,
    weight: float,
    tag: str | None,
    max_error_share: float,
    max_fallback_share: float,
    slow_ms: float,
    max_slow_share: float,
    max_set_size: float | None,
    min_answers: int,
    false_alarm: float,
    *,
    unguarded: bool,
) -> None:
    """Let TAG answer a share WEIGHT of the requests, sticky by subject, else by client_request_id, else by chance.

    `surety monitor` takes it back by itself when it breaks a limit. While the monitor is silent for more than 30
    seconds the champion answers its share.

    \b
    Example: surety rollout canary 0.1 v3 --why "first ward"
    """
    from ml_core.serve.rollout import changes
    from ml_core.serve.rollout.rollout_state import GuardLimits

    chosen = _chosen(wanted, tag)
    model_hash = _check_gated(wanted, chosen)
    mean_set_size, classes, _ = _check_contract(wanted, chosen, model_hash)
    if not unguarded:
        _check_watched(wanted.settings)
    guards = GuardLimits(
        false_alarm=false_alarm,
        minimum=min_answers,
        error_share=max_error_share,
        fallback_share=max_fallback_share,
        slow_ms=slow_ms,
        slow_share=max_slow_share,
        set_size=max_set_size if max_set_size is not None else mean_set_size + 0.25,
        classes=classes,
    )
    wanted.make(changes.canary(chosen, weight, None if unguarded else guards, model_hash))


@command.command(name="full")
@click.argument("tag", required=False)
@changing
def go_full(wanted: Wanted, tag: str | None) -> None:
    """Make TAG the champion in one step; the old champion stays loaded for `rollback` and as a fallback.

    \b
    Example: surety rollout full --why "canary was fine for a week"
    """
    from ml_core.serve.rollout import changes

    chosen = _chosen(wanted, tag)
    model_hash = _check_gated(wanted, chosen)
    _check_contract(wanted, chosen, model_hash)
    promoted = wanted.loader.promoted()
    seen = promoted.promoted_at if promoted is not None and promoted.tag == chosen else ""
    wanted.make(changes.full(chosen, seen, model_hash))


@command.command(name="rollback")
@changing
def roll_back(wanted: Wanted) -> None:
    """Take the challenger out; where there is none, put the previous champion back.

    The model that is to answer is looked at first: it must be there, have passed its gate, and give its golden answers.

    \b
    Example: surety rollout rollback --why "ward 3 complains"
    """
    from ml_core.serve.rollout import changes

    state = wanted.state
    if state.mode != "off":
        problem = _looked_at(wanted, state.champion)
        if problem:  # a challenger is taken out all the same: workers that run have the champion loaded
            note(f"the champion {state.champion} could not be loaded now: {problem}")
    elif state.previous is not None and (problem := _looked_at(wanted, state.previous)):
        _refuse_target(state.previous, problem)
    wanted.make(changes.rollback())


@command.command(name="flag")
@click.argument("assignments", nargs=-1, required=True, metavar="NAME=VALUE...")
@changing
def flag(wanted: Wanted, assignments: tuple[str, ...]) -> None:
    """Set flags: confidence_level, shadow, shadow_share, fallback, log_mode, despite_gate.

    \b
    Example: surety rollout flag shadow_share=0.2 fallback=scorecard,prior
    Example: surety rollout flag confidence_level=null --why "back to the model's own"
    """
    from ml_core.base.errors import ConfigError
    from ml_core.serve.rollout import changes

    values = dict(_assignment(text) for text in assignments)
    try:
        wanted.make(changes.flags(values))
    except ConfigError as error:
        raise click.UsageError(str(error)) from error


@command.command(name="breaker")
@click.argument("order", type=click.Choice(["open", "disable", "watch", "auto", "reset"]))
@slot_option("Whose circuits.")
@changing
def breaker(wanted: Wanted, order: str, slot: str) -> None:
    """Tell the circuits of every worker: stay open, never open (disable), only watch, work as usual, or start anew.

    \b
    Example: surety rollout breaker open --why "model gives nonsense on ward 7"
    """
    from ml_core.serve.rollout import changes

    modes: dict[str, Any] = {"open": "forced_open", "disable": "disabled", "watch": "metrics_only"}
    wanted.make(changes.circuit(slot, modes.get(order, "auto"), reset=order == "reset"))  # type: ignore[arg-type]  # click has checked it


def _chosen(wanted: Wanted, name: str | None) -> str:
    """The tag that was asked for, by itself or by its version; else the challenger, else the promoted model."""
    state = wanted.state
    if name is None:
        promoted = wanted.loader.promoted()
        name = state.challenger or (promoted.tag if promoted is not None and promoted.tag != state.champion else None)
        if name is None:
            raise click.UsageError("Name the model: there is no challenger, and the promoted model is live already.")
    return tag_of(wanted.loader, name)


def _check_gated(wanted: Wanted, tag: str) -> str:
    """The full hash of TAG, whose gate says yes, or which an operator wants although the newest verdict is no."""
    return wanted.loader.check_gated(tag, despite_no=tag in wanted.state.flags.despite_gate)


def _check_watched(settings: Settings) -> None:
    """Check that the monitor looks, which alone takes a bad canary back.

    Raises
    ------
    RolloutRefused
        It has been silent for too long.
    """
    from ml_core.base.errors import RolloutRefused
    from ml_core.serve.rollout.monitor_state import GUARD_SILENCE_S, MonitorView

    view = MonitorView(settings)
    view.look()
    if not view.watches_canary:
        raise RolloutRefused(
            "canary",
            f"no monitor has published for {GUARD_SILENCE_S:g} s, so nothing would take a bad canary back: "
            "start `surety monitor --every 5s`, or say --unguarded",
        )


def _looked_at(wanted: Wanted, tag: str) -> str:
    """Why the model of that tag cannot answer, "" where it can: it is loaded here as a worker would."""
    from ml_core.base.errors import SuretyError

    state = wanted.state
    try:
        model = wanted.loader.load(tag, state.hashes.get(tag, ""), despite_no=tag in state.flags.despite_gate)
    except SuretyError as error:
        return str(error)
    judged = "has no verdict" if model.gate is None else f"was judged at {model.gate.judged_at}"
    note(f"{tag} is there, {judged}, and gives its {len(model.predictor.bundle.golden)} golden answers")
    return ""


def _refuse_target(tag: str, problem: str) -> None:
    from ml_core.base.errors import RolloutRefused

    version = tag.rpartition(":v")[2].rpartition("-")[0]
    raise RolloutRefused(
        "rollback",
        f"the previous champion {tag} cannot answer: {problem}. "
        f"Bring it back (`surety import-model --version {version}`), take another (`surety rollout full TAG`), "
        "or let fallbacks answer (`surety rollout breaker open`)",
    )


def _check_contract(wanted: Wanted, tag: str, model_hash: str = "") -> tuple[float, int, str]:
    """The champion's mean set size and number of labels, and TAG's full hash, once TAG takes and gives the same.

    Raises
    ------
    RolloutRefused
        It needs other raw columns, or answers in other labels.
    """
    from ml_core.serve.model.bundle import features_of_artefact
    from ml_core.serve.rollout.changes import Contract, check_same_contract

    state = wanted.state
    champion, _, files = wanted.loader.files(state.champion, state.hashes.get(state.champion, ""))
    challenger, found, others = wanted.loader.files(tag, model_hash)
    ours, theirs = features_of_artefact(champion, files), features_of_artefact(challenger, others)
    check_same_contract(tag, Contract.of(theirs, challenger.classes), Contract.of(ours, champion.classes))
    if not wanted.dry_run:
        wanted.loader.share(tag)
    return champion.metrics.get("mean_set_size", 1.0), len(champion.classes), found


def _obeyed(settings: Settings, generation: int, wait_s: float) -> tuple[int, int, list[str]]:
    """How many workers there are, how many obey that generation, and what keeps the others."""
    from ml_core.serve.home.homes import open_home
    from ml_core.serve.rollout.worker_reports import beating, read_reports

    heartbeats = open_home(settings).heartbeats(settings.model_name)
    ends = time.monotonic() + wait_s
    while True:
        reports = [r for r in beating(read_reports(heartbeats)) if r.role == "api"]
        obeying = [r for r in reports if r.generation >= generation]
        problems = sorted({r.problem for r in reports if r.problem})
        if len(obeying) == len(reports) or time.monotonic() >= ends:
            return len(reports), len(obeying), problems
        time.sleep(0.1)


def _shown(state: RolloutState) -> dict[str, Any]:
    kept = ("model_name", "generation", "mode", "weight", "champion", "challenger", "previous", "rollbacks",
            "changed_at", "changed_by", "why")  # fmt: skip
    dumped = state.model_dump(mode="json")
    return {name: dumped[name] for name in kept}


def _slot(report: SlotReport) -> dict[str, Any]:
    """One slot's counts over all workers, few enough columns for a screen."""
    counts = picked(report, "where", "answers", "failures", "slow", "fallbacks", "set_sizes")
    return {"slot": report.slot, "version": report.model_version, **counts}


def _assignment(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise click.UsageError(f"{text!r} is not NAME=VALUE.")
    if name in ("fallback", "despite_gate"):
        return name, [step for step in value.split(",") if step]
    return name, None if value in {"null", "none", ""} else value
