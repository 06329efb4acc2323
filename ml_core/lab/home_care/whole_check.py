"""Whether a home is whole: its places are reached, its tables fit this release, its models and chains verify.

Nothing is changed. What is wrong is a finding; what may be so and should be known is a warning.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ml_core.base.errors import SuretyError
from ml_core.base.settings import Settings
from ml_core.lab.home_care.copied_models import NeededModel, needed_models
from ml_core.lab.home_care.known_models import is_untouched, known_models, of_model
from ml_core.lab.home_care.migration import table_versions
from ml_core.lab.log_care.chain_check import verify_log
from ml_core.lab.registry.registry_tables import migrate_registry
from ml_core.serve.home.homes import HomeName, open_home
from ml_core.serve.home.object_stores import objects_of
from ml_core.serve.log.key_register import check_outside_keys
from ml_core.serve.log.log_keys import LogKeys
from ml_core.serve.model.loader import ModelLoader
from ml_core.serve.model.model_objects import fetch_model
from ml_core.serve.rollout.worker_reports import WorkerReport, machines_of, read_reports

__all__ = ["HomeFinding", "WholeReport", "check_home"]

_CLOCK_S = 1.0
"""Difference of clocks from which on it is told: times in reports, logs and labels begin to contradict each other."""


@dataclass(frozen=True, slots=True)
class HomeFinding:
    """One thing that is wrong, or should be known.

    Attributes
    ----------
    what : the check that found it
    where : what it is about
    """

    what: str
    where: str
    problem: str


@dataclass(slots=True)
class WholeReport:
    """What was found.

    Attributes
    ----------
    findings : what is wrong
    warnings : what is not wrong, and should be known
    facts : of each check, ready to be shown
    is_empty : whether the home has nothing of any model
    """

    findings: list[HomeFinding] = field(default_factory=list)
    warnings: list[HomeFinding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    is_empty: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @contextmanager
    def finding(self, what: str, where: str) -> Iterator[None]:
        """A block whose failure is a finding."""
        try:
            yield
        except (SuretyError, OSError) as error:
            self.findings.append(HomeFinding(what, where, str(error)))


def check_home(settings: Settings, *, chains: bool = True, step: Callable[[str], None] = lambda _: None) -> WholeReport:
    """Check everything that can be checked; what cannot be reached is a finding, and what hangs on it is left out.

    Parameters
    ----------
    chains : walk through every row of log and labels, and ask MLflow, which takes its time to start
    step : told what begins
    """
    report = WholeReport()
    home = open_home(settings)
    report.facts["home"] = str(settings.home) if home.database is None else home.database.shown
    names: list[str] | None = None
    with report.finding("database" if home.database is not None else "folder", report.facts["home"]):
        step("the home")
        report.is_empty = is_untouched(settings)
        names = [] if report.is_empty else known_models(settings)
        found = None if report.is_empty else home.documents.load("home.json", HomeName)
        report.facts |= {"name": None if found is None else found.name, "models": names}
    if names is None or report.is_empty:
        return report
    report.is_empty = not names and not home.journal.texts()
    _check_clock(settings, report)
    _check_versions(settings, report)
    _check_keys(settings, report)
    if chains:
        step("MLflow's tables")
        _check_registry(settings, report)
    step("objects")
    _check_objects(settings, report)
    step("models")
    _check_models(settings, names, report)
    _check_machines(settings, names, report)
    for name in names if chains else ():
        step(f"log, labels and marks of {name}")
        _check_chains(of_model(settings, name), name, report)
    return report


def _check_clock(settings: Settings, report: WholeReport) -> None:
    database = open_home(settings).database
    if database is None:
        return
    with report.finding("clock", report.facts["home"]):
        with database.transaction() as connection:
            began = time.time()
            row = connection.execute("SELECT clock_timestamp()").fetchone()
            ended = time.time()
        assert row is not None  # a SELECT without FROM gives one row
        here = datetime.fromtimestamp((began + ended) / 2, UTC)
        ahead = (here - row[0].astimezone(UTC)).total_seconds()
        report.facts["clock_ahead_s"] = round(ahead, 3)
        if abs(ahead) > _CLOCK_S:
            behind = "ahead of" if ahead > 0 else "behind"
            problem = f"the clock of this machine is {abs(ahead):.1f} s {behind} the database's"
            report.warnings.append(HomeFinding("clock", open_home(settings).machine, problem))


def _check_versions(settings: Settings, report: WholeReport) -> None:
    with report.finding("tables", report.facts["home"]):
        for each in table_versions(settings):
            if 0 < each.before < each.after:
                problem = f"are of version {each.before}, this release needs {each.after}: run `surety home migrate`"
                report.findings.append(HomeFinding("tables", f"{each.kind} in {each.place}", problem))
            elif each.note:
                report.warnings.append(HomeFinding("tables", f"{each.kind} in {each.place}", f"are {each.note}"))


def _check_registry(settings: Settings, report: WholeReport) -> None:
    with report.finding("registry", settings.registry_shown):
        found = migrate_registry(settings, dry_run=True)
        report.facts["registry"] = found["before"] or found["note"]
        if found["before"] != found["after"]:
            problem = f"are of version {found['before']}, MLflow here needs {found['after']}: run `surety home migrate`"
            report.findings.append(HomeFinding("registry", "MLflow's tables", problem))


def _check_keys(settings: Settings, report: WholeReport) -> None:
    """The key files are those that the home has seen."""
    with report.finding("keys", open_home(settings).machine or str(settings.home)):
        check_outside_keys(settings, note_new=False)
        if not open_home(settings).machine:
            LogKeys.of(settings).all()


def _check_objects(settings: Settings, report: WholeReport) -> None:
    with report.finding("objects", settings.objects or str(settings.home)):
        objects = objects_of(settings)
        if objects is not None:
            report.facts["objects"] = sum(1 for _ in objects.names("models"))
        elif settings.database:
            problem = "is not set: a model reaches the other machines by hand, and each keeps its own bulk calls"
            report.warnings.append(HomeFinding("objects", "SURETY_OBJECTS", problem))


def _check_models(settings: Settings, names: list[str], report: WholeReport) -> None:
    """What is live, or may be gone back to, is there by its hash, and whole."""
    needed: list[NeededModel] = []
    with report.finding("models", "rollouts and promotions"):
        needed = needed_models(settings, names)
    report.facts["needed"] = [{"model": n.model, "slot": n.slot, "tag": n.tag} for n in needed]
    for each in needed:
        with report.finding("models", f"{each.slot} {each.tag}"):
            _verify_model(of_model(settings, each.model), each)


def _verify_model(settings: Settings, needed: NeededModel) -> None:
    """Among the objects, where machines fetch it from; else in the Bento store or the home of this machine."""
    objects = objects_of(settings)
    if objects is not None:
        with TemporaryDirectory(prefix="surety-model-") as folder:
            apart = settings.model_copy(update={"home": Path(folder)})
            if fetch_model(objects, needed.tag, needed.model_hash, apart) is not None:
                return
    ModelLoader(settings).facts(needed.tag, needed.model_hash)


def _check_machines(settings: Settings, names: list[str], report: WholeReport) -> None:
    machines: list[Mapping[str, Any]] = []
    for name in names:
        with report.finding("machines", name):
            reports = read_reports(open_home(settings).heartbeats(name))
            waiting = _unshipped(reports)
            machines += [
                {"model": name, **each, "unshipped": waiting[each["machine"]]} for each in machines_of(reports)
            ]
    report.facts["machines"] = machines
    for each in machines:
        where = f"{each['machine'] or 'this machine'} ({each['model']})"
        if each["problem"]:
            report.warnings.append(HomeFinding("machines", where, str(each["problem"])))
        left = each["unstored"] + each["unshipped"]
        if left and not each["alive"]:
            problem = f"reported last {each['age_s']:.0f} s ago, with {left} answers that the home has not got"
            report.warnings.append(HomeFinding("machines", where, problem))


def _unshipped(reports: Sequence[WorkerReport]) -> Counter[str]:
    """Rows that lie on a machine's disk alone, by machine, as its processes said last."""
    waiting: Counter[str] = Counter()
    for each in reports:
        waiting[each.machine] += each.log.shipping.unshipped if each.log is not None and each.log.shipping else 0
    return waiting


def _check_chains(settings: Settings, name: str, report: WholeReport) -> None:
    with report.finding("log", name):
        chains = verify_log(settings)
        rows = {"files": len(chains.files), "rows": sum(each.rows for each in chains.files)}
        report.facts.setdefault("chains", []).append({"model": name, **rows, "findings": len(chains.findings)})
        report.findings += [HomeFinding(each.kind, name, str(each)) for each in chains.findings]
