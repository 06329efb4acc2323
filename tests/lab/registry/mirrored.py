"""Registers the usual model with a mirror in W&B, in the environment that has its library; prints what was registered."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ml_core.lab.registry.model_registry import ModelRegistry
from ml_core.lab.registry.tracking import register
from tests.homes import road_config, road_model, road_rows, settings_in, table_home

home = Path(sys.argv[1])
table_home(home)
config = road_config(tracking={"mirror": "wandb", "project": "wards"})
found = [register(ModelRegistry(settings_in(home)), road_model(), config, road_rows(), {}) for _ in range(2)]
sys.stdout.write(json.dumps([{"run": v.run_id, "tags": dict(v.tags), "is_new": is_new} for v, is_new in found]))
