"""What people read speaks of rows and subjects: a table may hold storms or stones. Only the two examples have patients."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.test_import_rule import ROOT

EXAMPLES = {
    "ml_core/cli/cmd_data.py",  # makes the cohort
    "ml_core/lab/data/cohort.py",
    "ml_core/lab/data/diabetes130.py",
    "ml_core/lab/registry/card_attributes.py",  # words of a health regulation
    "ml_core/lab/registry/card_chai.py",  # names of a health model card's elements
    "ml_core/serve/features/matrix_sources.py",  # columns of the second example
    "ml_core/serve/features/v1.py",
    "ml_core/serve/features/v2.py",
}
NAMES = re.compile(
    r"patient_id|patient-4711|--patient|^patient$|PatientGroups|\{% for part, patients|\{\{ ?patients|\.patients|"
    r"patients, storms|\(patient\|subject|What an artefact tells of patients"
)
"""Names in code, in examples of commands, and the pattern of columns that say whose a row is."""


def spoken(tree: ast.Module) -> Iterator[str]:
    """Texts of a module that a user may see: all but docstrings; those of commands are their help."""
    silent = set()
    for node in ast.walk(tree):
        for at, inner in enumerate(
            getattr(node, "body", None) or () if not isinstance(node, ast.Lambda | ast.IfExp) else ()
        ):
            if isinstance(inner, ast.Expr) and isinstance(inner.value, ast.Constant):
                is_command = isinstance(node, ast.FunctionDef) and any(
                    part in ast.unparse(rule) for rule in node.decorator_list for part in ("command", "group")
                )
                if not (is_command and at == 0):
                    silent.add(id(inner.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.value


def test_no_message_help_or_page_speaks_of_patients() -> None:
    found = []
    for path in sorted((ROOT / "ml_core").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        texts = () if name in EXAMPLES else spoken(ast.parse(path.read_text()))
        found += [f"{name}: {text[:80]}" for text in texts if "patient" in NAMES.sub("", text).lower()]
    for path in sorted((ROOT / "ml_core").rglob("*.jinja")):
        lines = enumerate(path.read_text().splitlines(), start=1)
        found += [f"{path.name}:{at}" for at, line in lines if "patient" in NAMES.sub("", line).lower()]
    assert not found
