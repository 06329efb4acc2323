"""What hatchling runs for a wheel: service.py and what describes a bento go into `ml_core`, all that it installs."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_IN_PACKAGE = {
    "service.py": "ml_core/service.py",
    "bentofile.yaml": "ml_core/bento/bentofile.yaml",
    "requirements/serve.lock": "ml_core/bento/serve.lock",
}
"""What ``surety build`` needs where there is no checkout."""


class ServiceInPackage(BuildHookInterface[Any]):
    """Packs what lies beside ``ml_core`` and is needed without a checkout; an editable install reads the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file to a wheel that is no editable one."""
        if version == "standard":
            build_data["force_include"] |= _IN_PACKAGE
