"""What an artefact says of how it was made."""

from __future__ import annotations

from tests.homes import road_config, road_model, trained


def test_the_label_horizon_of_the_configuration_is_in_the_manifest() -> None:
    config = road_config(labels={"horizon_days": 7.0})
    assert trained(config).bundle.manifest.label_horizon_days == 7.0
    assert road_model().bundle.manifest.label_horizon_days is None
