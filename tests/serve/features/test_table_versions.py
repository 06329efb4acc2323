"""Feature versions made of a table: named by its content, known again by name, and never another one than was meant."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml_core.base.errors import ArtefactError, ConfigError, UnknownFeatureVersion
from ml_core.features.columns import table_hash
from ml_core.lab.data.kept_tables import keep_table, kept_version
from ml_core.serve.features import versions
from ml_core.serve.features.column_table import one_spelling, table_bytes
from ml_core.serve.features.table_versions import table_version, version_of_bytes
from ml_core.serve.features.versions import get_feature_version, module_version, register_version
from ml_core.serve.home.object_stores import FolderObjects
from tests.own_versions import STANDARD, STANDARD_TABLE

TRANSFORM = """
import numpy as np

FEATURE_NAMES = ("age_in_decades",)


def transform(columns):
    return (columns["age"][:, None] / 10).astype(np.float32)
"""
WITH_COLUMNS = """
import numpy as np

from ml_core.features.columns import Column

COLUMNS = (
    Column("who", "text", "Who.", role="group"),
    Column("age", "int", "Age.", low=0, high=120),
    Column("found", "category", "What was found.", role="label", levels=("no", "yes")),
)
FEATURE_NAMES = ("age",)


def transform(columns):
    return columns["age"][:, None].astype(np.float32)
"""
PLAIN = tuple(one_spelling(replace(c, transform=None, missing_flag=False)) for c in STANDARD_TABLE)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch):
    monkeypatch.setattr(versions, "_registered", dict(versions._registered))


def unknown() -> None:
    """As in a process that has not seen the table."""
    versions._registered.pop(STANDARD, None)


def module(tmp_path: Path, source: str, name: str = "decades") -> Path:
    path = tmp_path / f"{name}.py"
    path.write_text(source)
    return path


def test_the_name_follows_from_the_content() -> None:
    version = table_version(STANDARD_TABLE)
    assert version.name == STANDARD == f"table_{table_hash(version.columns)[:12]}"
    assert table_version(version.columns) == version
    bounds = tuple(replace(c, high=41) if c.name == "lactate" else c for c in STANDARD_TABLE)
    assert table_version(bounds).name != version.name


def test_a_table_is_known_again_by_its_bytes() -> None:
    raw = table_bytes(get_feature_version(STANDARD).columns)
    unknown()
    found = version_of_bytes(STANDARD, raw, "columns.json")
    assert (found.name, found.is_table) == (STANDARD, True)
    assert get_feature_version(STANDARD) is found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw + b" ", "edited by hand"),
        (lambda raw: raw.replace(b'"unit": "years"', b'"unit": "days"'), "is the table of table_"),
        (lambda raw: raw[:-9], "is no column table"),
        (lambda _: b"[]", "is no column table"),
        (lambda raw: raw.replace(b'"dtype": "int"', b'"dtype": "money"', 1), "must be one of int"),
    ],
)
def test_other_bytes_are_not_the_table_of_that_name(change, words) -> None:
    raw = table_bytes(get_feature_version(STANDARD).columns)
    unknown()
    with pytest.raises(ArtefactError, match=words):
        version_of_bytes(STANDARD, change(raw), "columns.json")


def test_a_version_in_code_has_no_table_in_bytes() -> None:
    with pytest.raises(ArtefactError):
        version_of_bytes("v1", table_bytes(get_feature_version("v1").columns), "columns.json")


def test_a_kept_table_is_known_by_its_name_alone(tmp_path: Path) -> None:
    keep_table(FolderObjects(tmp_path), get_feature_version(STANDARD))
    keep_table(FolderObjects(tmp_path), get_feature_version("v1"))
    assert len(list(tmp_path.rglob("*.json"))) == 1
    unknown()
    assert kept_version(FolderObjects(tmp_path), STANDARD).feature_names[:2] == ("age", "age.missing")


def test_what_is_not_kept_is_unknown(tmp_path: Path) -> None:
    unknown()
    with pytest.raises(UnknownFeatureVersion, match=STANDARD):
        kept_version(FolderObjects(tmp_path), STANDARD)
    with pytest.raises(UnknownFeatureVersion, match="v77"):
        kept_version(FolderObjects(tmp_path), "v77")


def test_a_kept_table_that_was_changed_is_refused(tmp_path: Path) -> None:
    keep_table(FolderObjects(tmp_path), get_feature_version(STANDARD))
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(path.read_bytes().replace(b'"high": 120', b'"high": 121'))
    unknown()
    with pytest.raises(ArtefactError, match="is the table of"):
        kept_version(FolderObjects(tmp_path), STANDARD)


def test_a_table_may_have_the_transform_of_a_module(tmp_path: Path) -> None:
    register_version(module_version(module(tmp_path, TRANSFORM)))
    version = table_version(PLAIN, "decades")
    assert version.name == f"decades_{table_hash(PLAIN)[:12]}"
    assert version.transform({"age": np.array([71.0])}).tolist() == [[np.float32(7.1)]]
    with pytest.raises(ConfigError, match="feature version decades: has no COLUMNS"):
        get_feature_version("decades")
    raw = table_bytes(PLAIN)
    assert version_of_bytes(version.name, raw, "columns.json").module_hash == version.module_hash
    with pytest.raises(ConfigError, match=r"age\.transform: is for the standard transform; decades has one of its own"):
        table_version(STANDARD_TABLE, "decades")


def test_a_table_whose_module_is_not_here_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownFeatureVersion, match="nowhere"):
        version_of_bytes(f"nowhere_{table_hash(PLAIN)[:12]}", table_bytes(PLAIN), "columns.json")


def test_a_file_is_a_feature_version_under_its_own_name(tmp_path: Path) -> None:
    version = module_version(module(tmp_path, WITH_COLUMNS, "nuclei"))
    assert (version.name, version.is_table, version.source) == ("nuclei", False, tmp_path / "nuclei.py")
    assert register_version(version) is get_feature_version("nuclei")


def test_a_name_stands_for_one_version(tmp_path: Path) -> None:
    register_version(module_version(module(tmp_path, WITH_COLUMNS, "nuclei")))
    register_version(module_version(module(tmp_path, WITH_COLUMNS, "nuclei")))
    other = module_version(module(tmp_path, WITH_COLUMNS + "\n# changed\n", "nuclei"))
    with pytest.raises(ConfigError, match="feature version nuclei: another one has this name"):
        register_version(other)
    with pytest.raises(ConfigError, match="feature version v1: another one has this name"):
        register_version(module_version(module(tmp_path, WITH_COLUMNS, "v1")))


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("Nuclei", WITH_COLUMNS, "must be a .py file named in small letters"),
        ("standard", WITH_COLUMNS, "must be a .py file named in small letters"),
        ("table_x", WITH_COLUMNS, "must be a .py file named in small letters"),
        ("nuclei", "import nothing_of_that_name", "fails when it is imported: ModuleNotFoundError"),
        ("nuclei", "FEATURE_NAMES = 3", "has no transform"),
        ("nuclei", WITH_COLUMNS.replace('"int"', '"integer"'), "column 'age' has the dtype 'integer'"),
    ],
)
def test_an_unusable_file_is_told(tmp_path: Path, name: str, source: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        module_version(module(tmp_path, source, name))
    with pytest.raises(ConfigError, match="cannot be read"):
        module_version(tmp_path / "absent.py")


def test_modules_are_found_by_setting_by_folder_and_by_entry_point(tmp_path: Path, monkeypatch) -> None:
    beside, by_setting, installed = tmp_path / "beside", tmp_path / "set", tmp_path / "site"
    for folder in (beside, by_setting, installed):
        folder.mkdir()
    module(beside, WITH_COLUMNS, "lies_beside")
    other = module(by_setting, TRANSFORM, "another")
    monkeypatch.setenv(
        "SURETY_FEATURE_MODULES", os.pathsep.join([str(other), str(module(by_setting, WITH_COLUMNS, "set"))])
    )
    monkeypatch.setattr(versions, "_BESIDE", beside)
    (installed / "somebodys_package.py").write_text(WITH_COLUMNS)
    facts = installed / "somebodys_package-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys_package\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[surety.features]\ninstalled_one = somebodys_package\n")
    monkeypatch.syspath_prepend(str(installed))
    for name in ("lies_beside", "set", "installed_one"):
        assert get_feature_version(name).name == name
    module(tmp_path, WITH_COLUMNS, "above")
    for name in ("no_such_module", "../above", "Lies_beside"):
        with pytest.raises(UnknownFeatureVersion, match=name):
            get_feature_version(name)


def test_a_fresh_process_knows_a_table_by_its_artefact_alone(tmp_path: Path) -> None:
    raw = tmp_path / "columns.json"
    raw.write_bytes(table_bytes(get_feature_version(STANDARD).columns))
    code = (
        "import sys, pathlib; from ml_core.serve.features.table_versions import version_of_bytes as v;"
        f"print(v({STANDARD!r}, pathlib.Path(sys.argv[1]).read_bytes(), 'columns.json').module_hash)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(raw)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == get_feature_version(STANDARD).module_hash
