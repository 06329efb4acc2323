"""The prediction log as a report tells it: its files, what is in them, what was lost, and whether the chains hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ml_core.base.errors import LogDamaged
from ml_core.base.settings import Settings
from ml_core.lab.log_care.chain_check import verify_log
from ml_core.lab.log_care.log_overview import FileFacts, overview
from ml_core.lab.report.collect_gaps import Gaps
from ml_core.lab.report.facts import LogFile, LogStore
from ml_core.serve.log.reader import PredictionLog
from ml_core.serve.rollout.rollout_state import Flags, RolloutState
from ml_core.serve.rollout.worker_reports import WorkerReport

__all__ = ["store_facts"]


@dataclass(frozen=True, slots=True)
class _Walked:
    """What walking all chains has shown; nothing where nobody did.

    Attributes
    ----------
    at : when
    holds : by file name
    missing : files that the journal knows and that are not there
    """

    at: datetime | None = None
    holds: Mapping[str, bool] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def store_facts(
    settings: Settings,
    reports: Sequence[WorkerReport],
    state: RolloutState | None,
    gaps: Gaps,
    *,
    verified_at: datetime | None,
) -> LogStore | None:
    """The log now; None where there is none.

    Parameters
    ----------
    reports : of processes, lost ones too, for what they could not store
    verified_at : walk all chains, and call it that moment; None: believe what was sealed, and walk none
    """
    files = overview(settings)
    walked = gaps.asked("log", lambda: _walk(settings, verified_at), _Walked())
    if not files and not walked.missing:
        return None
    log = PredictionLog(settings.log)
    told = [_file(facts, _answers(log, facts, gaps), walked) for facts in reversed(files)]
    flags = Flags() if state is None else state.flags
    return LogStore(
        rows=sum(file.rows for file in told),
        lost=sum(report.log.lost for report in reports if report.log is not None),
        mode=flags.log_mode,
        verified_at=walked.at,
        broken=tuple(sorted([*(name for name, holds in walked.holds.items() if not holds), *walked.missing])),
        files=tuple(told),
    )


def _walk(settings: Settings, at: datetime | None) -> _Walked:
    if at is None:
        return _Walked()
    found = verify_log(settings)
    return _Walked(at, {report.file: report.is_sound for report in found.files}, found.missing)


def _answers(log: PredictionLog, facts: FileFacts, gaps: Gaps) -> int:
    """Answers of a file, of which a bulk call is one row; 0 and a gap where it cannot be read."""
    try:
        bulk = log.bulk_calls(facts.file)
    except LogDamaged as error:
        gaps.add("log", error)
        return 0
    return (facts.rows or 0) - len(bulk) + sum(bulk)


def _file(facts: FileFacts, answers: int, walked: _Walked) -> LogFile:
    name = facts.file.path.name
    state = (
        "unreadable" if facts.rows is None else "live" if facts.is_live else "sealed" if facts.is_sealed else "closed"
    )
    return LogFile(name, state, answers, facts.bytes, walked.holds.get(name, True if facts.is_sealed else None))
