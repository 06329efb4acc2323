"""The card says what was recorded, no more and no less, and lies in MLflow beside the artefact it is about."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ml_core.serve.features
from ml_core.base.errors import ArtefactError
from ml_core.lab.config import CardConfig, DataConfig, ModelConfig, SplitConfig
from ml_core.lab.data.cohort import make_cohort
from ml_core.lab.journeys.adopt import adopt
from ml_core.lab.judging.deployment_gate import validate_deployment
from ml_core.lab.registry.model_card import (
    CARD_FILE,
    GATE_FOLDER,
    RECORD_FILE,
    ModelCard,
    card_record,
    card_text,
    read_card,
)
from ml_core.lab.registry.model_registry import ModelRegistry, RegisteredVersion
from ml_core.lab.registry.tracking import register
from ml_core.lab.training.labelled_rows import LabelledRows, label_rows
from ml_core.serve.model.bundle import verify_folder
from ml_core.serve.model.promotion_record import GateReport
from tests.homes import (
    MODEL,
    Home,
    bento_store,
    road_config,
    road_model,
    road_rows,
    settings_in,
    table_home,
    trained,
)
from tests.own_versions import forget

DASH = "\N{EN DASH}"
WORDS = CardConfig(
    owners=("Ward 3", "ward3@example.org"),
    intended_use="Whom to call | after discharge.",
    out_of_scope="Children.",
    data="An invented cohort.",
    ethical_considerations="Nobody is harmed.",
    caveats="None.",
)


def tables(card: str) -> dict[str, list[str]]:
    """First cell to the other cells of every row of every table; where first cells repeat, of the last one."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in card.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


def kept(home: Home, version: RegisteredVersion, path: str = CARD_FILE) -> str:
    """The file as MLflow's own client gives it."""
    with home.registry.session("client") as mlflow:
        return Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path=path)).read_text()


def read(home: Home, version: RegisteredVersion) -> str:
    with home.registry.bundle_folder(version) as folder:
        return card_text(read_card(home.registry, version, folder))


@pytest.fixture(scope="module")
def empty_registry(tmp_path_factory) -> Path:
    """MLflow's database before anything was registered; making one takes longer than all else here."""
    settings = settings_in(tmp_path_factory.mktemp("empty"))
    assert ModelRegistry(settings).names() == []
    return settings.home / "mlflow.db"


def registered_alone(folder: Path, empty_registry: Path) -> Home:
    """A registered home that shares no file with another's: MLflow remembers where a run of that id keeps its files."""
    home = table_home(folder)
    shutil.copy(empty_registry, home.settings.home / "mlflow.db")
    home.register(home.config, road_model())
    return home


@pytest.fixture
def home(tmp_path, empty_registry) -> Home:
    return registered_alone(tmp_path / "home", empty_registry)


@pytest.fixture(scope="module")
def registered(tmp_path_factory, empty_registry) -> Home:
    """The same for tests that only read."""
    return registered_alone(tmp_path_factory.mktemp("read") / "home", empty_registry)


def test_its_numbers_are_those_of_the_manifest(registered):
    card = kept(registered, registered.challenger())
    manifest = road_model().bundle.manifest
    measured = tables(section(card, "Measured on test rows"))
    named = {
        "roc_auc": "area under the ROC curve",
        "brier": "Brier score",
        "brier_skill": "Brier skill (gain over the base rate)",
        "log_loss": "log loss, nats",
        "coverage": "coverage, all",
        "coverage_class_0": "coverage, 0",
        "coverage_class_1": "coverage, 1",
        "mean_set_size": "mean set size, all",
        "mean_set_size_class_1": "mean set size, 1",
        "singleton_share": "share of sets with one label",
        "empty_share": "share of empty sets",
    }
    for metric, words in named.items():
        assert float(measured[words][0]) == pytest.approx(manifest.metrics[metric], abs=5.1e-5), metric
    assert measured["coverage, 1"][2] == f"{manifest.metrics['n_class_1']:,.0f}"
    facts = tables(section(card, "Model"))
    assert facts["hash of the artefact"] == [f"`{road_model().model_hash}`"]
    assert facts["trained on"] == ["table v1 version 0"]
    assert f"xgboost {manifest.libraries['xgboost']}" in facts["libraries"][0]
    assert "max_depth=3" in facts["parameters"][0]
    assert manifest.feature_module_sha256 in facts["features"][0]


def test_every_range_holds_its_value_or_is_a_band(registered):
    measured = tables(section(kept(registered, registered.challenger()), "Measured on test rows"))
    ranges = {words: cells[:2] for words, cells in measured.items() if " to " in cells[1]}
    assert {"area under the ROC curve", "Brier score", "coverage, 1", "mean set size, 0"} <= set(ranges)
    for words, (value, found) in ranges.items():
        low, high = map(float, re.findall(r"[0-9.]+", found)[:2])
        assert low <= float(value) <= high, words  # the model is honest, so its coverage lies in its band too
        assert found.endswith("(band)") == words.startswith("coverage")


def test_patients_and_rows_of_every_part_are_those_of_the_table(registered):
    parts = tables(section(kept(registered, registered.challenger()), "Data"))
    rows = road_rows()
    for part in ("train", "validation", "calibration", "test"):
        chosen = rows.part(part)
        patients, n, classes = parts[part]
        assert int(patients.replace(",", "")) == len(set(chosen.groups.tolist()))
        assert int(n.replace(",", "")) == len(chosen)
        assert classes == f"0: {int((chosen.y_index == 0).sum()):,}; 1: {int((chosen.y_index == 1).sum()):,}"
    calibrated = tables(section(kept(registered, registered.challenger()), "How to read an answer"))
    assert [int(calibrated[k][0].replace(",", "")) for k in "01"] == list(road_model().bundle.calibration.sizes)
    assert calibrated["1"][1] == "9"  # ceil(1 / 0.1) - 1


def test_no_patient_is_on_it(registered):
    told = kept(registered, registered.challenger()) + kept(registered, registered.challenger(), RECORD_FILE)
    assert not any(str(patient) in told for patient in set(road_rows().groups.tolist()))


def test_the_version_says_where_its_card_is(registered):
    version = registered.challenger()
    with registered.registry.session("client") as mlflow:
        described = mlflow.MlflowClient().get_model_version(version.name, version.version)
    assert f"model_card.md among the artefacts of run {version.run_id}" in described.description
    assert described.tags["model_card"] == f"runs:/{version.run_id}/model_card.md"


def test_it_says_what_explanations_are_not(registered):
    home, version = registered, registered.challenger()
    told = " ".join(section(read(home, version), "How to read an answer").split())
    assert "what each raw column raised or lowered the log-odds by" in told
    assert "no statement of causes, no advice on what to change" in told
    with home.registry.bundle_folder(version) as folder:
        card = read_card(home.registry, version, folder)
    other = " ".join(card_text(replace(card, bundle=replace(card.bundle, trees=b""))).split())
    assert "Answers of this model cannot be explained column by column" in other
    assert "explained" not in section(card_text(replace(card, bundle=None)), "How to read an answer")


def test_a_description_that_a_person_wrote_stays(home):
    version = home.challenger()
    with home.registry.session("client") as mlflow:
        mlflow.MlflowClient().update_model_version(version.name, version.version, description="Ask Mary.")
        validate_deployment(home.registry, version, home.config, home.settings)
        described = mlflow.MlflowClient().get_model_version(version.name, version.version)
    assert described.description == "Ask Mary."
    assert "**Passed**" in kept(home, version)


def test_the_gate_completes_the_card_and_leaves_the_artefact_as_it_is(home):
    version = home.challenger()
    assert "No verdict is recorded yet" in kept(home, version)
    report = validate_deployment(home.registry, version, home.config, home.settings)
    card = kept(home, version)
    gate = section(card, "Gate")
    assert f"**Passed** at {report.judged_at}, on table v1 version 0, test subjects." in gate
    rules = tables(gate)
    for rule in report.rules:
        value, _, verdict = rules[rule.rule]
        assert verdict == "pass"
        assert (value == DASH) if rule.value is None else float(value) == pytest.approx(rule.value, rel=1e-5)
    with home.registry.bundle_folder(version) as folder:
        assert verify_folder(folder, road_model().model_hash)[1] == road_model().model_hash


def test_a_refusal_is_on_the_card_with_its_rules(home):
    strict = home.config.model_copy(update={"gate": home.config.gate.model_copy(update={"min_roc_auc": 0.99})})
    validate_deployment(home.registry, home.challenger(), strict, home.settings)
    gate = section(kept(home, home.challenger()), "Gate")
    assert "**Refused**" in gate
    assert "Refused by: roc_auc." in gate
    assert tables(gate)["roc_auc"][1:] == ["0.99", "FAIL"]


def test_looking_without_keeping_leaves_the_card_alone(home):
    before = kept(home, home.challenger())
    validate_deployment(home.registry, home.challenger(), home.config, home.settings, keep=False)
    assert kept(home, home.challenger()) == before


def test_an_artefact_that_cannot_be_verified_is_told_with_the_refusal(home):
    version = home.challenger()
    (onnx,) = (home.settings.home / "mlartifacts").rglob("model.onnx")
    onnx.write_bytes(onnx.read_bytes() + b" ")
    validate_deployment(home.registry, version, home.config, home.settings)
    card = kept(home, version)
    assert "could not be verified" in card
    assert "Refused by: artefact." in section(card, "Gate")
    assert section(card, "Measured on test rows").strip() == "not recorded"


def test_the_configurations_words_are_on_it_and_change_no_hash(home):
    config = home.config.model_copy(update={"card": WORDS})
    version, is_new = register(home.registry, road_model(), config, road_rows(), {})
    card = kept(home, version)
    assert (version.version, is_new, version.model_hash) == ("1", False, road_model().model_hash)
    assert section(card, "Intended use").strip() == "Whom to call | after discharge."
    assert section(card, "Out of scope").strip() == "Children."
    assert section(card, "Ethical considerations").strip() == "Nobody is harmed."
    assert section(card, "Data").strip().startswith("An invented cohort.")
    assert tables(section(card, "Model"))["owners"] == ["Ward 3, ward3@example.org"]


def test_the_gate_brings_the_words_of_the_configuration_it_judged_by(home):
    config = home.config.model_copy(update={"card": WORDS})
    validate_deployment(home.registry, home.challenger(), config, home.settings)
    assert section(kept(home, home.challenger()), "Caveats").strip() == "None."


def test_the_same_version_has_the_same_card(home):
    version = home.challenger()
    validate_deployment(home.registry, version, home.config, home.settings)
    card = kept(home, version)
    assert read(home, version) == read(home, version) == card
    register(home.registry, road_model(), home.config, road_rows(), {})
    assert kept(home, version) == card


def test_an_adopted_model_has_a_card_that_says_whose_it_is(home, tmp_path):
    import xgboost

    learned = label_rows(make_cohort(4_000, seed=91)[0], "v1", road_config().split, "elsewhere")
    with home.registry.session("theirs") as mlflow:
        classifier = xgboost.XGBClassifier(n_estimators=60, max_depth=3, learning_rate=0.1, n_jobs=1)
        experiment = home.registry.experiment("theirs")
        with mlflow.start_run(experiment_id=experiment):
            mlflow.xgboost.log_model(
                classifier.fit(learned.matrix, learned.y_index), name="m", registered_model_name="theirs",
                pip_requirements=["xgboost"],
            )  # fmt: skip
    make_cohort(8_000, seed=17)[0].to_parquet(tmp_path / "rows.parquet")
    config = road_config(model="foreign_risk", card=WORDS)
    with bento_store(tmp_path / "bento"):
        found = adopt("models:/theirs/1", tmp_path / "rows.parquet", config, home.settings, lambda _: None)
    assert found.gate.passed
    version = home.registry.by_alias("foreign_risk", "challenger")
    card = kept(home, version)
    facts = tables(section(card, "Model"))
    assert "`xgboost.sklearn.XGBClassifier`, trained elsewhere, adopted from `models:/theirs/1`" in facts["kind"][0]
    assert facts["trained on"][0].startswith("file rows.parquet (calibration and test;")
    assert "**Passed**" in card
    measured = tables(section(card, "Measured on test rows"))
    assert float(measured["coverage, 1"][0]) == pytest.approx(found.metrics["coverage_class_1"], abs=5.1e-5)
    assert section(card, "Out of scope").strip() == "Children."


def test_what_nobody_recorded_is_told_so():
    bundle = road_model().bundle
    card = card_text(ModelCard(MODEL, "1", bundle.model_hash, bundle, None, None))
    assert tables(section(card, "Model"))["owners"] == ["not recorded"]
    assert tables(section(card, "Data"))["test"] == [
        "not recorded",
        f"{len(road_rows().part('test')):,}",
        "not recorded",
    ]
    assert tables(section(card, "Measured on test rows"))["Brier score"][1] == "not recorded"
    assert section(card, "Intended use").strip() == "not recorded"
    nothing = card_text(ModelCard(MODEL, "1", "", None, None, None))
    assert tables(section(nothing, "Model"))["hash of the artefact"] == ["not recorded"]


def test_a_metric_the_manifest_lacks_is_told_so():
    bundle = road_model().bundle
    metrics = {name: value for name, value in bundle.manifest.metrics.items() if name != "brier"}
    lacking = replace(bundle, manifest=bundle.manifest.model_copy(update={"metrics": metrics}))
    card = card_text(ModelCard(MODEL, "1", bundle.model_hash, lacking, None, None))
    assert tables(section(card, "Measured on test rows"))["Brier score"][0] == "not recorded"


def test_of_several_verdicts_the_card_shows_the_newest(home):
    version = home.challenger()
    for day, passed in (("2026-03-02", True), ("2026-03-03", False), ("2026-03-01", True)):
        report = GateReport(
            model_name=MODEL, model_hash=version.model_hash, passed=passed, rules=(), judged_at=f"{day}T00:00:00Z", judged_on="x"
        )  # fmt: skip
        home.registry.log_document(version, f"{GATE_FOLDER}/{day}.json", report.model_dump(mode="json"))
    with home.registry.bundle_folder(version) as folder:
        found = read_card(home.registry, version, folder).gate
    assert found is not None
    assert (found.judged_at, found.passed) == ("2026-03-03T00:00:00Z", False)


def test_a_record_of_another_artefact_is_not_believed(home):
    version = home.challenger()
    record = card_record(road_model(), WORDS, road_rows()).model_copy(update={"model_hash": "0" * 64})
    home.registry.log_document(version, RECORD_FILE, record.model_dump(mode="json"))
    assert section(read(home, version), "Intended use").strip() == "not recorded"


def test_a_record_that_is_none_is_an_error_of_one_line(home):
    version = home.challenger()
    home.registry.log_document(version, RECORD_FILE, {"model_hash": 7})
    with pytest.raises(ArtefactError, match=r"model_card.json: is no CardRecord") as caught:
        read(home, version)
    assert "\n" not in str(caught.value)


def test_a_marginal_promise_claims_nothing_for_a_class():
    config = road_config(conformal={"guarantee": "marginal"})
    bundle = trained(config).bundle
    card = card_text(ModelCard(MODEL, "1", bundle.model_hash, bundle, None, None))
    assert "over all classes together" in card
    assert "A rare class may be covered far less." in card
    assert "survives neither a change in how common the classes are" in card
    calibrated = tables(section(card, "How to read an answer"))
    assert calibrated["all classes"][0] == f"{len(road_rows().part('calibration')):,}"


THREE = '''"""Feature version v91: two numbers, three findings."""

import numpy as np

from ml_core.features.columns import Column

COLUMNS = (
    Column("who", "int", "Who.", role="group", low=0),
    Column("a", "float", "One number."),
    Column("b", "float", "Another | number.", unit="mg"),
    Column("found", "category", "What was found.", role="label", levels=("none", "some", "much")),
)
FEATURE_NAMES = ("a", "b")
FEATURE_DOCS = ("As recorded", "As recorded")


def transform(columns):
    return np.column_stack([columns["a"], columns["b"]]).astype(np.float32)
'''


@pytest.fixture
def three_findings(tmp_path, monkeypatch) -> tuple[ModelConfig, LabelledRows]:
    (tmp_path / "v91.py").write_text(THREE)
    monkeypatch.setattr(ml_core.serve.features, "__path__", [*ml_core.serve.features.__path__, str(tmp_path)])
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, 900)
    rows = {"who": np.arange(900), "a": y + rng.normal(size=900), "b": rng.normal(size=900)}
    frame = pd.DataFrame({**rows, "found": np.array(["none", "some", "much"])[y]})
    config = ModelConfig(model="three", feature_version="v91", data=DataConfig(source=tmp_path / "x.parquet"))
    yield config, label_rows(frame, "v91", SplitConfig(), "a frame")
    sys.modules.pop("ml_core.serve.features.v91", None)
    forget()


def test_more_than_two_findings_have_a_row_each(three_findings):
    config, rows = three_findings
    model = trained(config, rows)
    card = card_text(ModelCard("three", "1", model.model_hash, model.bundle, card_record(model, WORDS, rows), None))
    measured = tables(section(card, "Measured on test rows"))
    areas = [float(measured[f"… of {label} against the rest"][0]) for label in ("none", "some", "much")]
    assert np.mean(areas) == pytest.approx(model.bundle.manifest.metrics["roc_auc"], abs=1e-4)
    assert measured["area under the ROC curve"][1] == DASH
    assert " to " in measured["… of some against the rest"][1]
    assert {"coverage, none", "coverage, some", "coverage, much"} <= set(measured)
    assert tables(section(card, "Data"))["`b`"] == ["feature", "mg", "Another \\| number."]
