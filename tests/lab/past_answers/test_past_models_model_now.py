"""What has become of a model: each store says what it knows, and one that is away hides nothing of the others."""

from __future__ import annotations

import pytest

from ml_core.lab.past_answers.past_models import model_now
from ml_core.serve.model.promotion_record import RuleVerdict
from ml_core.serve.model.vouching import keep_gate
from ml_core.serve.rollout import changes
from tests.folder_files import rollout_file
from tests.homes import MODEL, bento_store, registered_home, road_model
from tests.serve.answering.stored import Home, Worker
from tests.toy_models import NAME, passed_gate


@pytest.fixture
def home(tmp_path):
    """v1 was promoted and is live; v2 is beside it."""
    with bento_store(tmp_path / "bento"):
        made = Home(tmp_path / "home")
        made.promote(made.v1)
        Worker(made)
        yield made


def now(home: Home, tag: str, **changes):
    model_hash = changes.pop("model_hash", None) or home.hash_of(tag)
    lineage = {"model_name": NAME, "model_version": "1", "model_hash": model_hash, "bento_tag": tag, **changes}
    return model_now(home.settings, lineage)


def test_the_slot_is_the_one_it_has_now(home):
    assert now(home, home.v1)["rollout"]["slot"] == "champion"
    assert now(home, home.v2)["rollout"]["slot"] is None
    home.change(changes.shadow(home.v2))
    assert now(home, home.v2)["rollout"]["slot"] == "challenger"
    home.change(changes.full(home.v2, ""))
    found = now(home, home.v1)["rollout"]
    assert (found["slot"], found["champion"]) == ("previous", home.v2)


def test_nothing_is_live(tmp_path):
    with bento_store(tmp_path / "bento"):
        assert now(home := Home(tmp_path / "home"), home.v1)["rollout"]["slot"] is None


def test_the_promotion_is_told_for_the_promoted_model_alone(home):
    found = now(home, home.v1)["promotion"]
    assert (found["is_promoted"], found["model_version"], found["promoted_at"]) == (True, "1", "2026-01-01T00:00:00Z")
    assert now(home, home.v2)["promotion"] == {"is_promoted": False}


def test_the_gate_is_told_rule_by_rule(home):
    rule = RuleVerdict(rule="roc_auc", value=0.71, limit=0.75, passed=False, note="too low")
    report = passed_gate(home.hash_of(home.v3), passed=False).model_copy(update={"rules": (rule,)})
    keep_gate(home.settings, report, "3")
    found = now(home, home.v3)["gate"]
    assert (found["verdict"], found["judged_at"], found["rules"]) == (
        "refused",
        "2026-01-01T00:00:00Z",
        [rule.model_dump()],
    )


def test_a_gate_report_is_found_beside_the_artefact_and_in_the_promotion_record(home):
    assert now(home, home.v2)["gate"]["verdict"] == "passed"
    (home.folder(home.v1) / "gate.json").unlink()
    assert now(home, home.v1)["gate"]["verdict"] == "passed"
    assert now(home, home.v3)["gate"] == {"verdict": "none"}


def test_a_model_that_is_not_stored_any_more_or_not_the_same(home):
    assert now(home, home.v2)["stored"] == {"tag": home.v2, "is_there": True, "problem": None}
    found = now(home, home.v2, model_hash="0" * 64)["stored"]
    assert (found["is_there"], "another model" in found["problem"]) == (False, True)
    model_hash = home.hash_of(home.v2)
    home.folder(home.v2).rename(home.settings.home / "elsewhere")
    found = now(home, home.v2, model_hash=model_hash)["stored"]
    assert (found["is_there"], "not in the Bento store" in found["problem"]) == (False, True)


def test_the_journal_is_searched_for_hash_and_tag(home):
    home.change(changes.shadow(home.v2))
    assert [entry["generation"] for entry in now(home, home.v2)["journal"]] == [2]
    assert [entry["generation"] for entry in now(home, home.v1)["journal"]] == [1, 2]
    assert now(home, home.v3)["journal"] == []


def test_mlflow_names_the_versions_of_that_hash(tmp_path):
    with bento_store(tmp_path / "bento"):
        home = registered_home(tmp_path / "home")
        lineage = {"model_name": MODEL, "model_version": "1", "model_hash": road_model().model_hash,
                   "bento_tag": f"{MODEL}:v1-{road_model().model_hash[:8]}"}  # fmt: skip
        version = home.challenger()
        found = model_now(home.settings, lineage)["mlflow"]
        assert found == {"versions": [{"version": "1", "run_id": version.run_id, "aliases": ["challenger"]}]}
        assert model_now(home.settings, {**lineage, "model_hash": "0" * 64})["mlflow"] == {"versions": []}


def test_a_store_that_is_away_or_damaged_hides_nothing_of_the_others(home):
    (home.settings.promotions / f"{NAME}.json").write_text("{")
    rollout_file(home.settings).write_text("{")
    found = now(home, home.v2)
    assert "there is no such file" in found["mlflow"]["problem"]
    assert "is no RolloutState" in found["rollout"]["problem"]
    assert "is no PromotionRecord" in found["promotion"]["problem"]
    assert found["gate"]["verdict"] == "passed"
