"""The figures of the house: what counts as a name, as a place that names a field, as a shape of an answer."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import pytest

from benchmarks import house


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch):
    """Makes these texts the files of the product."""

    def write(**texts: str) -> None:
        trees = {f"ml_core/{name}.py": ast.parse(text) for name, text in texts.items()}
        monkeypatch.setattr(house, "trees", lambda: trees)

    return write


def test_a_public_name_counts_where_two_files_define_it(written) -> None:
    written(
        a="from x import C\nT = TypeVar('T')\nlogger = 1\n_own = 2\ndef f(): ...\nclass C: ...",
        b="T = TypeVar('T')\nlogger = 1\n_own = 2\ndef f(): ...\nfrom ml_core.a import C",
    )
    assert house.names_twice() == {"f": ["ml_core/a.py", "ml_core/b.py"]}


def test_a_field_is_named_by_attributes_parameters_and_texts_but_not_by_docstrings(written) -> None:
    written(
        a="x.site", b="f(site=1)", c="SQL = 'insert into answers (day, site)'", d="'''About site.'''", e="website = 1"
    )
    assert house.files_naming("site") == ["ml_core/a.py", "ml_core/b.py", "ml_core/c.py"]


def test_an_answer_has_two_of_its_fields_and_a_labelled_one_the_truth_too(written) -> None:
    written(
        a="class A:\n    prediction: int\n    p_values: list\nclass B:\n    prediction: int\n    label: int\nclass C:\n    label: int"
    )
    assert house.answer_shapes() == ["ml_core/a.py:A"]
    assert house.labelled_answers() == ["ml_core/a.py:B"]


def test_a_file_counts_as_passed_where_a_function_of_it_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = {"<toy>": "ml_core/toy.py", "<other>": "ml_core/other.py"}
    monkeypatch.setattr(house, "_own", ran.get)
    made: dict = {}
    exec(compile("def f(): return g()\ndef g(): return 1\ndef unused(): ...", "<toy>", "exec"), made)
    exec(compile("def idle(): ...", "<other>", "exec"), made)
    exec(compile("def not_ours(f): return f()", "<library>", "exec"), made)
    passed = house.Passed()
    with passed.watching():
        made["not_ours"](made["f"])
    made["idle"]()
    assert passed.functions == {("ml_core/toy.py", "f"), ("ml_core/toy.py", "g")}
    assert passed.figure() == "1 (2)"


WALK_TWICE = """
from benchmarks import house

whole = house.label_path

def label_path():
    house.ALARM_AFTER = 1
    try:
        whole()
    except SystemExit as error:
        print("too few labels:", str(error).splitlines()[0])
    house.ALARM_AFTER = 300
    return whole()

house.label_path = label_path
house.main()
"""


@pytest.mark.e2e
def test_the_walks_end_in_an_answer_a_live_model_and_an_alarm_and_fail_where_no_alarm_comes() -> None:
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("SURETY_", "MLFLOW_", "BENTOML_", "MODEL_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", WALK_TWICE, "--details"],
        cwd=house.ROOT, env={**environment, "PYTHONPATH": str(house.ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    refused, _, table = done.stdout.partition("\n")
    assert refused.startswith("too few labels: surety monitor --once")
    walks = [set(part.split()) for part in table.split("files ")[1:4]]
    request, label, model = ({word for word in walk if word.endswith(".py")} for walk in walks)
    at_the_door = {
        "ml_core/serve/http/middleware.py",
        "ml_core/serve/answering/inference.py",
        "ml_core/serve/model/scorer.py",
    }
    assert at_the_door | {"ml_core/serve/log/writer.py"} <= request
    assert (
        at_the_door | {"ml_core/serve/log/labels.py", "ml_core/cli/cmd_monitor.py", "ml_core/lab/watching/alarms.py"}
        <= label
    )
    assert {f"ml_core/cli/cmd_{verb}.py" for verb in ("train", "validate", "promote", "import_model")} <= model
    assert "ml_core/serve/model/loader.py" in model
    assert not model & {"ml_core/serve/http/middleware.py"}
