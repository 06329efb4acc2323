"""Due answers by group of patients: how many lack their outcome, and what that leaves open of coverage in the group.

Outcomes that came are read from matured answers, and missing ones from the answers that wait, so an erasure takes both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml_core.base.arrays import Label
from ml_core.lab.measuring.cell_measures import WatchedCell, watched_cells
from ml_core.lab.measuring.evaluation import SHARED_BY
from ml_core.lab.measuring.live_coverage import CoverageTarget
from ml_core.lab.measuring.returned_outcomes import OutcomeCell, return_p_value
from ml_core.lab.watching.due_outcomes import ClassOutcomes, class_outcomes, first_grouped_hour
from ml_core.lab.watching.ledger import Ledger, MaturedRow
from ml_core.lab.watching.matured_arrays import arrays_of, row_targets
from ml_core.lab.watching.outcome_counts import HOUR_US
from ml_core.serve.model.manifest import GroupFacts, Manifest
from ml_core.serve.model.prediction_sets import largest_p_value

__all__ = ["CellOutcomes", "DueInGroups", "GroupReturn", "due_in_groups", "outcomes_by_group", "returned_by_group"]

_Groups = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GroupReturn:
    """How many outcomes have come of the due answers of one group of patients.

    Attributes
    ----------
    cell : the group
    due, came : its due answers, and those of them whose outcome has come
    """

    cell: WatchedCell
    due: int
    came: int

    @property
    def share(self) -> float | None:
        """Share that has come, in whole percents; None with fewer than ``SHARED_BY`` due answers.

        It is rounded, so that the number of a rare outcome does not follow from those of the others.
        """
        return round(self.came / self.due, 2) if self.due >= SHARED_BY else None


def returned_by_group(
    ledger: Ledger, model_hash: str, facts: GroupFacts | None, hours: tuple[int, int]
) -> tuple[GroupReturn, ...]:
    """Of every declared group, how many of the due answers of those hours have their outcome.

    Parameters
    ----------
    hours : since 1970, both included; those before :func:`first_grouped_hour` are left out
    """
    if facts is None:
        return ()
    since, until = max(hours[0], first_grouped_hour(ledger, model_hash)), hours[1]
    came = _by_cell(ledger.matured_by_group(model_hash, since * HOUR_US, (until + 1) * HOUR_US))
    missing = _by_cell((groups, n) for groups, _, _, n in ledger.outcomes.missing_by_group(model_hash, since, until))
    return tuple(
        GroupReturn(cell, _of(cell, came) + _of(cell, missing), _of(cell, came)) for cell in watched_cells(facts)
    )


def _by_cell(counts: Iterable[tuple[_Groups, int]]) -> Counter[tuple[str, str]]:
    """Answers by grouping and declared cell."""
    found: Counter[tuple[str, str]] = Counter()
    for groups, n in counts:
        for cell in groups.items():
            found[cell] += n
    return found


def _of(cell: WatchedCell, counts: Counter[tuple[str, str]]) -> int:
    return sum(counts[cell.grouping, name] for name in cell.of)


# --- what is open -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DueInGroups:
    """Due answers of a model whose groups are known.

    Attributes
    ----------
    rows : matured, and given since missing outcomes are known by group
    missing : groups, set, predicted class and number of those without an outcome
    """

    rows: tuple[MaturedRow, ...]
    missing: tuple[tuple[_Groups, tuple[int, ...], int, int], ...]


def due_in_groups(ledger: Ledger, model_hash: str, rows: Sequence[MaturedRow], since_hour: int) -> DueInGroups:
    """The due answers of a model from that hour on.

    Parameters
    ----------
    rows : its own matured answers
    """
    first, last = max(since_hour, first_grouped_hour(ledger, model_hash)), 1 << 40
    known = tuple(row for row in rows if row.groups is not None and row.at_us >= first * HOUR_US)
    return DueInGroups(known, tuple(ledger.outcomes.missing_by_group(model_hash, first, last)))


@dataclass(frozen=True, slots=True)
class CellOutcomes:
    """What the outcomes that have come leave open in one group of patients.

    Attributes
    ----------
    returned : its due answers, and those with an outcome
    shown : whether their numbers may be told: no class has fewer than ``SHARED_BY`` patients whose outcome has come
    classes : by label, what is open of each class; None where it has fewer
    """

    returned: GroupReturn
    shown: bool
    classes: Mapping[Label, ClassOutcomes | None]


def outcomes_by_group(
    due: DueInGroups, targets: Mapping[str, CoverageTarget], manifest: Manifest, grouping: str
) -> tuple[tuple[CellOutcomes, ...], float]:
    """What is open in each cell of a grouping, and the p-value of outcomes returning alike in all declared cells.

    Parameters
    ----------
    targets : coverage targets of the model, by calibration id
    """
    cells = [cell for cell in watched_cells(manifest.groups) if cell.grouping == grouping]
    by_name = _declared_cells(due, targets, manifest, grouping)
    patients = _patients(due.rows, grouping)
    found = tuple(_cell(cell, by_name, patients, manifest) for cell in cells)
    counts = [(sum(c.came for c in of), sum(c.due for c in of)) for of in by_name.values()]
    return found, return_p_value(counts)


def _declared_cells(
    due: DueInGroups, targets: Mapping[str, CoverageTarget], manifest: Manifest, grouping: str
) -> dict[str, list[OutcomeCell]]:
    """By declared cell, its due answers by set and predicted class."""
    counts: dict[tuple[str, tuple[int, ...], int], Counter[Label | None]] = {}
    for row, members, prediction in _sets(due.rows, targets):
        counts.setdefault(((row.groups or {})[grouping], members, prediction), Counter())[row.label] += 1
    for groups, members, prediction, n in due.missing:
        counts.setdefault((groups[grouping], members, prediction), Counter())[None] += n
    found: dict[str, list[OutcomeCell]] = {}
    for (name, members, prediction), of in sorted(counts.items()):
        returned = tuple(of[label] for label in manifest.classes)
        found.setdefault(name, []).append(OutcomeCell(members, prediction, returned, of[None]))
    return found


def _sets(
    rows: Sequence[MaturedRow], targets: Mapping[str, CoverageTarget]
) -> Iterable[tuple[MaturedRow, tuple[int, ...], int]]:
    """Each row with its set and predicted class."""
    if not rows:
        return
    matured = arrays_of(rows)
    p_values = np.asarray(matured.p_values, dtype=np.float64)
    sets = row_targets(rows, targets).sets(p_values)
    predictions = largest_p_value(p_values, matured.proba)
    for row, held, prediction in zip(rows, sets, predictions.tolist(), strict=True):
        yield row, tuple(held.nonzero()[0].tolist()), prediction


def _patients(rows: Sequence[MaturedRow], grouping: str) -> dict[tuple[str, Label], set[bytes]]:
    """By declared cell and class, whose outcomes have come; an answer without a pseudonym is somebody of its own."""
    found: dict[tuple[str, Label], set[bytes]] = {}
    for row in rows:
        found.setdefault(((row.groups or {})[grouping], row.label), set()).add(row.subject or row.request_id)
    return found


def _cell(
    cell: WatchedCell,
    by_name: Mapping[str, list[OutcomeCell]],
    patients: Mapping[tuple[str, Label], set[bytes]],
    manifest: Manifest,
) -> CellOutcomes:
    inside = [each for name in cell.of for each in by_name.get(name, ())]
    due, came = sum(each.due for each in inside), sum(each.came for each in inside)
    enough = {
        label: len(set().union(*(patients.get((name, label), ()) for name in cell.of))) >= SHARED_BY
        for label in manifest.classes
    }
    opened = class_outcomes(_together(inside), manifest)[1:]
    classes = {of.label: of if enough[of.label] else None for of in opened if of.label is not None}
    return CellOutcomes(GroupReturn(cell, due, came), all(enough.values()), classes)


def _together(cells: Sequence[OutcomeCell]) -> list[OutcomeCell]:
    """Cells of several groups with the same set and predicted class as one."""
    found: dict[tuple[tuple[int, ...], int], OutcomeCell] = {}
    for each in cells:
        key = each.members, each.prediction
        before = found.get(key, OutcomeCell(*key, (0,) * len(each.returned), 0))
        returned = tuple(a + b for a, b in zip(before.returned, each.returned, strict=True))
        found[key] = OutcomeCell(*key, returned, before.missing + each.missing)
    return list(found.values())
