"""Moving the alias: only when every rule passes, once, and with a record."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ml_core.base.documents import read_document
from ml_core.base.errors import RegistryError
from ml_core.base.journal import Journal
from ml_core.lab.config import SplitConfig
from ml_core.lab.judging.promoter import ModelPromoter, promote_version
from ml_core.lab.judging.promotion_rules import shared_rows
from ml_core.lab.registry.model_registry import CHAMPION
from ml_core.lab.training.labelled_rows import LabelledRows, label_rows, rows_from_store, split_of
from ml_core.serve.model.bundle import Bundle
from ml_core.serve.model.promotion_record import PromotionRecord, promotion_name
from tests.homes import (
    MODEL,
    Home,
    registered_home,
    road_config,
    road_model,
    road_rows,
    trained,
    weak_config,
    weak_model,
)
from tests.toy_models import passed_gate


@pytest.fixture
def home(tmp_path) -> Home:
    return registered_home(tmp_path / "home")


@pytest.fixture(scope="module")
def weak_champion(tmp_path_factory) -> Home:
    """The weak model is champion (version 2), the honest one challenger (version 1); copied by those who change it."""
    home = registered_home(tmp_path_factory.mktemp("weak") / "home")
    weak = home.register(weak_config(), weak_model())
    assert promote_version(home.registry, weak, weak_config(), home.settings).decision == "promoted"
    return home


@pytest.fixture
def contest(weak_champion, tmp_path) -> Home:
    import shutil

    from tests.homes import settings_in

    shutil.copytree(weak_champion.settings.home, tmp_path / "home")
    return Home(settings_in(tmp_path / "home"), road_config())


def record(home: Home) -> PromotionRecord | None:
    return read_document((home.settings.home / promotion_name(MODEL)), PromotionRecord)


def champion(home: Home) -> str | None:
    found = home.registry.find_alias(MODEL, CHAMPION)
    return found.version if found else None


def events(home: Home) -> list[str]:
    return [e["event"] for e in Journal(home.settings.journal).entries()]


def promote(home: Home, version: str, config=None, **options):
    config = config or home.config
    return promote_version(home.registry, home.registry.by_version(MODEL, version), config, home.settings, **options)


def test_without_a_champion_the_gate_decides(home):
    found = promote(home, "1")
    assert (found.decision, [r.rule for r in found.rules]) == ("promoted", ["gate"])
    kept = record(home)
    assert (kept.model_version, kept.model_hash, kept.bento_tag) == ("1", road_model().model_hash, found.bento_tag)
    assert kept.gate.passed
    assert champion(home) == "1"
    assert home.registry.by_version(MODEL, "1").tags["stage"] == "Production"
    assert events(home) == ["trust.began", "gate.judged", "promotion.decided", "promotion.recorded"]


def test_without_a_champion_a_refusing_gate_refuses(home):
    strict = road_config(gate={"min_roc_auc": 0.99})
    found = promote(home, "1", strict)
    assert (found.decision, champion(home), record(home)) == ("refused", None, None)
    assert "roc_auc" in found.rules[0].note


def test_a_better_challenger_takes_the_place(contest):
    found = promote(contest, "1")
    assert found.decision == "promoted"
    assert {r.rule for r in found.rules} >= {
        "gate", "test_rows_shared", "rows_class_1", "roc_auc_gain", "roc_auc_gain_lower_bound", "brier_worse_by",
        "log_loss_worse_by", "mean_set_size_worse_by", "coverage", "coverage_class_0", "coverage_class_1",
    }  # fmt: skip
    assert (champion(contest), found.champion_version, record(contest).replaced_version) == ("1", "2", "2")
    registry = contest.registry
    assert "stage" not in registry.by_version(MODEL, "2").tags
    assert registry.by_version(MODEL, "1").tags["stage"] == "Production"


def test_a_worse_challenger_is_refused_and_nothing_moves(contest):
    promote(contest, "1")
    before = record(contest)
    found = promote(contest, "2", weak_config())
    refused = [r.rule for r in found.rules if not r.passed]
    assert found.decision == "refused"
    assert {"roc_auc_gain", "roc_auc_gain_lower_bound"} <= set(refused)
    assert (champion(contest), record(contest)) == ("1", before)
    last = Journal(contest.settings.journal).entries()[-1]
    assert (last["event"], last["decision"]) == ("promotion.decided", "refused")
    assert any(r["rule"] == "roc_auc_gain" and r["value"] < 0 for r in last["rules"])


def test_an_equal_challenger_is_refused(home):
    promote(home, "1")
    twin = home.register(road_config(seed=8), trained(road_config(seed=8)))
    found = promote(home, twin.version, road_config(seed=8))
    assert found.decision == "refused"
    assert "roc_auc_gain" in [r.rule for r in found.rules if not r.passed]


def test_promoting_the_champion_again_changes_nothing(home):
    promote(home, "1")
    before, journal = record(home), events(home)
    assert promote(home, "1").decision == "already champion"
    assert record(home) == before
    assert events(home) == [*journal, "gate.judged"]


def test_a_dry_run_decides_and_changes_nothing(contest):
    journal, before = events(contest), record(contest)
    assert promote(contest, "1", dry_run=True).decision == "promoted"
    assert (champion(contest), record(contest), events(contest)) == ("2", before, journal)


def test_too_few_rows_of_a_class_refuse(contest):
    found = promote(contest, "1", road_config(gate={"min_positives": 1_000}))
    assert "rows_class_1" in found.rules[0].note
    assert "rows_class_1" in [r.rule for r in found.rules if not r.passed]


def test_another_split_shares_no_test_patients(contest):
    elsewhere = road_config(split={"salt": "another"})
    model = trained(elsewhere, rows_from_store(elsewhere, contest.settings))
    version = contest.register(elsewhere, model)
    found = promote(contest, version.version, elsewhere)
    assert [r.rule for r in found.rules if not r.passed] == ["test_rows_shared"]


def test_an_alias_that_moved_meanwhile_stops_the_promotion(contest, monkeypatch):
    registry = contest.registry
    version = registry.by_version(MODEL, "1")
    real = registry.set_alias
    decide = ModelPromoter.decide

    def decide_while_somebody_moves(self, *args):
        rules = decide(self, *args)
        third = contest.register(road_config(seed=9), trained(road_config(seed=9)))
        real(third, CHAMPION)
        return rules

    monkeypatch.setattr(ModelPromoter, "decide", decide_while_somebody_moves)
    with pytest.raises(RegistryError, match="moved by somebody else"):
        promote_version(registry, version, contest.config, contest.settings)
    assert champion(contest) == "3"
    assert record(contest).model_version == "2"


@pytest.mark.parametrize("step", ["_write_record", "set_tags"])
def test_a_promotion_that_died_half_way_is_completed_by_the_next(contest, monkeypatch, step):
    owner = ModelPromoter if step == "_write_record" else type(contest.registry)

    def die(*_args):
        raise KeyboardInterrupt

    rows, version = road_rows(), contest.registry.by_version(MODEL, "1")
    promoter = ModelPromoter(contest.registry, contest.settings, contest.config)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, die)
        with pytest.raises(KeyboardInterrupt):
            promoter.promote(version, passed_gate(version.model_hash), rows)
    assert (champion(contest), record(contest).model_version) == ("1", "2")
    assert promote(contest, "1").decision == "already champion"
    assert record(contest).model_version == "1"
    stages = {v.version: v.tags.get("stage") for v in contest.registry.versions(MODEL)}
    assert stages == {"1": "Production", "2": None}


def test_a_version_whose_artefact_cannot_be_trusted_is_refused_by_its_gate(contest):
    version = contest.registry.by_version(MODEL, "1")
    contest.registry.set_tags(version, {"model_hash": "0" * 64})
    found = promote(contest, "1")
    assert (found.decision, [r.rule for r in found.rules]) == ("refused", ["gate"])
    assert "artefact" in found.rules[0].note


# --- splits in time --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_time() -> tuple[LabelledRows, Bundle]:
    """Rows split in time, and the usual model made of them."""
    config = road_config(split={"by": "time"})
    rows = label_rows(road_rows().frame, "v1", config.split, "here")
    return rows, trained(config, rows).bundle


def in_time_until(bundle: Bundle, rows: LabelledRows, time: int, position: int) -> Bundle:
    """The same model, as if it had been trained on these rows up to that one."""
    training = bundle.manifest.training
    params = training.params | {"split_by": "time", "split_seen_until": time, "split_seen_position": position}
    training = training.model_copy(update={"params": params, "table": rows.table})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"training": training}))


def test_a_challenger_split_in_time_meets_a_champion_on_rows_that_neither_saw(in_time):
    rows, challenger = in_time
    shared, columns, rule = shared_rows(challenger, weak_model().bundle, rows.part("test"))
    assert rule.passed
    assert columns is not None
    assert set(shared.parts) == {"test"}
    assert set(split_of(shared.groups, SplitConfig())) == {"test"}
    assert 0 < len(shared) < len(rows.part("test"))


def test_of_two_splits_in_time_the_rows_newer_than_both_trainings_count(in_time):
    rows, challenger = in_time
    test = rows.part("test")
    middle = int(np.median(test.times))
    last = int(test.positions[test.times == middle].max())
    shared, _, rule = shared_rows(challenger, in_time_until(weak_model().bundle, rows, middle, last), test)
    assert rule.passed
    assert shared.positions.tolist() == test.positions[test.times > middle].tolist()


def test_a_challenger_split_by_patient_meets_a_champion_split_in_time_on_its_newer_test_patients(in_time):
    rows, champion_ = in_time
    test = road_rows().part("test")
    shared, _, rule = shared_rows(road_model().bundle, champion_, test)
    assert rule.passed
    newest = rows.part("test").frame["encounter_date"].min()
    assert shared.positions.tolist() == test.positions[(test.frame["encounter_date"] >= newest).to_numpy()].tolist()


def test_a_champion_that_saw_all_of_them_leaves_nothing_to_compare_on(in_time):
    rows, challenger = in_time
    end = int(rows.times.max())
    saw_all = in_time_until(weak_model().bundle, rows, end, int(rows.positions.max()))
    shared, _, rule = shared_rows(challenger, saw_all, rows.part("test"))
    assert (rule.passed, len(shared)) == (False, 0)


def test_a_model_split_in_time_is_gated_on_the_newest_rows_and_promoted(home):
    config = road_config(split={"by": "time"})
    version = home.register(config, trained(config, rows_from_store(config, home.settings)))
    found = promote(home, version.version, config)
    assert found.decision == "promoted", found.rules
    assert found.compared_on == "table v1 version 0, the newest rows"
