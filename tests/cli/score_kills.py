"""Kills `surety score` at every step by which it leaves something behind, and again and again as parts appear.

    python -m tests.cli.score_kills steps|parts IN OUT [OPTIONS]

Run with the environment of a home. Everything is imported once; each victim is a fork of this process that runs the command.
Prints one JSON object per victim and its successor.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_core.lab.past_answers.batch_scoring
from ml_core.cli.main import main

_STEPS = ("mkdir", "fsync", "replace", "unlink", "rmdir")


def forked(work: Callable[[], object]) -> int:
    """Process id of a child that does this and ends with its exit status."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        os._exit(70)
    return child


def status_of(child: int) -> int:
    """Exit status of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_before_step(number: int, out: Path) -> None:
    """From now on, count the steps that touch the output or its parts, and be killed before this one."""
    places = (str(out), f"{out}.parts")
    taken = 0

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def instead(target: Any, *more: Any, **named: Any) -> Any:
            nonlocal taken
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
            if path.startswith(places):
                taken += 1
                if taken == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return step(target, *more, **named)

        return instead

    for name in _STEPS:
        setattr(os, name, counted(getattr(os, name)))


def kill_at_every_step(command: list[str], out: Path) -> None:
    """A victim for each step, each with a successor that is left alone; ends with a victim that got through."""
    step, ended = 0, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        step += 1

        def victim(step: int = step) -> None:
            die_before_step(step, out)
            main(command)

        ended = status_of(forked(victim))
        was_there = out.exists()
        again = status_of(forked(lambda: main(command)))
        say(step=step, ended=ended, was_there=was_there, again=again, out=content_of(out),
            left=sorted(p.name for p in out.parent.glob(f"{out.name}.parts/*")))  # fmt: skip
        shutil.rmtree(out) if out.is_dir() else out.unlink()


def kill_as_parts_appear(command: list[str], out: Path) -> None:
    """One run, killed whenever it has finished another ten parts, or three of a folder, until it gets through."""
    ended = -signal.SIGKILL
    parts = out.with_name(f"{out.name}.parts") / ("" if out.suffix else "whole")
    more = 10 if out.suffix else 3
    while ended == -signal.SIGKILL:
        before = finished(parts)
        child = forked(lambda: main(command))
        while not (gone := os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
            if finished(parts) >= before + more:
                os.kill(child, signal.SIGKILL)
                break
        ended = status_of(child)
        say(ended=ended, by_itself=bool(gone), before=before)
    say(out=content_of(out))


def content_of(out: Path) -> str | dict[str, str]:
    """The bytes (hex) of a file, or of each file of a folder by name."""
    return {p.name: p.read_bytes().hex() for p in sorted(out.iterdir())} if out.is_dir() else out.read_bytes().hex()


def finished(parts: Path) -> int:
    """How many parts there are; the folder may vanish while one looks."""
    try:
        return sum(name.startswith("part-") for name in os.listdir(parts))
    except FileNotFoundError:
        return 0


def say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    assert (
        ml_core.lab.past_answers.batch_scoring
    )  # imported before the first fork, so that no victim spends its life importing
    kind, source, target, *options = sys.argv[1:]
    run = kill_at_every_step if kind == "steps" else kill_as_parts_appear
    run(["score", source, target, "--block-rows", "20", *options], Path(target))
