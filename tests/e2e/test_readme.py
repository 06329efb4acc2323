"""Runs the blocks of README, quickstart and the HTTP guide against a served example, and compares the output shown there.

Shell blocks run in bash, one after the other. ``make`` runs as ``make -n``, because the service runs already. A JSON block is
the output of the shell block above it, unless ``TOLD_BELOW`` says what it is.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from tests.documents import ROOT, Block, blocks
from tests.e2e.workplace import Workplace

pytestmark = pytest.mark.e2e

README, QUICKSTART, HTTP = ROOT / "README.md", ROOT / "docs" / "quickstart.md", ROOT / "docs" / "http.md"
ADDRESS = "http://localhost:3000"
RECORD = {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148}

NOT_RUN = {
    (README, "surety init visits.csv my-risk --label readmitted --group patient_id   # looks at the rows, writes a project, asks"):
        "visits.csv is the reader's; tests/e2e/test_own_tables.py takes such a road",
}  # fmt: skip
TOLD_BELOW = {
    (HTTP, '{"features": {"age": 71, "glucose": 182.5, "bmi": 31.2, "bp_systolic": 148},'): "a request",
    (
        HTTP,
        '{"labels": [{"request_id": "01936f0e-…", "label": 1, "observed_at": "2026-11-29T08:00:00Z"}]}',
    ): "a request",
    (HTTP, '{"error": {"code": "invalid_record", "message": "1 field(s) cannot be accepted",'): "a refusal",
}
PYTHON = [(QUICKSTART, "import bentoml"), (HTTP, "import httpx, pyarrow as pa")]


def shell_blocks(document: Path) -> list[Block]:
    return [b for b in blocks(document) if b.kind == "sh" and (document, b.first_line) not in NOT_RUN]


def shown(document: Path) -> list[tuple[int, Block]]:
    """JSON blocks that show the output of a shell block, with the number of that shell block among those that run."""
    found, number = [], -1
    for block in blocks(document):
        if block.kind == "sh" and (document, block.first_line) not in NOT_RUN:
            number += 1
        elif block.kind == "json" and (document, block.first_line) not in TOLD_BELOW:
            found.append((number, block))
    return found


@dataclass(frozen=True)
class Served:
    """A running service, the place it runs in, and the variables of both."""

    address: str
    run: Path
    environment: dict[str, str]

    def outputs(self, document: Path) -> list[str]:
        """The output of each shell block of the document; all run in one shell."""
        mark = "--- next block ---"
        typed = [block.text.replace(ADDRESS, self.address) for block in shell_blocks(document)]
        script = f'make() {{ command make -n -C {shlex.quote(str(ROOT))} "$@"; }}\n' + f"\necho '{mark}'\n".join(typed)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.run, env=self.environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{document.name}\n{done.stdout}\n{done.stderr}"
        return done.stdout.split(f"{mark}\n")


@pytest.fixture(scope="module")
def served(example: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if shutil.which("curl") is None:
        pytest.skip("needs curl, which the documents type")
    folder = tmp_path_factory.mktemp("typed")
    home = str(example.copied_home(folder / "home"))
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    (folder / "data").mkdir()  # `make serve` has made it
    for name, words in {"surety": "-m ml_core.cli.main", "python": ""}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        (tools / name).chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    environment = example.environment(SURETY_HOME=home, PATH=path)
    with example.serving(SURETY_HOME=home) as address:
        subprocess.run([tools / "surety", "monitor", "--once"], env=environment, check=True, capture_output=True)
        yield Served(address, folder, environment)


@pytest.fixture(scope="module")
def typed(served: Served) -> dict[Path, list[str]]:
    """The output of the shell blocks of every document."""
    return {document: served.outputs(document) for document in (README, QUICKSTART, HTTP)}


def last_json(text: str) -> Any:
    """The last JSON value that starts at the beginning of a line and ends at the end of the text."""
    found = None
    for start in [0, *(i + 1 for i, letter in enumerate(text) if letter == "\n")]:
        if text[start : start + 1] in {"{", "["}:
            try:
                found = json.loads(text[start:])
            except json.JSONDecodeError:
                continue
    assert found is not None, text
    return found


def told(block: Block) -> Any:
    """The value of a JSON block; ``…`` stands for more fields."""
    return json.loads(block.text.replace(", …}", ', "…": null}').replace(", …]", "]"))


def unlike(shape: Any, real: Any, where: str = "") -> list[str]:
    """Places where a real value has other fields or types than the shown one; numbers and texts may differ."""
    if isinstance(shape, dict) and isinstance(real, dict):
        names = shape.keys() - {"…"}
        lost = sorted(names - real.keys()) + ([] if "…" in shape else sorted(real.keys() - names))
        found = [f"{where}.{name}" for name in lost]
        return found + [w for name in names & real.keys() for w in unlike(shape[name], real[name], f"{where}.{name}")]
    if isinstance(shape, list) and isinstance(real, list):
        if bool(shape) != bool(real):
            return [f"{where}: one is empty"]
        return [w for item in shape for w in unlike(item, real[0], f"{where}[]")]
    number = (int, float)
    is_number = [isinstance(x, number) and not isinstance(x, bool) for x in (shape, real)]
    return [] if all(is_number) or type(shape) is type(real) else [f"{where}: {shape!r} is shown, {real!r} came"]


@pytest.mark.parametrize("document", [README, QUICKSTART, HTTP], ids=lambda p: p.name)
def test_every_block_is_run_or_listed_here(document: Path) -> None:
    known = {
        *((document, b.first_line) for b in shell_blocks(document)),
        *((document, b.first_line) for _, b in shown(document)),
        *NOT_RUN,
        *TOLD_BELOW,
        *PYTHON,
    }
    assert {b.kind for b in blocks(document)} <= {"sh", "json", "python"}
    assert [b.first_line for b in blocks(document) if (document, b.first_line) not in known] == []


@pytest.mark.parametrize(("document", "first_line"), [*NOT_RUN, *TOLD_BELOW, *PYTHON])
def test_what_is_listed_here_is_in_its_document(document: Path, first_line: str) -> None:
    assert first_line in {block.first_line for block in blocks(document)}


@pytest.mark.parametrize("document", [README, QUICKSTART, HTTP], ids=lambda p: p.name)
def test_shell_blocks_run(typed: dict[Path, list[str]], document: Path) -> None:
    assert len(typed[document]) == len(shell_blocks(document)) > 0


@pytest.mark.parametrize("document", [README, QUICKSTART], ids=lambda p: p.name)
def test_output_that_is_shown_has_the_form_of_the_real_one(typed: dict[Path, list[str]], document: Path) -> None:
    assert shown(document)
    for number, block in shown(document):
        assert unlike(told(block), last_json(typed[document][number])) == [], block.text


def test_make_serve_serves_what_it_says(typed: dict[Path, list[str]]) -> None:
    assert all(words in typed[README][0] for words in ("surety example", "surety monitor", "bentoml serve", "pytest"))


def test_key_that_the_guide_makes_is_printed_once(typed: dict[Path, list[str]], served: Served) -> None:
    (key,) = [line for line in typed[HTTP][0].splitlines() if line.startswith("surety_")]
    assert key not in (served.run / "keys.json").read_text()


@pytest.mark.parametrize(("document", "first_line"), PYTHON, ids=lambda x: getattr(x, "name", None))
def test_python_blocks_run(served: Served, document: Path, first_line: str) -> None:
    (block,) = [b for b in blocks(document) if b.first_line == first_line]
    names: dict[str, Any] = {"table": pa.Table.from_pylist([RECORD] * 3)}
    exec(compile(block.text.replace(ADDRESS, served.address), str(document), "exec"), names)
    if document == HTTP:
        assert names["answers"].num_rows == 3
        assert names["answers"].column("error").null_count == 3
    else:
        assert names["answer"]["confidence_level"] == 0.95


def test_requests_and_refusal_of_the_guide_are_real(served: Served) -> None:
    request, labels, refusal = (told(b) for b in blocks(HTTP) if (HTTP, b.first_line) in TOLD_BELOW)
    answer = httpx.post(f"{served.address}/predict", json=request)
    assert (answer.status_code, answer.json()["client_request_id"]) == (200, request["client_request_id"])
    moment = {"request_id": answer.json()["request_id"], "observed_at": answer.json()["lineage"]["timestamp"]}
    labels["labels"][0] |= moment
    assert httpx.post(f"{served.address}/labels", json=labels).json()["accepted"] == 1
    assert httpx.post(f"{served.address}/predict", json={"features": {**RECORD, "age": 130}}).json() == refusal


def test_comparison_of_forms_sees_what_differs() -> None:
    assert unlike({"a": 1, "b": [1.5], "c": None}, {"a": 2.5, "b": [3, 4], "c": None}) == []
    assert unlike({"a": 1}, {"a": 1, "b": 2}) == [".b"]
    assert unlike({"a": 1, "…": None}, {"a": 1, "b": 2}) == []
    assert unlike({"a": 1, "b": 2}, {"a": 1}) == [".b"]
    assert unlike({"a": [{"b": 1}]}, {"a": [{"b": "x"}]}) == [".a[].b: 1 is shown, 'x' came"]
    assert unlike({"a": [1]}, {"a": []}) == [".a: one is empty"]
    assert unlike({"a": True}, {"a": 1}) == [".a: True is shown, 1 came"]
