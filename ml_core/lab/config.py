"""One YAML per model: data, level, splits, training, gates. Typed, checked, with one seed."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from ml_core.base.errors import ConfigError
from ml_core.base.near_names import meant
from ml_core.base.strict_yaml import NotYaml, parse_yaml
from ml_core.lab.batch.table_places import beside
from ml_core.serve.features.column_table import read_columns
from ml_core.serve.features.table_versions import STANDARD, table_version
from ml_core.serve.features.versions import module_version, register_version

__all__ = [
    "CardConfig",
    "ConformalConfig",
    "CsvConfig",
    "DataConfig",
    "Demographic",
    "DriftConfig",
    "LEARNERS",
    "GateConfig",
    "GroupConfig",
    "LabelsConfig",
    "ModelConfig",
    "PromotionConfig",
    "RecalibrateConfig",
    "RetrainConfig",
    "SplitConfig",
    "TrackingConfig",
    "TrainingConfig",
    "load_config",
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CsvConfig(_Section):
    """How a text table is written. It is read so every time; ``surety init`` finds it out and writes it down."""

    separator: Literal[",", ";", "\t", "|"] = Field(",", description="Between two cells.")
    decimal: Literal[".", ","] = Field(".", description="Before the decimals of a number.")
    thousands: Literal["", ",", ".", " ", "'"] = Field("", description="Between groups of three digits; empty: none.")
    encoding: Literal["utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"] = Field(
        "utf-8", description="Of the text; a byte order mark before utf-8 is passed over."
    )
    null_words: tuple[str, ...] = Field((), description="Cells that mean that nothing is known, besides the empty one.")

    @model_validator(mode="after")
    def _marks_differ(self) -> CsvConfig:
        if self.decimal == self.thousands:
            raise ValueError("decimal and thousands are different marks")
        return self


class DataConfig(_Section):
    """Where raw rows come from and how they become the feature version's columns."""

    source: Path = Field(
        description="Parquet or CSV file with the raw rows, a folder of such files, or an address such as "
        "s3://bucket/rows; with `columns`, a path is relative to this file."
    )
    adapter: Literal["columns", "diabetes130"] = Field(
        "columns", description="How the file is typed: 'columns' (as the column table says) or a data set of its own."
    )
    csv: CsvConfig = Field(CsvConfig(), description="How the file is written where it is a text table.")
    dates: dict[str, str] = Field(
        default_factory=dict,
        description="Form of the dates of a column that are not written like 2026-01-31, e.g. '%d.%m.%Y'.",
    )
    null_values: dict[str, tuple[int | float | str, ...]] = Field(
        default_factory=dict, description="Values of a column that mean that nothing is known, e.g. [-999]."
    )
    leave_out_labels: tuple[int | str | None, ...] = Field(
        (), description="Rows with these labels are left out; null for rows without a label."
    )
    row_number: str = Field(
        "", description="Column to make of the row's number, for tables in which each row is a subject of its own."
    )
    known_before: tuple[str, ...] = Field(
        (), description="Columns that give every class away alone and yet are known before the outcome is."
    )


class SplitConfig(_Section):
    """Shares of the groups (subjects), by a salted hash, the same for every version; or of the rows, in time."""

    by: Literal["group", "time"] = Field(
        "group",
        description="'group': a subject is whole in one part, by a salted hash; 'time': the oldest rows train, later "
        "ones validate and calibrate, the newest test. Then a subject may stand in several parts, and the coverage of "
        "subjects seen before is measured by itself.",
    )
    order_by: str | None = Field(
        None,
        description="With `by: time`, the whole-number or datetime column that says what is older; without it, the "
        "column with the role time. Rows without a value count as the newest, in the order of the table.",
    )
    salt: str = "surety-split-1"
    train: float = Field(0.50, gt=0, lt=1)
    validation: float = Field(0.10, gt=0, lt=1, description="For early stopping.")
    calibration: float = Field(0.20, gt=0, lt=1)
    test: float = Field(0.20, gt=0, lt=1)
    newest_rows: int | None = Field(
        None,
        ge=1_000,
        description="Calibrate, test and take the reference of only this many of the newest rows; training uses all "
        "rows. For a coverage target about who comes today, after the mix has changed.",
    )

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitConfig:
        total = self.train + self.validation + self.calibration + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the four shares sum to {total:g}, not 1")
        if self.order_by is not None and self.by != "time":
            raise ValueError("order_by needs by: time")
        return self


class GroupConfig(_Section):
    """One grouping of rows: a column, or bands of one. A row without a value is in the cell ``unknown``.

    The column may be no feature, such as race or sex: give its ``levels``, or the ``cuts`` of a number. It is then an
    optional field of a request, and is kept for this purpose alone.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", description="Of the grouping, e.g. age_band.")
    column: str = Field("", description="The raw column it looks at; without it, the one of the grouping's name.")
    cells: dict[str, tuple[str | int, ...]] = Field(
        default_factory=dict,
        description="Levels of a category by cell; levels that are in none are in the cell 'other'. Without it, each "
        "level is a cell.",
    )
    cuts: tuple[float, ...] = Field(
        (), description="Of a number: where one band ends and the next begins, ascending; a value at a cut is above it."
    )
    levels: tuple[StrictInt, ...] | tuple[StrictStr, ...] = Field(
        (), description="All levels of a category that is no feature."
    )
    pool: Literal["other", "neighbour"] | None = Field(
        None,
        description="How cells with fewer than conformal.min_group_rows calibration rows of a class are calibrated: "
        "together, as 'other', or with the neighbouring cell. Without it, bands join a neighbour, categories 'other'.",
    )
    doc: str = Field("", description="One sentence on the column, for the people who send it.")

    @property
    def raw_column(self) -> str:
        """The raw column it looks at."""
        return self.column or self.name

    @property
    def pooling(self) -> Literal["other", "neighbour"]:
        """How small cells are pooled."""
        return self.pool or ("neighbour" if self.cuts else "other")

    @model_validator(mode="after")
    def _cells_fit(self) -> GroupConfig:
        if self.cuts and (self.cells or self.levels):
            raise ValueError("cuts are of a number, cells and levels of a category: give one of them")
        if list(self.cuts) != sorted(set(self.cuts)):
            raise ValueError("cuts ascend, and none is there twice")
        listed = [level for levels in self.cells.values() for level in levels]
        if len(set(listed)) < len(listed) or not all(self.cells.values()):
            raise ValueError("a level is in one cell, and a cell has at least one level")
        if "unknown" in self.cells:
            raise ValueError("unknown is the cell of rows without a value: give yours another name")
        return self


class ConformalConfig(_Section):
    """Coverage target of the prediction sets, and the groups of patients in which coverage is measured or promised."""

    confidence_level: Decimal = Field(Decimal("0.9"), ge=Decimal("0.5"), le=Decimal("0.999"))
    guarantee: Literal["class_conditional", "marginal", "class_and_group"] = Field(
        "class_conditional",
        description="'class_and_group' promises the coverage of each class in each cell of one grouping.",
    )
    training_conditional: Decimal | None = Field(
        None,
        ge=Decimal("0.5"),
        le=Decimal("0.9999"),
        description="Confidence, over calibrations, with which the true coverage is at least confidence_level. Without "
        "it, confidence_level is the mean over calibrations, and about half of them lie below. Sets grow a little.",
    )
    groups: tuple[GroupConfig, ...] = Field(
        (), max_length=20, description="Groupings of rows; coverage is measured and judged in all of them."
    )
    calibrate_by: str = Field(
        "", description="The grouping in whose cells coverage is promised; without it, the first one declared."
    )
    min_group_rows: int = Field(
        200, ge=20, description="Fewest calibration rows of each class for a cell with a calibration of its own."
    )

    @model_validator(mode="after")
    def _names_fit(self) -> ConformalConfig:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError("two groupings have the same name")
        if self.guarantee == "class_and_group" and not names:
            raise ValueError("class_and_group needs groups: declare at least one grouping")
        if self.calibrate_by and (self.guarantee != "class_and_group" or self.calibrate_by not in names):
            raise ValueError("calibrate_by names one of the groups, and needs guarantee: class_and_group")
        return self

    @property
    def promised_by(self) -> GroupConfig | None:
        """The grouping in whose cells coverage is promised; None where it is promised in none."""
        if self.guarantee != "class_and_group":
            return None
        return next(g for g in self.groups if g.name == (self.calibrate_by or self.groups[0].name))


LEARNERS = ("xgboost", "lightgbm", "catboost", "hist_gradient_boosting", "random_forest", "logistic_regression")
"""Learners by name; any other one is an import path."""
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class TrainingConfig(_Section):
    """The learner. One that learns in rounds stops on the validation groups."""

    learner: str = Field(
        "xgboost",
        description="xgboost, lightgbm, catboost (the last two need the extra `learners`), hist_gradient_boosting, "
        "random_forest, logistic_regression, or `package.module:Estimator`, a classifier as scikit-learn has them.",
    )
    rounds: int = Field(600, ge=1, le=100_000, description="Most rounds of one that learns in rounds.")
    early_stopping_rounds: int = Field(
        30,
        ge=1,
        description="Rounds without a better log loss on the validation groups after which XGBoost, LightGBM and "
        "CatBoost stop; of hist_gradient_boosting the best of all rounds is taken.",
    )
    params: dict[str, bool | int | float | str | list[bool | int | float | str] | None] = Field(
        default_factory=dict,
        description="Hyper-parameters under the learner's own names; a name it does not know is refused.",
    )
    class_weight: Literal["balanced"] | dict[int | str, Annotated[float, Field(gt=0, lt=1e6)]] | None = Field(
        None,
        description="How much more the rows of a class count in training: 'balanced' (all classes weigh the same "
        "together), or a number for some labels. It moves probabilities away from the share of the classes; the "
        "promise of the sets stays.",
    )

    @field_validator("learner")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in LEARNERS and not _IMPORT_PATH.fullmatch(name):
            raise ValueError(f"{name[:60]} is no learner, and no package.module:Estimator; {meant(name, LEARNERS)}")
        return name


class GateConfig(_Section):
    """The pre-deployment gate. A coverage floor is judged with the beta-binomial band."""

    min_roc_auc: float = Field(
        0.75, ge=0.5, le=1, description="With more than two classes, of the mean over classes of one against the rest."
    )
    roc_auc_note: str = Field("", description="Why this floor; shown in the gate report.")
    min_coverage: float = Field(0.88, ge=0, le=1)
    max_brier: float | None = Field(
        None,
        ge=0,
        le=2,
        description="Of two classes it is the mean squared error of P(second label), in [0, 1]; of more it is summed "
        "over classes, in [0, 2]. Without it, 0.20 for two classes, and no limit for more, whose scale depends on "
        "their number and shares: there min_brier_skill judges.",
    )
    min_brier_skill: float = Field(
        0.0,
        ge=-1,
        lt=1,
        description="Share of the base rate's Brier score that is gained. Must be exceeded, as far as chance allows to "
        "tell: the floor is moved by half of the skill's 95 % interval on the test rows.",
    )
    min_group_coverage: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Fewest covered of each class in each cell of the declared conformal.groups, as a share; for the "
        "grouping in which coverage is promised, min_coverage.",
    )
    min_group_rows: int = Field(
        100, ge=1, description="Fewer test rows of a class in a cell of a grouping: it is not judged, which is noted."
    )
    min_positives: int = Field(100, ge=1, description="Fewer test rows of any class: refuse to judge.")
    prove: bool = Field(
        False,
        description="The other burden of proof: the lower 95 % confidence bound of coverage, of all rows and of each "
        "class, must exceed min_coverage too.",
    )
    min_coverage_returning: float | None = Field(
        None,
        ge=0,
        le=1,
        description="With `split.by: time`: smallest coverage of the test rows of subjects seen before, per class, "
        "judged like min_coverage; without it their coverage is only shown.",
    )

    def brier_limit(self, n_classes: int) -> float | None:
        """Largest Brier score of a model of that many classes; None where only its skill is judged."""
        return 0.20 if self.max_brier is None and n_classes == 2 else self.max_brier


class PromotionConfig(_Section):
    """Challenger against champion, on the same test rows. The ROC AUC decides."""

    min_improvement: float = Field(0.02, ge=0, le=1, description="Least gain of the ROC AUC.")
    max_regression: float = Field(0.01, ge=0, le=1, description="Largest loss of a secondary metric, in its own unit.")
    secondary_metrics: tuple[str, ...] = ("brier", "log_loss", "mean_set_size")
    min_coverage: float = Field(0.90, ge=0, le=1)
    yield_to_alarm: bool = Field(
        True,
        description="While a coverage or drift alarm is on for the champion, a challenger need not be better than it, "
        "only not worse by more than max_regression; its set sizes are not compared, since broken sets are too small.",
    )

    @model_validator(mode="before")
    @classmethod
    def _primary_metric_is_the_auc(cls, raw: Any) -> Any:
        """Accept ``primary_metric: roc_auc``, which earlier versions asked for."""
        if not isinstance(raw, dict) or "primary_metric" not in raw:
            return raw
        if raw["primary_metric"] != "roc_auc":
            raise ValueError("the ROC AUC always decides a promotion: take primary_metric out")
        return {name: value for name, value in raw.items() if name != "primary_metric"}


class DriftConfig(_Section):
    """How current rows are compared with the reference; both rules state false alarms per check."""

    rule: Literal["ks_mean_shift", "extended"] = Field(
        "ks_mean_shift",
        description="'ks_mean_shift': law and mean of each number; 'extended': also spread, shares, missing values.",
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="Level of the tests.")
    min_shift_fraction: float = Field(
        0.10, ge=0, le=10, description="Change of a number, in units of its scale, that must be exceeded."
    )
    threshold_fraction: float = Field(
        0.20, gt=0, le=1, description="Share of the tested features that must drift before retraining is advised."
    )
    importance_fraction: float = Field(
        0.20,
        gt=0,
        le=1,
        description="Share of the model's importance that drifted features must hold together before retraining is "
        "advised, however few they are.",
    )


class RetrainConfig(_Section):
    """When to train again."""

    cool_down_days: float = Field(7.0, ge=0, le=3_650, description="Least time between two retrained models, days.")
    min_new_labels: int = Field(500, ge=0, description="Fewest labels that matured since the last training.")
    live_rows: int = Field(5_000, ge=30, description="Newest answers that the drift check looks at.")


class RecalibrateConfig(_Section):
    """Calibrating the champion's scorer anew, on answers whose outcome is known."""

    rows: int = Field(2_000, ge=100, description="Newest answers of known outcome that are used, at most.")
    min_held_out: int = Field(
        10,
        ge=1,
        description="Fewest rows of any class among the answers that do not calibrate and judge the new coverage. "
        "gate.min_positives asks for that many of each class among all answers used, which judge the scorer.",
    )
    live_rows: int = Field(5_000, ge=500, description="Newest answers that show who comes now, for weighted sets.")
    min_effective_rows: int = Field(
        100,
        ge=20,
        description="Fewest equally weighted calibration rows that a class's weighted rows must be worth (Kish): with "
        "fewer, the shift is too large to be weighted away.",
    )


class TrackingConfig(_Section):
    """Where else a registered model is written to, beside MLflow. Nothing is read from there."""

    mirror: Literal["wandb"] | None = Field(None, description="'wandb': also to Weights & Biases (extra `wandb`).")
    mode: Literal["offline", "online"] = Field(
        "offline",
        description="'offline' writes below SURETY_HOME/wandb, for `wandb sync`; 'online' needs a server of W&B and a "
        "login.",
    )
    project: str = Field("", description="Project in W&B; without it, the model's name.")
    entity: str = Field("", description="User or team in W&B that owns the project; without it, the one logged in.")


class LabelsConfig(_Section):
    """What is known of the labels that come later."""

    horizon_days: float | None = Field(
        None,
        ge=0,
        le=36_500,
        description="How long after an answer its label is certain and begins to count, days; without it, "
        "SURETY_LABEL_HORIZON_DAYS of the monitor.",
    )


Demographic = Literal[
    "race", "ethnicity", "language", "sexual_orientation", "gender_identity", "sex", "date_of_birth",
    "social_determinants", "health_status",
]  # fmt: skip
"""Variables of 45 CFR 170.315(b)(11)(iv)(A)(5) to (13)."""


class CardConfig(_Section):
    """What people say about the model on its card. None of it is computed, and none of it changes the artefact."""

    owners: tuple[str, ...] = Field((), description="Who answers for the model, e.g. a team and how to reach it.")
    intended_use: str = Field("", description="Who may use it, for which decision, about whom.")
    out_of_scope: str = Field("", description="What it must not be used for.")
    data: str = Field("", description="Where the rows come from, whom they describe, what was left out, the licence.")
    ethical_considerations: str = Field("", description="Who could be harmed, how, and what was done about it.")
    caveats: str = Field("", description="What else a reader must know.")
    funding: str = Field("", description="Who paid for making it.")
    intended_population: str = Field("", description="Whom it is meant to be asked about.")
    intended_users: str = Field("", description="Who is meant to read its answers.")
    decision_role: str = Field("", description="Whether it informs, augments or replaces a decision, and which.")
    inclusion_criteria: str = Field("", description="Which rows were taken for training, and which were left out.")
    demographics: dict[Demographic, str] = Field(
        default_factory=dict,
        description="Which column holds a demographic variable, by its name; empty text: no column does.",
    )
    representativeness: str = Field("", description="How the training rows stand for the people it is meant for.")
    relevance: str = Field("", description="How training rows are like the place where it is used.")
    fairness_approach: str = Field("", description="What was done so that its answers are fair.")
    bias_approach: str = Field("", description="What was done to manage, reduce or remove bias.")
    external_data: str = Field("", description="Where validity and fairness were assessed on data of another source.")
    external_party: str = Field("", description="Who did that.")
    external_representativeness: str = Field("", description="Whom those data stand for.")
    external_process: str = Field("", description="How that was done.")
    external_validity: str = Field("", description="What was found of its validity there.")
    external_fairness: str = Field("", description="What was found of its fairness there.")
    outcome_evaluations: str = Field("", description="References to what its use did to outcomes.")
    validity_monitoring: str = Field("", description="How, and how often, its validity is watched.")
    local_validity: str = Field("", description="What was found of its validity where it is used.")
    fairness_monitoring: str = Field("", description="How, and how often, its fairness is watched.")
    local_fairness: str = Field("", description="What was found of its fairness where it is used.")
    update_schedule: str = Field("", description="How, and how often, it is updated.")
    correction_schedule: str = Field("", description="How soon performance is corrected when risks are found.")
    summary: str = Field("", description="The model in a few sentences.")
    keywords: tuple[str, ...] = Field((), description="Words to find it by.")
    release_stage: str = Field("", description="Such as research, pilot or general use.")
    release_date: str = Field("", description="When it was released.")
    availability: str = Field("", description="Where in the world it may be used.")
    regulatory_approval: str = Field("", description="Which authority has cleared it, and under which number.")
    clinical_risk_level: str = Field("", description="How much harm a wrong answer can do, by which scale.")
    third_parties: str = Field("", description="Whose components or data it needs.")
    stakeholders: str = Field("", description="Who was asked while it was made.")
    consent: str = Field("", description="What those whose rows these are were told or asked.")
    publications: str = Field("", description="Peer-reviewed publications about it.")
    bibliography: str = Field("", description="What it is based on.")


class ModelConfig(_Section):
    """Everything that decides a model, without places and secrets."""

    model: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    columns: Path | None = Field(
        None, description="The column table, a YAML file; its path is relative to this one. See docs/columns.md."
    )
    transform: str = Field(
        STANDARD,
        description="With `columns`, what makes the model's matrix of them: 'standard', or a feature version in code.",
    )
    feature_version: str = Field(
        "",
        pattern=r"^([a-z][a-z0-9_]{0,63})?$",
        description="Instead of `columns`, a feature version in code: of this package (v2), of an installed package "
        "(an entry point surety.features), or the name of a Python file that `module` or SURETY_FEATURE_MODULES gives.",
    )
    module: Path | None = Field(
        None,
        description="The Python file of a feature version, or of a transform; its path is relative to this one.",
    )
    subjects: str = Field(
        "subjects",
        pattern=r"^[A-Za-z][A-Za-z _-]{0,39}$",
        description="What the group column names, in the plural, for messages: patients, storms, machines.",
    )
    seed: int = Field(20_140, ge=0)
    data: DataConfig
    split: SplitConfig = SplitConfig()
    conformal: ConformalConfig = ConformalConfig()
    training: TrainingConfig = TrainingConfig()
    gate: GateConfig = GateConfig()
    promotion: PromotionConfig = PromotionConfig()
    retrain: RetrainConfig = RetrainConfig()
    recalibrate: RecalibrateConfig = RecalibrateConfig()
    drift: DriftConfig = DriftConfig()
    labels: LabelsConfig = LabelsConfig()
    tracking: TrackingConfig = TrackingConfig()
    card: CardConfig = CardConfig()

    @model_validator(mode="after")
    def _one_kind_of_features(self) -> ModelConfig:
        if self.columns is None and not self.feature_version and self.module is None:
            raise ValueError("says nothing of its features: set columns, or feature_version, or module")
        if self.columns is None and self.transform != STANDARD:
            raise ValueError("transform needs columns, the table that it takes")
        return self

    @model_validator(mode="after")
    def _somebody_returns(self) -> ModelConfig:
        if self.gate.min_coverage_returning is not None and self.split.by != "time":
            raise ValueError("gate.min_coverage_returning needs split.by: time; a split by group has nobody return")
        return self


def load_config(path: Path) -> ModelConfig:
    """The configuration in a YAML file, with the name of its feature version, which is registered.

    Raises
    ------
    ConfigError
        The file is missing, no YAML, or a field is wrong; the message names file and field. Its column table or module
        cannot be used.
    UnknownFeatureVersion
        There is no module of the name that it gives.
    """
    try:
        raw = parse_yaml(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(str(path), "there is no such file") from error
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        problem = str(error) if isinstance(error, NotYaml) else f"cannot be read: {_why(error)}"
        raise ConfigError(str(path), problem) from error
    if not isinstance(raw, dict):
        raise ConfigError(str(path), "is not a YAML file of names and values")
    try:
        config = ModelConfig.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(p)[:60] for p in first["loc"])
        raise ConfigError(f"{path}: {where}", _in_words(first["type"], first["loc"], first["msg"])) from error
    return _with_features(config, path)


def _in_words(kind: str, place: tuple[str | int, ...], told: str) -> str:
    """What pydantic says; of a key that is not known also the nearest one that is."""
    if kind != "extra_forbidden":
        return told.removeprefix("Value error, ")
    section: Any = ModelConfig
    for step in place[:-1]:
        if isinstance(step, str):
            section = _section_of(section.model_fields[step].annotation)
    return f"is not known here; {meant(place[-1], section.model_fields)}"


def _section_of(annotation: Any) -> type[BaseModel]:
    """The section behind an annotation such as ``tuple[GroupConfig, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(section for part in get_args(annotation) if isinstance(section := _section_of(part), type))


def _with_features(config: ModelConfig, path: Path) -> ModelConfig:
    """The configuration with the name of its feature version."""
    columns, module = (None if file is None else path.parent / file for file in (config.columns, config.module))
    named = None if module is None else register_version(module_version(module)).name
    if columns is None:
        if config.feature_version and named not in (None, config.feature_version):
            raise ConfigError(f"{path}: module", f"is {named}, and feature_version is {config.feature_version}")
        return config.model_copy(update={"feature_version": named or config.feature_version, "module": module})
    if module is not None and config.transform not in (STANDARD, named):
        raise ConfigError(f"{path}: module", f"is {named}, and transform is {config.transform}")
    try:
        version = table_version(read_columns(columns), named or config.transform)
    except ConfigError as error:
        problem = str(error).removeprefix(f"{columns}: ")
        raise ConfigError(str(columns), problem) from error
    if config.feature_version not in ("", version.name):
        raise ConfigError(f"{path}: feature_version", "is what columns says already: take it out")
    data = config.data.model_copy(update={"source": beside(path.parent, config.data.source)})
    update = {"feature_version": version.name, "columns": columns, "module": module, "data": data}
    return config.model_copy(update=update)


def _why(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__
