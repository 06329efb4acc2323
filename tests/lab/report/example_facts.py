"""Facts of an invented service in its fourth month: a drift alarm and a coverage alarm for class 1 are on."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from ml_core.lab.measuring.performance import AucEstimate
from ml_core.lab.measuring.reliability import CalibrationEstimate, CurvePoint
from ml_core.lab.report.facts import AnswerBucket, AnswerHistory, GateVerdict, Model, Monitoring, ReportFacts, Serving
from ml_core.lab.report.facts_drift import (
    Detector,
    Drift,
    EvidencePoint,
    FeatureDrift,
    LevelShares,
    NumberShares,
    ScoreShift,
)
from ml_core.lab.report.facts_outcomes import (
    ClassCoverage,
    Coverage,
    CoverageBucket,
    ExpectedBucket,
    ExpectedHistory,
    ExpectedSeries,
    GroupClass,
    GroupOutcomes,
    Labels,
    MissingOutcomes,
    OpenCoverage,
    PatientGroups,
    PerformanceBucket,
    PerformanceHistory,
    Reliability,
)
from ml_core.lab.report.facts_upkeep import (
    CircuitNow,
    Circuits,
    CircuitTransition,
    JournalEntry,
    LogStore,
    Rollout,
    ShadowPair,
    StoredFile,
)
from ml_core.lab.report.gaps import Gap
from ml_core.serve.model.promotion_record import RuleVerdict

NOW = datetime(2026, 11, 23, 10, 15, 30, tzinfo=UTC)
DAY_S, WEEK_S = 86_400.0, 604_800.0

NUMBERS = (
    ("glucose", "mg/dL", 148.0, 36.0),
    ("age", "years", 63.0, 15.0),
    ("bmi", "kg/m2", 29.0, 6.0),
    ("bp_systolic", "mmHg", 132.0, 18.0),
    ("time_in_hospital", "days", 4.4, 3.0),
    ("num_medications", "count", 16.0, 8.0),
    ("num_lab_procedures", "count", 43.0, 19.0),
    ("number_inpatient", "visits", 0.6, 1.2),
    ("creatinine", "mg/dL", 1.1, 0.4),
)
CATEGORIES = (
    ("admission_source", ("emergency", "referral by a physician", "transfer", "clinic", "other")),
    ("insulin", ("no", "ok", "up", "down")),
    (
        "medical_specialty",
        (
            "internal medicine",
            "cardiology",
            "surgery",
            "family practice",
            "nephrology",
            "orthopaedics",
            "radiology",
            "psychiatry",
            "urology",
            "oncology",
        ),
    ),
)


def example_facts(features: int = 14, days: int = 122) -> ReportFacts:
    """A full report; ``features`` >= 12 of them, ``days`` of history."""
    rng = np.random.default_rng(20261123)
    since = datetime(2026, 11, 23, tzinfo=UTC) - timedelta(days=days)
    return ReportFacts(
        model_name="readmission_risk",
        written_at=NOW,
        since=since,
        until=NOW,
        bucket_s=DAY_S,
        label_words={"0": "not readmitted within 30 days", "1": "readmitted within 30 days"},
        serving=Serving(workers=2, mode="shadow"),
        models=(champion(), challenger()),
        monitoring=Monitoring(NOW - timedelta(seconds=41), 300.0),
        drift=drift(rng, features),
        answers=answers(rng, since, days),
        labels=Labels(counted=31_204, waiting=9_871, missing=214, horizon_days=30.0, next_at=NOW),
        coverage=coverage(rng, since, days),
        missing=MissingOutcomes(
            1_003,
            21,
            (
                OpenCoverage("all", 0.902, 0.884, 0.905, 0.901, 0.881, 0.919),
                OpenCoverage("0", 0.904, 0.893, 0.906, 0.904, 0.882, 0.922),
                OpenCoverage("1", 0.882, 0.804, 0.891, 0.876, 0.801, 0.930),
            ),
            groups=(("sex=female", 0.98), ("sex=male", 0.97), ("sex=unknown", None)),
        ),
        performance=performance(rng, since, days),
        expected=expected(since, days),
        reliability=reliability(),
        groups=groups(),
        shadow=(shadow(rng),),
        circuits=circuits(),
        rollout=Rollout(journal(), {"shadow_share": "0.5"}),
        store=store(days),
    )


def reliability() -> Reliability:
    """Probabilities that are somewhat too extreme."""
    predicted = np.linspace(0.02, 0.62, 10)
    points = tuple(CurvePoint(float(p), float(0.05 + 0.82 * p), 3_120) for p in predicted)
    slope, intercept = CalibrationEstimate(0.86, 0.03, 0.80, 0.92), CalibrationEstimate(0.05, 0.02, 0.01, 0.09)
    return Reliability("1", 31_200, 0.95, slope, intercept, points)


def groups() -> PatientGroups:
    """Sexes with a promise, age bands without; the oldest are covered less, and of some there are few."""
    sexes = (
        group_of("sex", "female", 5_210, 0.905, 0.896, is_promised=True),
        group_of("sex", "male", 4_830, 0.897, 0.902, is_promised=True),
        group_of("sex", "unknown", 0, 0.0, 0.0),
    )
    ages = (
        group_of("age_band", "below 50", 1_204, 0.962, 0.832),
        group_of("age_band", "50 to below 70", 4_011, 0.914, 0.884),
        group_of("age_band", "70 to below 80 with a long name", 3_020, 0.889, 0.931),
        group_of("age_band", "80 and above", 1_790, 0.841, 0.944),
        group_of("age_band", "unknown", 9, 0.9, 0.9),
    )
    return PatientGroups(0.9, 0.01, 0.95, 31_204, (*sexes, *ages))


def group_of(
    grouping: str, cell: str, patients: int, zero: float, one: float, *, is_promised: bool = False
) -> GroupOutcomes:
    """A group with these coverages of both classes; fewer than ten patients have no numbers."""
    if patients < 10:
        return GroupOutcomes(grouping, cell, is_promised, None, (GroupClass("0"), GroupClass("1")))
    classes = tuple(
        GroupClass(label, n, n, share, 0.9 if is_promised else None, 0.9 - 1.8 / n**0.5, min(1.0, 0.9 + 1.6 / n**0.5))
        for label, share, n in (("0", zero, patients), ("1", one, patients // 8))
    )
    slope = CalibrationEstimate(0.8 + zero / 9, 0.09, 0.62 + zero / 9, 0.98 + zero / 9)
    area = AucEstimate(0.77, 0.02, 0.73, 0.81)
    points = reliability().points
    intercept = CalibrationEstimate(0.02, 0.04, -0.06, 0.1)
    return GroupOutcomes(
        grouping, cell, is_promised, patients, classes, area, 0.15, 1.44, 0.55, slope, intercept, points
    )


def bare_facts() -> ReportFacts:
    """What is known of a name that nobody has done anything with."""
    return ReportFacts("readmission_risk", NOW, NOW - timedelta(days=30), NOW, DAY_S)


def facts_with(text: str) -> ReportFacts:
    """A small report with that text wherever somebody could have written one."""
    alike = LevelShares((text,), (1.0,), (1.0,))
    feature = FeatureDrift(text, "drifted", is_drifted=True, unit=text, notes=(text,), shares=alike)
    detector = Detector(6e4, 5e4, 100, text, NOW)
    pair = ShadowPair(text, text, scored=10, agreed=9, same_set=8)
    return replace(
        bare_facts(),
        model_name=text,
        label_words={"1": text},
        serving=Serving(1, problems=(text,)),
        models=(replace(champion(), name=text, version=text, promoted_by=text, trained_on=text, lineage={text: text}),),
        drift=drift_of(feature),
        coverage=Coverage(0.9, 0.005, DAY_S, (ClassCoverage("1", 0.9, 10, 0.8, (), detector),)),
        groups=PatientGroups(
            0.9,
            0.01,
            0.95,
            500,
            (GroupOutcomes("sex", text, True, 500, (GroupClass("1", 500, 500, 0.8, 0.9, 0.7, 1.0),)),),
        ),
        shadow=(pair,),
        circuits=Circuits(
            (CircuitNow(text, "champion", text, text, text),), (CircuitTransition(text, text, text, text, text),)
        ),
        rollout=Rollout((JournalEntry(NOW, text, text, text, text),), {text: text}),
        store=LogStore(1, 0, text, broken=(text,), files=(StoredFile(text, text, 1, 1),)),
        gaps=(Gap("models", text),),
    )


def drift_of(*features: FeatureDrift) -> Drift:
    """A check of these features that advises nothing."""
    return Drift("ks_mean_shift", "", 100, 100, NOW, NOW, features, 0.2, retrain_advised=False)


def champion() -> Model:
    rules = (
        RuleVerdict(
            rule="roc_auc", value=0.774, limit=0.75, passed=True, note="area under the ROC curve of test patients"
        ),
        RuleVerdict(rule="brier", value=0.151, limit=0.20, passed=True, note="mean squared error of P(1)"),
        RuleVerdict(
            rule="coverage_class_0",
            value=0.905,
            limit=0.884,
            passed=True,
            note="lower line of the band for 3,204 test rows",
        ),
        RuleVerdict(
            rule="coverage_class_1",
            value=0.893,
            limit=0.871,
            passed=True,
            note="lower line of the band for 1,187 test rows",
        ),
    )
    metrics = {
        "roc_auc": 0.774,
        "brier": 0.151,
        "brier_skill": 0.183,
        "coverage": 0.902,
        "coverage_class_0": 0.905,
        "coverage_class_1": 0.893,
        "mean_set_size": 1.41,
    }
    lineage = {
        "run_id": "6f0c1d2b9a4e4b0fb2c6d1b1f7c3a055",
        "seed": "20260714",
        "xgboost": "3.0.2",
        "onnxruntime": "1.22.0",
    }
    return Model(
        slot="champion",
        name="readmission_risk",
        version="3",
        model_hash="93610e73c2f40b1c7f6a5a90d0f4b1f2f54e2f58d3a6b7c8d9e0f1a2b3c4d5e6",
        feature_version="v1",
        confidence_level=0.9,
        guarantee="class_conditional",
        calibration_id="5f85e370a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c",
        calibration_rows={"0": 3_187, "1": 1_204},
        bento_tag="readmission_risk:v3-93610e73",
        trained_at=datetime(2026, 7, 14, 8, 2, tzinfo=UTC),
        trained_on="table v1 version 2",
        rows={"train": 13_120, "validation": 4_377, "calibration": 4_391, "test": 4_391},
        gate=GateVerdict(True, datetime(2026, 7, 14, 9, 30, tzinfo=UTC), "table v1 version 2, test patients", rules),
        promoted_at=datetime(2026, 7, 20, 7, 45, tzinfo=UTC),
        promoted_by="mkeller",
        metrics=metrics,
        lineage=lineage,
    )


def challenger() -> Model:
    return Model(
        slot="challenger",
        name="readmission_risk",
        version="4",
        model_hash="c41d88f0a7b3e2915c6d4f8e0b1a2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d",
        feature_version="v1",
        confidence_level=0.9,
        guarantee="class_conditional",
        calibration_id="0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9",
        calibration_rows={"0": 3_902, "1": 1_466},
        bento_tag="readmission_risk:v4-c41d88f0",
        trained_at=datetime(2026, 11, 16, 6, 12, tzinfo=UTC),
        trained_on="table v1 version 5",
        rows={"train": 16_010, "validation": 5_330, "calibration": 5_368, "test": 5_371},
        gate=GateVerdict(True, datetime(2026, 11, 16, 6, 20, tzinfo=UTC), "table v1 version 5, test patients"),
        metrics={"roc_auc": 0.781, "brier": 0.149, "coverage": 0.901},
    )


def drift(rng: np.random.Generator, features: int) -> Drift:
    found = [
        *(
            number(rng, *row, shift=shift)
            for row, shift in zip(NUMBERS, (0.46, 0.02, -0.17, 0.05, 0.13, 0.0, -0.03, 0.01, 0.04), strict=True)
        )
    ]
    found += [category(rng, name, levels, moved=name == "admission_source") for name, levels in CATEGORIES]
    found += [
        number(rng, f"lab_value_{n:02d}", "mmol/L", 5.0, 1.5, shift=0.0) for n in range(features - len(found) - 2)
    ]
    moved = "the share of missing values moved by more than five points, and not by chance"
    found[3] = replace(found[3], state="warned", is_warned=True, current_missing=0.19, notes=(moved,))
    found.append(FeatureDrift("ward", "constant", is_drifted=False))
    found.append(
        FeatureDrift(
            "hba1c",
            "too_few",
            is_drifted=False,
            is_tested=False,
            unit="%",
            current_missing=0.998,
            reference_missing=0.83,
            notes=("2 values, 30 are needed",),
        )
    )
    edges = np.linspace(0, 1, 26)
    score = NumberShares(tuple(edges), shares(rng.beta(2, 6, 20_000), edges), shares(rng.beta(2.5, 5, 4_000), edges))
    return Drift(
        rule="ks_mean_shift",
        rule_in_words="A feature drifts if its two-sample KS test has p < 0.05 and its mean moved by more than 0.1 sd. With no change at all, 1 to 5 of 100 looks at a feature still say so.",
        n_reference=13_120,
        n_current=2_318,
        since=NOW - timedelta(days=7),
        until=NOW,
        features=tuple(found),
        retrain_share=0.2,
        retrain_advised=True,
        scores=(ScoreShift("1", score, 0.121, 2e-7),),
        detector=detector(
            rng,
            122,
            1e4,
            NOW - timedelta(days=3, hours=4),
            "On average less than one false alarm in 10,000 daily looks.",
        ),
    )


def number(rng: np.random.Generator, name: str, unit: str, mean: float, sd: float, shift: float) -> FeatureDrift:
    before, now = rng.normal(mean, sd, 8_000), rng.normal(mean + shift * sd, sd * (1.15 if shift > 0.3 else 1.0), 2_318)
    edges = np.linspace(mean - 3.2 * sd, mean + 3.6 * sd, 25)
    is_drifted = abs(shift) > 0.1
    return FeatureDrift(
        name=name,
        state="drifted" if is_drifted else "ok",
        is_drifted=is_drifted,
        unit=unit,
        statistic_name="KS",
        statistic=0.39 * abs(shift) + 0.012,
        p_value=1e-6 if is_drifted else 0.41,
        reference_mean=float(before.mean()),
        current_mean=float(now.mean()),
        shift_sd=float((now.mean() - before.mean()) / before.std()),
        reference_missing=0.031,
        current_missing=0.12 if name == "glucose" else 0.029,
        shares=NumberShares(tuple(edges), shares(before, edges), shares(now, edges)),
    )


def category(rng: np.random.Generator, name: str, levels: tuple[str, ...], *, moved: bool) -> FeatureDrift:
    before = np.sort(rng.dirichlet(np.ones(len(levels)) * 3))[::-1]
    now = before[[1, 0, *range(2, len(levels))]] if moved else before * rng.uniform(0.95, 1.05, len(levels))
    return FeatureDrift(
        name=name,
        state="drifted" if moved else "ok",
        is_drifted=moved,
        statistic_name="chi2",
        statistic=88.2 if moved else 3.1,
        p_value=1e-9 if moved else 0.38,
        reference_missing=0.0,
        current_missing=0.0,
        shares=LevelShares(levels, tuple(map(float, before)), tuple(map(float, now / now.sum()))),
    )


def shares(values: np.ndarray, edges: np.ndarray) -> tuple[float, ...]:
    return tuple(float(n) for n in np.histogram(values, edges)[0] / values.size)


def detector(
    rng: np.random.Generator, days: int, threshold: float, alarm_at: datetime | None, promise: str
) -> Detector:
    quiet = np.exp(rng.normal(1.0, 0.8, days))
    if alarm_at is not None:
        quiet[-14:] *= np.exp(np.linspace(0, np.log(threshold), 14))
    trail = tuple(EvidencePoint(NOW - timedelta(days=days - 1 - n), float(v)) for n, v in enumerate(quiet))
    return Detector(float(quiet[-1]), threshold, 250 * days, promise, alarm_at, trail)


def answers(rng: np.random.Generator, since: datetime, days: int) -> AnswerHistory:
    buckets = []
    for n in range(days):
        start = since + timedelta(days=n)
        if n in {40, 41}:  # the service was down
            buckets.append(AnswerBucket(start, 0))
            continue
        scores = rng.beta(2 + 0.6 * (n > days - 20), 6, 330)
        given = int(rng.integers(280, 390))
        none, one = int(rng.integers(0, 4)), int(given * (0.58 - 0.12 * max(0, n - days + 20) / 20))
        fallbacks = 61 if n == days - 35 else int(rng.integers(0, 2))
        quantiles = tuple(float(q) for q in np.quantile(scores, (0.05, 0.25, 0.5, 0.75, 0.95)))
        buckets.append(AnswerBucket(start, given, fallbacks, quantiles, (none, one, given - one - none)))
    total = sum(b.fallbacks for b in buckets)
    return AnswerHistory(
        "P(1)", (0.05, 0.25, 0.5, 0.75, 0.95), tuple(buckets), {"circuit_open": 61, "deadline": total - 61}
    )


def coverage(rng: np.random.Generator, since: datetime, days: int) -> Coverage:
    weeks = days // 7

    def buckets(rows: int, true: tuple[float, ...], spread: float) -> tuple[CoverageBucket, ...]:
        found = []
        for n in range(weeks):
            start = since + timedelta(weeks=n)
            if n >= weeks - 4:
                found.append(CoverageBucket(start, 0, None, None, None))
                continue
            found.append(
                CoverageBucket(
                    start, rows, float(rng.binomial(rows, true[n]) / rows), 0.9 - spread, min(1.0, 0.9 + spread)
                )
            )
        return tuple(found)

    kept = (0.9,) * weeks
    lost = tuple(0.9 - 0.1 * max(0, n - weeks + 10) / 5 for n in range(weeks))
    zero, one = buckets(1_700, kept, 0.024), buckets(520, lost, 0.042)
    promise = "On average less than one false alarm in 50,000 outcomes of this class."
    quiet = detector(rng, days, 5e4, None, promise)
    alarm = detector(rng, days, 5e4, NOW - timedelta(days=2, hours=5), promise)
    return Coverage(
        level=0.9,
        tail=0.005,
        bucket_s=WEEK_S,
        classes=(
            ClassCoverage("0", 0.9, 1_700 * (weeks - 4), mean(zero), zero, quiet),
            ClassCoverage("1", 0.9, 520 * (weeks - 4), mean(one), one, alarm),
        ),
    )


def mean(buckets: tuple[CoverageBucket, ...]) -> float:
    return float(np.mean([b.observed for b in buckets if b.observed is not None]))


def performance(rng: np.random.Generator, since: datetime, days: int) -> PerformanceHistory:
    weeks, found = days // 7, []
    for n in range(weeks):
        start = since + timedelta(weeks=n)
        if n >= weeks - 4:
            found.append(PerformanceBucket(start, 0, 0))
            continue
        area = 0.772 - 0.006 * max(0, n - weeks + 10) + float(rng.normal(0, 0.008))
        found.append(
            PerformanceBucket(start, 2_220, 520, area, area - 0.024, area + 0.024, 0.152 + float(rng.normal(0, 0.004)))
        )
    return PerformanceHistory(WEEK_S, 0.95, tuple(found), trained_auc=0.774, trained_brier=0.151)


def expected(since: datetime, days: int) -> ExpectedHistory:
    """Follows the realised numbers, and goes on where outcomes end; draws on randomness of its own."""
    rng, weeks = np.random.default_rng(20261124), days // 7

    def series(measure: str, label: str, middle: float, half: float) -> ExpectedSeries:
        found = []
        for n in range(weeks):
            value = middle + float(rng.normal(0, half / 4))
            realised = None if n >= weeks - 4 else value + float(rng.normal(0, half / 2))
            found.append(ExpectedBucket(since + timedelta(weeks=n), value, value - half, value + half, realised))
        return ExpectedSeries(measure, label, tuple(found))

    return ExpectedHistory(
        WEEK_S,
        0.95,
        (
            series("auc", "", 0.772, 0.024),
            series("brier", "", 0.152, 0.009),
            series("coverage", "0", 0.902, 0.013),
            series("coverage", "1", 0.894, 0.027),
        ),
    )


def shadow(rng: np.random.Generator) -> ShadowPair:
    values = np.clip(rng.normal(0.012, 0.04, 1_150), -0.2, 0.2)
    edges = np.linspace(-0.2, 0.2, 41)
    counts = tuple(int(n) for n in np.histogram(values, edges)[0])
    return ShadowPair(
        champion="readmission_risk:v3-93610e73",
        challenger="readmission_risk:v4-c41d88f0",
        scored=1_150,
        agreed=1_098,
        same_set=1_021,
        dropped=12,
        mean_difference=0.031,
        max_difference=0.187,
        edges=tuple(float(e) for e in edges),
        counts=counts,
    )


def circuits() -> Circuits:
    now = (
        CircuitNow("api 1", "champion", "closed", calls_in_window=100, error_rate=0.0, p95_ms=0.3),
        CircuitNow(
            "api 2",
            "champion",
            "closed",
            reason="consecutive_failures",
            calls_in_window=100,
            error_rate=0.0,
            p95_ms=0.3,
            opened=1,
        ),
        CircuitNow("api 1", "challenger", "closed", calls_in_window=3),
        CircuitNow(
            "api 2",
            "challenger",
            "half_open",
            reason="latency_p95",
            calls_in_window=20,
            error_rate=0.05,
            p95_ms=612.0,
            opened=2,
        ),
    )
    changes = (
        CircuitTransition("api 2", "challenger", "open", "half_open", "wait is over", NOW - timedelta(minutes=2)),
        CircuitTransition("api 2", "challenger", "closed", "open", "latency_p95", NOW - timedelta(minutes=3)),
        CircuitTransition("api 2", "champion", "closed", "open", "consecutive_failures", None, times=1),
    )
    return Circuits(now, changes)


def journal() -> tuple[JournalEntry, ...]:
    v3, v4 = "readmission_risk:v3-93610e73", "readmission_risk:v4-c41d88f0"
    return (
        JournalEntry(
            datetime(2026, 11, 22, 9, 1, tzinfo=UTC),
            "rollout_shadow",
            "mkeller",
            v4,
            "see how the retrained model behaves before it answers anybody",
        ),
        JournalEntry(
            datetime(2026, 11, 19, 14, 37, tzinfo=UTC),
            "rollout_rollback",
            "monitor",
            v4,
            "guard fallback_share: 0.083 over 0.05 in 412 observations",
        ),
        JournalEntry(
            datetime(2026, 11, 19, 14, 2, tzinfo=UTC),
            "rollout_canary",
            "mkeller",
            f"{v4}, 10 % of the traffic",
            "passed its gate",
        ),
        JournalEntry(datetime(2026, 11, 16, 6, 20, tzinfo=UTC), "gate_passed", "retrain", v4),
        JournalEntry(
            datetime(2026, 7, 20, 7, 45, tzinfo=UTC),
            "promoted",
            "mkeller",
            v3,
            "better by 0.024 (lower bound 0.009) than version 2",
        ),
    )


def store(days: int) -> LogStore:
    files = [
        StoredFile(
            f"predictions-{(NOW - timedelta(days=n)):%Y-%m-%d}-1.db",
            "live" if n == 0 else "closed" if n < 7 else "sealed",
            336,
            182_000,
            None if n == 0 else True,
        )
        for n in range(days)
    ]
    return LogStore(336 * days, 0, "standard", NOW - timedelta(hours=8), (), tuple(files))
