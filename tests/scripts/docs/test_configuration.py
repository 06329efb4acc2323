"""The page of the configuration tells every field, and a file of what it says is taken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from ml_core.lab.config import GroupConfig, ModelConfig, load_config
from scripts.docs.configuration import render

ROOT = Path(__file__).resolve().parents[3]
SECTIONS = dict(re.findall(r"^## ([\w ]+)\n(.*?)(?=^###? |\Z)", render(), re.MULTILINE | re.DOTALL))


def rows(section: str) -> dict[str, str]:
    """Default of each field of a section."""
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", SECTIONS[section], re.MULTILINE))


def test_every_section_is_told() -> None:
    sections = {name for name, field in ModelConfig.model_fields.items() if is_section(field.annotation)}
    assert set(SECTIONS) == {"The model", *sections}


def test_the_fields_of_a_list_are_told() -> None:
    assert "### Each of conformal.groups" in render()
    assert all(f"| `{name}` |" in render() for name in GroupConfig.model_fields)


def is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_fields_of_the_projects_files_are_told(path: Path) -> None:
    for name, value in yaml.safe_load(path.read_text()).items():
        told, given = (rows(name), value) if isinstance(value, dict) else (rows("The model"), {name: value})
        assert set(given) <= set(told)


def test_file_written_from_the_page_is_that_of_the_defaults(tmp_path: Path) -> None:
    needed = {"model": "risk", "feature_version": "v1", "data": {"source": "rows.parquet"}}
    told = {
        section: {f: yaml.safe_load(d.strip("`")) for f, d in rows(section).items() if d not in {"required", "none"}}
        for section in SECTIONS
    }
    whole = {**told.pop("The model"), **needed, **told, "data": {**told["data"], **needed["data"]}}
    whole["conformal"]["confidence_level"] = str(whole["conformal"]["confidence_level"])
    for name, content in (("least", needed), ("whole", whole)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    assert load_config(tmp_path / "whole.yaml") == load_config(tmp_path / "least.yaml")
