"""Baseline: BentoML as it comes, giving back the JSON object it is sent."""

from __future__ import annotations

from typing import Any

import bentoml


@bentoml.service
class Echo:
    @bentoml.api
    async def predict(self, features: dict[str, Any]) -> dict[str, Any]:
        return features
