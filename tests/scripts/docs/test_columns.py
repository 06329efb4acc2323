"""Every column of every feature version is on the page of columns."""

from __future__ import annotations

from ml_core.serve.features.versions import get_feature_version, known_versions
from scripts.docs.columns import render


def test_every_raw_and_every_matrix_column_is_on_the_page() -> None:
    page = render()
    for name in known_versions():
        version = get_feature_version(name)
        section = page.split(f"## {name}\n", 1)[1]
        for column in (*(c.name for c in version.columns), *version.feature_names):
            assert f"| `{column}` |" in section
