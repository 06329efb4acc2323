"""YAML within bounds: what may be read is read as ever, all else is refused in words."""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest
import yaml

from ml_core.base.strict_yaml import MOST_NODES, NotYaml, parse_yaml
from tests.cli.hostile_files import YAML
from tests.e2e.workplace import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_what_the_project_itself_has_is_read_as_ever(path):
    assert parse_yaml(path.read_bytes()) == yaml.safe_load(path.read_bytes())


def test_aliases_merges_and_a_byte_order_mark_are_read():
    raw = b"\xef\xbb\xbfbase: &b {a: 1, day: 2026-05-01}\nmore: {<<: *b, a: 2}\nagain: *b\n"
    assert parse_yaml(raw)["more"] == {"a": 2, "day": date(2026, 5, 1)}


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"a: 1\na: 2\n", r"has the key 'a' twice \(line 2\)"),
        (b"a: {b: [{c: 1, c: 1}]}\n", "has the key 'c' twice"),
        (b"a: &x [*x]\n", "alias within what it stands for"),
        (b"[" * 60 + b"]" * 60, "nested deeper than 40"),
        (b"[" * 10_000, "nested deeper than 40|not YAML"),
        (b"a:\n\tb: 1\n", r"is not YAML \(line 2\)"),
        (b"a: " + b"9" * 10_000, "none of its kind"),
        (b"a: 2026-02-31\n", "none of its kind"),
        (b"\xff\xfea", "not UTF-8"),
        (b"a: 1\n---\nb: 2\n", "not YAML"),
        (b"a" * (1 << 24), "larger than"),
        (b"[" * 8_000_000, "nested deeper than 40"),
        (b"[" + b"1," * 600_000 + b"]", "holds more than 500000 values"),
        (b"a: !!python/object/apply:os.system [x]\n", "not YAML"),
    ],
)
def test_what_is_refused_is_told(raw, problem):
    with pytest.raises(NotYaml, match=problem):
        parse_yaml(raw)


def test_a_small_text_cannot_become_a_large_document(tmp_path: Path):
    YAML["a bomb of aliases"](tmp_path / "bomb.yaml")
    with pytest.raises(NotYaml, match=f"more than {MOST_NODES} values"):
        parse_yaml((tmp_path / "bomb.yaml").read_bytes())


@pytest.mark.parametrize("kind", YAML)
def test_nothing_else_comes_out_of_hostile_files(tmp_path: Path, kind):
    YAML[kind](tmp_path / "x.yaml")
    with suppress(NotYaml):
        parse_yaml((tmp_path / "x.yaml").read_bytes())
