"""The 31 source attributes of a predictive decision support intervention, from the facts of a model card.

45 CFR 170.315(b)(11)(iv)(B), as amended by HTI-1 (89 FR 1192, 9 January 2024). An attribute is told from what was
recorded, or reads "not recorded". What only people can know comes from the configuration's section ``card``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

from ml_core.lab.config import Demographic
from ml_core.lab.registry.card_facts import NOT_RECORDED, ModelCard
from ml_core.lab.registry.card_tables import explained_as, measured_metrics, metric_value, range_text

__all__ = ["Told", "group_results", "measured_text", "source_attributes", "told_text"]


@dataclass(frozen=True, slots=True)
class Told:
    """One attribute and what is known of it.

    Attributes
    ----------
    paragraph : below (b)(11)(iv)(B), such as ``(1)(i)``
    asks : what the rule asks for
    parts : what is known, each with where it comes from; empty where nothing was recorded
    """

    paragraph: str
    asks: str
    parts: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """All of it in one text, or that it is not recorded."""
        return " ".join(text for text, _ in self.parts) or NOT_RECORDED


_Part = tuple[str | None, str]
_Tell = Callable[[ModelCard], Iterator[_Part]]

_LIMITS = (
    "The promise of coverage needs people like those of the calibration rows. It says nothing about one person, and "
    "does not survive a change in what the people of a class are like."
)
CONFIGURED, ARTEFACT, COLUMNS, TEST_ROWS = "configuration", "artefact", "column table", "test rows"


def source_attributes(card: ModelCard) -> tuple[Told, ...]:
    """All 31, in the order of the rule."""
    return tuple(
        Told(paragraph, asks, tuple((text.strip(), source) for text, source in tell(card) if text and text.strip()))
        for paragraph, asks, tell in _ATTRIBUTES
    )


def told_text(card: ModelCard, paragraph: str) -> str:
    """The text of one attribute."""
    return next(told.text for told in source_attributes(card) if told.paragraph == paragraph)


def measured_text(card: ModelCard) -> str:
    """Every metric with its 95 % range and its test rows, in a line."""
    told = []
    for key, words, n in measured_metrics(card):
        value = metric_value(card, key)
        if value is not None:
            rows = "" if n is None else f"; {n:,} rows"
            told.append(f"{words} {value:.4f} (95 % range: {range_text(card, key)}{rows})")
    return f"{'; '.join(told)}." if told else ""


def group_results(card: ModelCard) -> list[tuple[str, float, int]]:
    """(metric and group, value, rows) of every group of patients that was measured."""
    if card.bundle is None or card.record is None:
        return []
    labels = [str(label) for label in card.bundle.manifest.classes]
    names = {f"coverage_class_{label}": (f"coverage, {label}", f"n_class_{label}") for label in labels}
    names |= {"roc_auc": ("area under the ROC curve", ""), "mean_set_size": ("mean set size", "")}
    return [
        (f"{words}; {found.grouping} = {found.cell}", found.metrics[name], int(found.metrics.get(rows, found.n)))
        for found in card.record.by_group
        for name, (words, rows) in names.items()
        if name in found.metrics
    ]


# --- what is known of an attribute ----------------------------------------------------------------------------------


def _words(*names: str) -> _Tell:
    """What the configuration says under these names."""

    def tell(card: ModelCard) -> Iterator[_Part]:
        for name in names if card.record is not None else ():
            said = getattr(card.record.words, name)  # type: ignore[union-attr]  # looked at a line above
            yield (said if isinstance(said, str) else ", ".join(said)), CONFIGURED

    return tell


def _and(*tells: _Tell) -> _Tell:
    return lambda card: (part for tell in tells for part in tell(card))


def _output(card: ModelCard) -> Iterator[_Part]:
    if card.bundle is None:
        return
    manifest = card.bundle.manifest
    labels = ", ".join(map(str, manifest.classes))
    level, promise = f"{100 * float(manifest.confidence_level):g} %", manifest.guarantee.replace("_", " ")
    each = f"a probability, a conformal p-value, and whether it is in the prediction set at {level} ({promise})"
    yield f"For each of the labels {labels}: {each}; and the label with the largest p-value.", ARTEFACT
    explained = explained_as(card)
    if explained:
        yield (
            f"On request, what each raw column raised or lowered the {explained} by; no statement of causes.",
            ARTEFACT,
        )


def _kind_of_output(card: ModelCard) -> Iterator[_Part]:
    if card.bundle is not None:
        yield "A classification: the set of labels that cannot be ruled out, with a probability of each.", ARTEFACT


def _limits(card: ModelCard) -> Iterator[_Part]:
    if card.bundle is None:
        return
    yield _LIMITS, ARTEFACT


def _rows_left_out(card: ModelCard) -> Iterator[_Part]:
    left = None if card.bundle is None else card.bundle.manifest.training.rows.get("left_out")
    if left:
        yield f"{left:,} rows are in no part of the split.", ARTEFACT


def _inputs(card: ModelCard) -> Iterator[_Part]:
    if card.bundle is None or card.record is None or not card.record.words.demographics:
        return
    features = card.bundle.features
    inputs = {column.name for column in features.features}
    known = {column.name for column in (*features.columns, *card.bundle.beside)}
    told = []
    for variable in get_args(Demographic):
        column = card.record.words.demographics.get(variable)
        if column is None:
            use = NOT_RECORDED
        elif not column:
            use = "no column holds it"
        elif column not in known:
            use = f"`{column}`, which is no column of this model"
        else:
            use = f"`{column}`, {'an input' if column in inputs else 'no input'}"
        told.append(f"{variable.replace('_', ' ')}: {use}")
    yield f"{'; '.join(told)}.", f"{CONFIGURED} and {COLUMNS}"


def _who_is_in_it(card: ModelCard) -> Iterator[_Part]:
    """Test rows by the groups of a column that holds a demographic variable."""
    if card.bundle is None or card.record is None or card.bundle.manifest.groups is None:
        return
    held = {column: variable for variable, column in card.record.words.demographics.items() if column}
    for grouping in card.bundle.manifest.groups.declared:
        cells = [f"{one.cell} {one.n:,}" for one in card.record.by_group if one.grouping == grouping.name]
        if grouping.column in held and cells:
            variable = held[grouping.column].replace("_", " ")
            yield f"Test rows by {variable} (`{grouping.column}`): {', '.join(cells)}.", TEST_ROWS


def _promised_groups(card: ModelCard) -> Iterator[_Part]:
    groups = None if card.bundle is None else card.bundle.manifest.groups
    if groups is None:
        return
    named = ", ".join(f"`{grouping.name}`" for grouping in groups.declared)
    if groups.calibrated_by is None:
        yield f"Coverage is measured, and promised to no group, by {named}.", ARTEFACT
    else:
        yield (
            f"Coverage is promised for each class in each group by `{groups.calibrated_by}`; measured by {named}.",
            ARTEFACT,
        )


def _validity(card: ModelCard) -> Iterator[_Part]:
    yield _of_test_rows(card, measured_text(card)), TEST_ROWS


def _fairness(card: ModelCard) -> Iterator[_Part]:
    told = [f"{words}: {value:.3f} ({n:,} rows)" for words, value, n in group_results(card)]
    yield _of_test_rows(card, f"{'; '.join(told)}." if told else ""), TEST_ROWS


def _of_test_rows(card: ModelCard, text: str) -> str:
    """The text, and that nobody here knows what trained the model where that is so."""
    if not text or card.bundle is None or card.bundle.manifest.source is None:
        return text
    return f"What trained the model is not known here; on test rows of the source that calibrated it: {text}"


_ATTRIBUTES: tuple[tuple[str, str, _Tell], ...] = (
    ("(1)(i)", "Name and contact information for the intervention developer", _words("owners")),
    ("(1)(ii)", "Funding source of the technical implementation for the intervention's development", _words("funding")),
    ("(1)(iii)", "Description of value that the intervention produces as an output", _output),
    (
        "(1)(iv)",
        "Whether that is a prediction, classification, recommendation, evaluation, analysis, or another output",
        _kind_of_output,
    ),
    ("(2)(i)", "Intended use of the intervention", _words("intended_use")),
    ("(2)(ii)", "Intended patient populations for the intervention's use", _words("intended_population")),
    ("(2)(iii)", "Intended users", _words("intended_users")),
    ("(2)(iv)", "Intended decision-making role for which the intervention was designed", _words("decision_role")),
    (
        "(3)(i)",
        "Tasks, situations, or populations where a user is cautioned against applying the intervention",
        _words("out_of_scope"),
    ),
    (
        "(3)(ii)",
        "Known risks, inappropriate settings, inappropriate uses, or known limitations",
        _and(_words("caveats"), _limits),
    ),
    (
        "(4)(i)",
        "Exclusion and inclusion criteria that influenced the training data set",
        _and(_words("inclusion_criteria"), _rows_left_out),
    ),
    ("(4)(ii)", "Use of the variables in (b)(11)(iv)(A)(5) to (13) as input features", _inputs),
    (
        "(4)(iii)",
        "Demographic representativeness according to these variables",
        _and(_words("representativeness"), _who_is_in_it),
    ),
    ("(4)(iv)", "Relevance of training data to intended deployed setting", _words("relevance")),
    (
        "(5)(i)",
        "Approach taken to ensure that the intervention's output is fair",
        _and(_words("fairness_approach"), _promised_groups),
    ),
    ("(5)(ii)", "Approaches to manage, reduce, or eliminate bias", _words("bias_approach")),
    ("(6)(i)", "Data source, setting, or environment of external validation", _words("external_data")),
    ("(6)(ii)", "Party that conducted the external testing", _words("external_party")),
    ("(6)(iii)", "Demographic representativeness of external data", _words("external_representativeness")),
    ("(6)(iv)", "External validation process", _words("external_process")),
    ("(7)(i)", "Validity in test data derived from the same source as the initial training data", _validity),
    ("(7)(ii)", "Fairness in test data derived from the same source as the initial training data", _fairness),
    (
        "(7)(iii)",
        "Validity in data external to or from a different source than the initial training data",
        _words("external_validity"),
    ),
    (
        "(7)(iv)",
        "Fairness in data external to or from a different source than the initial training data",
        _words("external_fairness"),
    ),
    ("(7)(v)", "References to evaluation of use of the intervention on outcomes", _words("outcome_evaluations")),
    ("(8)(i)", "Process and frequency by which validity is monitored over time", _words("validity_monitoring")),
    ("(8)(ii)", "Validity of the intervention in local data", _words("local_validity")),
    ("(8)(iii)", "Process and frequency by which fairness is monitored over time", _words("fairness_monitoring")),
    ("(8)(iv)", "Fairness of the intervention in local data", _words("local_fairness")),
    ("(9)(i)", "Process and frequency by which the intervention is updated", _words("update_schedule")),
    (
        "(9)(ii)",
        "Frequency by which performance is corrected when risks related to validity and fairness are identified",
        _words("correction_schedule"),
    ),
)
"""Paragraph, what it asks for in short, and what tells it."""
