"""Which room may import which: every module's imports against the table of rooms in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [ROOT / "service.py", *(p for part in ("ml_core", "scripts") for p in (ROOT / part).rglob("*.py"))]
}
NEVER_SERVED = {"mlflow", "mapie", "pandera", "pandas", "sklearn", "scipy", "xgboost", "pyarrow", "matplotlib"}
"""What a worker never imports."""

_ROW = re.compile(r"\| `(?P<room>[\w/]+)` \|(?P<text>[^|]*)\|(?P<imports>[^|]*)\|")
_NAME = re.compile(r"`([\w/]+)`")


def rooms_of(document: str) -> dict[str, list[str]]:
    """Rooms of the table and what each may import, in the table's order."""
    return {row["room"]: _NAME.findall(row["imports"]) for row in _ROW.finditer(document)}


ROOMS = rooms_of((ROOT / "docs" / "architecture.md").read_text())


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


TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
IMPORTS = {name: set(imported(tree)) for name, tree in TREES.items()}


@cache
def room_of(module: str) -> str | None:
    """The row of the table that a module of ours stands in, e.g. ``serve/log`` for ``ml_core.serve.log.writer``."""
    if module == "service":
        return "service"
    path = module.removeprefix("ml_core.").replace(".", "/")
    fitting = [room for room in ROOMS if path == room or path.startswith(f"{room}/")]
    return max(fitting, key=len, default=None) if module.startswith(("ml_core.", "scripts")) else None


@cache
def public_names(module: str) -> frozenset[str]:
    """What ``__all__`` of a module of ours names."""
    for node in TREES[module].body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


@cache
def crossings(module: str) -> tuple[tuple[str, str], ...]:
    """Modules of other rooms that a module imports, each with the name that it takes from there, "" for the whole."""
    found = []
    for node in ast.walk(TREES[module]):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            target, name = (whole, "") if whole in MODULES else (node.module, alias.name)
            if target in MODULES and room_of(target) not in {room_of(module), None}:
                found.append((target, name))
    return tuple(found)


def served() -> set[str]:
    """Every module of ours that ``service.py`` can come to import, feature versions included."""
    found: set[str] = set()
    by_name = re.findall(r'"(ml_core[\w.]+):\w+"', (ROOT / "service.py").read_text())  # for uvicorn
    left = ["service", *by_name, *(m for m in MODULES if m.startswith("ml_core.serve.features.v"))]
    while left:
        module = left.pop()
        if module in found:
            continue
        found.add(module)
        parents = {".".join(module.split(".")[:i]) for i in range(1, module.count(".") + 1)}
        left += [m for m in IMPORTS[module] | parents if m in MODULES]
    return found


def test_every_module_stands_in_a_room_of_the_table() -> None:
    packages = {m for m, p in MODULES.items() if p.name == "__init__.py"}
    assert not {m for m in MODULES if room_of(m) is None} - packages


def test_every_room_of_the_table_is_there() -> None:
    assert {room_of(m) for m in MODULES} - {None} == set(ROOMS)


def test_the_table_names_rooms_from_the_ground_up() -> None:
    """So no two rooms import each other, and nothing imports upward."""
    seen: set[str] = set()
    for room, imports in ROOMS.items():
        assert set(imports) <= seen, room
        seen.add(room)


@pytest.mark.parametrize(("upper", "lower"), [("lab", "serve"), ("cli", "lab"), ("cli", "serve")])
def test_a_wing_never_imports_a_wing_above_it(upper: str, lower: str) -> None:
    found = {room: [i for i in imports if i.split("/")[0] == upper] for room, imports in ROOMS.items()}
    assert not any(imports for room, imports in found.items() if room.split("/")[0] == lower)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_imports_only_what_its_room_may(module: str) -> None:
    own = room_of(module)
    used = {room_of(name) for name in IMPORTS[module] if name in MODULES} - {None, own}
    assert used <= set(ROOMS.get(own or "", ()))


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith(("ml_core", "service", "scripts"))))
def test_rooms_use_only_the_face_of_other_rooms(module: str) -> None:
    """A room's ``__init__`` names the modules that others may use, and ``__all__`` of each the names in it."""
    for target, name in crossings(module):
        room, _, stem = target.rpartition(".")
        assert stem in public_names(room), f"{module} imports {target}, which is private to its room"
        assert not name or name in public_names(target), f"{module} imports {name} of {target}, which is private"


@pytest.mark.parametrize("module", sorted(m for m, p in MODULES.items() if p.name == "__init__.py"))
def test_a_face_names_modules_that_are_there_and_imports_none(module: str) -> None:
    assert not IMPORTS[module]
    assert all(f"{module}.{name}" in MODULES for name in public_names(module))


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("ml_core.")))
def test_what_a_face_names_is_used_elsewhere(module: str) -> None:
    room, _, stem = module.rpartition(".")
    if room in MODULES and stem in public_names(room):
        elsewhere = (m for m in MODULES if room_of(m) != room_of(module))
        assert any(target == module for m in elsewhere for target, _ in crossings(m)), "no other room uses it"


@pytest.mark.parametrize("module", sorted(served()))
def test_nothing_served_imports_what_only_training_needs(module: str) -> None:
    assert not {name.split(".")[0] for name in IMPORTS[module]} & NEVER_SERVED


def test_bento_holds_the_serve_wing_and_what_it_stands_on() -> None:
    included = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["include"]
    in_bento = {p.relative_to(ROOT) for pattern in included for p in ROOT.glob(pattern) if p.suffix == ".py"}
    wings = {"base", "features", "serve"}
    wanted = {
        p for path in MODULES.values() if (p := path.relative_to(ROOT)).parts[0] == "ml_core" and p.parts[1] in wings
    }
    assert in_bento == {*wanted, Path("service.py"), Path("ml_core/__init__.py")}


def test_everything_in_the_serve_wing_is_served() -> None:
    """A module that no worker can come to import belongs into the lab."""
    assert {m for m in MODULES if m.startswith("ml_core.serve.")} <= served()


def test_rule_sees_an_import_inside_a_function() -> None:
    tree = ast.parse("def f():\n    import mlflow.pyfunc\n    from pandas import DataFrame\n")
    assert {"mlflow.pyfunc", "pandas", "pandas.DataFrame"} <= set(imported(tree))


def test_no_module_name_stands_twice() -> None:
    stems = [m.rpartition(".")[2] for m, p in MODULES.items() if m.startswith("ml_core.") and p.name != "__init__.py"]
    assert sorted(stems) == sorted(set(stems))
