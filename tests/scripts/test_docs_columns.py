"""docs/columns.md says what the column tables say."""

from ml_core.features.versions import get_feature_version, known_versions
from scripts.docs_columns import DOC, render


def test_the_page_is_current():
    assert DOC.read_text(encoding="utf-8") == render(), "run `.venv/bin/python -m scripts.docs_columns`"


def test_every_raw_and_every_matrix_column_is_on_the_page():
    page = render()
    for name in known_versions():
        version = get_feature_version(name)
        section = page.split(f"## {name}\n", 1)[1]
        for column in (*(c.name for c in version.columns), *version.feature_names):
            assert f"| `{column}` |" in section
