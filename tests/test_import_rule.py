"""Which part may import which: read from the syntax tree of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("ml_core", "web", "scripts")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [ROOT / "service.py", *(p for part in PARTS for p in (ROOT / part).rglob("*.py"))]
}

# A package may import itself and what stands in its row.
GROUND = {f"ml_core.{name}" for name in ("errors", "clock", "settings", "config", "documents", "journal", "api_keys")}
MAY_IMPORT = {
    "ml_core.errors": set(),
    "ml_core.clock": set(),
    "ml_core.settings": {"ml_core.errors"},
    "ml_core.config": {"ml_core.errors"},
    "ml_core.documents": {"ml_core.errors"},
    "ml_core.journal": {"ml_core.clock"},
    "ml_core.api_keys": {f"ml_core.{name}" for name in ("errors", "clock", "documents", "journal")},
    "ml_core.features": GROUND,
    "ml_core.conformal": GROUND,
    "ml_core.models": GROUND | {"ml_core.features", "ml_core.conformal"},
    "ml_core.drift": GROUND | {"ml_core.features"},
    "ml_core.training": GROUND | {"ml_core.features", "ml_core.conformal", "ml_core.models"},
    "ml_core.registry": GROUND | {"ml_core.features", "ml_core.conformal", "ml_core.models", "ml_core.training"},
    "ml_core.rollout": GROUND | {"ml_core.models"},
    "ml_core.prediction_log": GROUND | {"ml_core.features", "ml_core.models"},
    "ml_core.monitoring": GROUND
    | {f"ml_core.{p}" for p in ("features", "conformal", "models", "rollout", "prediction_log", "drift")},
    "ml_core.serving": GROUND
    | {f"ml_core.{p}" for p in ("features", "conformal", "models", "rollout", "prediction_log", "monitoring")},
    "ml_core.pipelines": GROUND
    | {f"ml_core.{p}" for p in ("features", "conformal", "models", "training", "registry", "rollout")}
    | {f"ml_core.{p}" for p in ("prediction_log", "drift", "monitoring", "serving")},
    "ml_core.reporting": GROUND
    | {f"ml_core.{p}" for p in ("features", "conformal", "models", "rollout")}
    | {f"ml_core.{p}" for p in ("prediction_log", "drift", "monitoring")},
    "web": GROUND
    | {
        f"ml_core.{p}"
        for p in ("features", "conformal", "models", "rollout", "prediction_log", "monitoring", "serving")
    },
    # Before the row of its parent: the first row that fits a module is its own.
    "scripts.docs": GROUND | {"ml_core.features", "web", "scripts"},
    "scripts": GROUND
    | {f"ml_core.{p}" for p in ("features", "models", "registry", "rollout", "monitoring", "pipelines")}
    | {f"ml_core.{p}" for p in ("prediction_log", "drift", "reporting")},
    "service": GROUND | {"web", "ml_core.serving", "ml_core.rollout", "ml_core.models"},
}
NEVER_SERVED = {"mlflow", "mapie", "pandera", "pandas", "sklearn", "scipy", "xgboost", "pyarrow", "matplotlib"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module imported anywhere in the file, except for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported(node)


IMPORTS = {name: set(imported(ast.parse(path.read_text()))) for name, path in MODULES.items()}


def package_of(module: str) -> str | None:
    """The row of ``MAY_IMPORT`` a module of ours belongs to."""
    return next((row for row in MAY_IMPORT if module == row or module.startswith(f"{row}.")), None)


def served() -> set[str]:
    """Every module of ours that ``service.py`` can come to import, feature versions included."""
    found: set[str] = set()
    left = ["service", *(m for m in MODULES if m.startswith("ml_core.features.v"))]
    while left:
        module = left.pop()
        if module in found:
            continue
        found.add(module)
        parents = {".".join(module.split(".")[:i]) for i in range(1, module.count(".") + 1)}
        left += [m for m in IMPORTS[module] | parents if m in MODULES]
    return found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_arrows_point_down(module: str) -> None:
    own = package_of(module)
    if own is None:  # ml_core/__init__.py
        assert not IMPORTS[module] - {"__future__", "__future__.annotations"}
        return
    used = {package_of(name) for name in IMPORTS[module]} - {None, own}
    assert used <= MAY_IMPORT[own]


@pytest.mark.parametrize("module", sorted(m for m, p in MODULES.items() if p.name == "__init__.py"))
def test_packages_import_nothing_by_themselves(module: str) -> None:
    assert not IMPORTS[module]


@pytest.mark.parametrize("module", sorted(served()))
def test_nothing_served_imports_what_only_training_needs(module: str) -> None:
    assert not {name.split(".")[0] for name in IMPORTS[module]} & NEVER_SERVED


def test_bento_holds_what_is_served_and_no_more() -> None:
    included = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["include"]
    in_bento = {p.relative_to(ROOT) for pattern in included for p in ROOT.glob(pattern) if p.suffix == ".py"}
    assert in_bento == {MODULES[m].relative_to(ROOT) for m in served()}


def test_rule_sees_an_import_inside_a_function() -> None:
    tree = ast.parse("def f():\n    import mlflow.pyfunc\n    from pandas import DataFrame\n")
    assert {"mlflow.pyfunc", "pandas", "pandas.DataFrame"} <= set(imported(tree))
