"""Gate, card and promotion go through the protocol: another registry than MLflow serves as well."""

from __future__ import annotations

from ml_core.lab.judging.deployment_gate import validate_deployment
from ml_core.lab.judging.promoter import promote_version
from ml_core.lab.registry.model_card import CARD_FILE
from ml_core.lab.registry.model_registry import CHALLENGER, CHAMPION
from tests.homes import MODEL, road_model, table_home, weak_config, weak_model
from tests.lab.registry.memory_registry import MemoryRegistry


def test_a_better_challenger_takes_the_place_of_the_champion_and_a_worse_one_does_not(tmp_path):
    home, registry = table_home(tmp_path / "home"), MemoryRegistry()
    first, second = (registry.add(MODEL, m.folder, m.model_hash) for m in (weak_model(), road_model()))
    registry.set_alias(first, CHALLENGER)
    report = validate_deployment(registry, first, weak_config(), home.settings)
    assert report.passed
    assert registry.by_version(MODEL, "1").tags["gate"] == "passed"
    assert registry.run_files(first, "gate")
    assert b"Model card" in (registry.run_file(first, CARD_FILE) or b"")
    assert promote_version(registry, first, weak_config(), home.settings).decision == "promoted"
    found = promote_version(registry, second, home.config, home.settings)
    assert (found.decision, found.champion_version) == ("promoted", "1")
    champion = registry.find_alias(MODEL, CHAMPION)
    assert champion is not None
    assert (champion.version, champion.tags["stage"]) == ("2", "Production")
    back = promote_version(registry, registry.by_version(MODEL, "1"), weak_config(), home.settings)
    assert back.decision == "refused"
    assert registry.find_alias(MODEL, CHAMPION) == champion
