"""The house in figures (`make house`): how far a request, a label and a model travel, and how many names the code has.

Paths are walked for real, in this process, under ``sys.setprofile``: a file counts as passed when one of its functions ran.
Names are read from the syntax trees. Rules are written beside each figure; the same script counts them again later.
"""

from __future__ import annotations

import ast
import asyncio
import io
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field
from functools import cache
from inspect import CO_NEWLOCALS
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("ml_core", "scripts", "service.py")
MODEL = "readmission_risk"
HEALTHY = {"patient_id": "1", "age": 35, "glucose": 90.0, "bmi": 23.0, "bp_systolic": 120.0}
ALARM_AFTER = 300
EACH_HAS = {"command", "logger", "COLUMNS", "FEATURE_NAMES", "FEATURE_DOCS", "transform"}
"""Public names that every verb, every logging module and every feature version has: not counted as defined twice."""

FIELD = "client_request_id"
"""A stored field as a new one would be: from the request to log, digest, erasure, Parquet copy and audit. Answers are also
looked up by it, so the count is an upper bound."""
ANSWER_FIELDS = {
    "prediction", "prediction_set", "set_size", "confidence", "probability", "probabilities", "proba", "p_values",
    "validity", "is_fallback", "fallback_reason", "sets", "answer",
}  # fmt: skip
LABEL_FIELDS = {"label", "true_label", "outcome", "observed", "y_true"}
GATE_RULE = "min_brier_skill"
WHOLE_FILE = {"replace", "mkstemp", "NamedTemporaryFile"}
"""``Path.replace`` also moves files that are whole already: look at what is listed."""
LOCK = {"flock", "lockf"}


# --- paths ---


@dataclass
class Passed:
    """Functions of the product that ran, as (file, name)."""

    functions: set[tuple[str, str]] = field(default_factory=set)

    def profile(self, frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & CO_NEWLOCALS and (file := _own(code.co_filename)):
            self.functions.add((file, code.co_qualname))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notice what runs in this thread, and in threads that start meanwhile."""
        threading.setprofile(self.profile)
        sys.setprofile(self.profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def figure(self) -> str:
        return f"{len(self.files)} ({len(self.functions)})"

    @property
    def files(self) -> set[str]:
        return {file for file, _ in self.functions}


@cache
def _own(filename: str) -> str | None:
    """Path in this checkout of a file of the product, None for any other file."""
    path = Path(filename)
    if not path.is_relative_to(ROOT):
        return None
    name = path.relative_to(ROOT)
    return str(name) if name.parts[0] in PRODUCT else None


def model_path(place: Path) -> Passed:
    """From a feature table to a model that a worker has loaded: train, gate, promote, import, load."""
    facts = yaml.safe_load((ROOT / "configs" / "readmission_v1.yaml").read_text())
    facts["data"]["source"] = str(place / "cohort.parquet")
    facts["training"] = {"rounds": 80, "early_stopping_rounds": 15, "params": {"max_depth": 3, "learning_rate": 0.1}}
    config = place / "model.yaml"
    config.write_text(json.dumps(facts))
    surety("data", "make", "--rows", "9000", "--seed", "3", "--out", facts["data"]["source"])
    passed = Passed()
    for home, watch in (("rehearsal", nullcontext), ("home", passed.watching)):  # the first round imports what is used
        os.environ["SURETY_HOME"] = str(place / home)
        surety("features", "run", "--config", str(config))
        with watch():
            surety("train", "--config", str(config))
            surety("validate", "--config", str(config))
            surety("promote", "--config", str(config))
            surety("import-model", "--model", MODEL)
    import service as module

    for watch in (nullcontext, passed.watching):
        with watch():
            module.loader.load(module.loader.served_tag())
    return passed


def request_path() -> Passed:
    """One ``/predict`` over the real middleware of a worker that is warm, to the row in its log file."""
    ask("/predict", {"features": HEALTHY})
    passed = Passed()
    with passed.watching():
        ask("/predict", {"features": HEALTHY})
    return passed


def label_path() -> Passed:
    """A label from ``POST /labels`` over the monitor's look and its publication to an alarm in an answer."""
    passed, worker = Passed(), service().worker

    def labelled() -> dict[str, Any]:
        answer = ask("/predict", {"features": HEALTHY})
        return {"request_id": answer["request_id"], "label": 0 if 1 in answer["prediction_set"] else 1}

    def carry(labels: list[dict[str, Any]], status: int) -> dict[str, Any]:
        ask("/labels", {"labels": labels})
        surety("monitor", "--once", status=status)
        worker.follower._reported_at = (
            time.monotonic()
        )  # the worker's own report, once a second, is no part of this path
        worker.follower.look()
        return ask("/predict", {"features": HEALTHY})

    carry([labelled()], status=0)  # imports what is used
    missed = [labelled() for _ in range(ALARM_AFTER)]
    with passed.watching():
        answer = carry(missed, status=3)  # an alarm is on
    if answer["validity"] != "suspect":
        sys.exit(f"no alarm in the answer: {answer}")
    return passed


def surety(*arguments: str, status: int = 0) -> None:
    """Run a verb in this process, its output kept away, and expect that exit status."""
    from click.testing import CliRunner

    from ml_core.cli.main import surety as group

    done = CliRunner().invoke(group, list(arguments))
    if done.exit_code != status:
        sys.exit(f"surety {' '.join(arguments)}: {done.output} {done.exception!r}")


@cache
def service() -> Any:
    """A worker's service, as BentoML makes it, in this process and ready."""
    import service as module

    made = module.Surety.inner()
    made.worker.follower.look()
    made.worker.inference.warm_up()
    return made


def ask(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A reply of the service's middleware."""
    import service as module

    middleware = next(kind for kind, options in module.Surety.middlewares if "api" in options)
    app = middleware(None, api=lambda: service().worker.api)
    raw, sent = json.dumps(body).encode(), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": path, "query_string": b"", "http_version": "1.1",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())],
        "client": ("127.0.0.1", 1),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    reply = json.loads(b"".join(m.get("body", b"") for m in sent))
    if sent[0]["status"] != 200:
        sys.exit(f"{path}: {sent[0]['status']} {reply}")
    return reply


# --- names ---


@cache
def trees() -> dict[str, ast.Module]:
    """Syntax trees of the product's files, by path."""
    paths = [
        p for part in PRODUCT for p in ([ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py")))
    ]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def core() -> dict[str, ast.Module]:
    return {path: tree for path, tree in trees().items() if path.startswith("ml_core/")}


def names_twice() -> dict[str, list[str]]:
    """Public names that stand at module level in more than one file of ml_core; type variables and EACH_HAS apart."""
    found: dict[str, list[str]] = defaultdict(list)
    for path, tree in core().items():
        for name in {name for node in tree.body for name in _defined(node)}:
            if not name.startswith("_") and name not in EACH_HAS:
                found[name].append(path)
    return {name: files for name, files in sorted(found.items()) if len(files) > 1}


def _defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec"))):
            return []
        case ast.Assign():
            return [target.id for target in node.targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def modules_twice() -> dict[str, list[str]]:
    """Module names that stand in ml_core more than once."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in core():
        if not path.endswith("__init__.py"):
            found[Path(path).stem].append(path)
    return {name: paths for name, paths in found.items() if len(paths) > 1}


def files_naming(name: str) -> list[str]:
    """Files in which that name stands as a field, a parameter, an attribute or a word of a text that is no docstring."""
    return sorted(path for path, tree in trees().items() if any(name in words for words in _words(tree)))


def _words(tree: ast.Module) -> Iterator[Collection[str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant()):
                node.value.value = None  # a docstring tells, it stores nothing
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield (name,)
            case ast.Constant(value=str(text)):
                yield re.findall(r"\w+", text)


def answer_shapes() -> list[str]:
    """Classes with two or more fields of an answer (ANSWER_FIELDS)."""
    return [where for where, fields in _classes() if len(fields & ANSWER_FIELDS) >= 2]


def labelled_answers() -> list[str]:
    """Classes that hold fields of an answer or a miss, and what turned out to be true of it."""
    return [where for where, fields in _classes() if fields & LABEL_FIELDS and fields & {*ANSWER_FIELDS, "missed"}]


def _classes() -> Iterator[tuple[str, set[str]]]:
    for path, tree in core().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                fields = {
                    n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
                }
                yield f"{path}:{node.name}", fields


def calling(names: Collection[str], modules: Collection[str] = ()) -> list[str]:
    """Functions that call something of such a name with one path or descriptor (``text.replace(a, b)`` has two arguments)."""
    return sorted(
        {
            path
            for path, tree in core().items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in names
            and (node.func.attr != "replace" or (len(node.args) == 1 and not node.keywords) or _is_os(node.func.value))
        }
    )


def _is_os(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "os"


def lines() -> int:
    """Lines of the product's Python files, templates and styles."""
    kinds = ("*.py", "*.html", "*.css", "*.js", "*.j2")
    paths = {p for part in PRODUCT for kind in kinds for p in (ROOT / part).rglob(kind)} | {ROOT / "service.py"}
    return sum(len(path.read_text().splitlines()) for path in paths)


# --- the table ---


def main() -> None:
    details = "--details" in sys.argv
    place = Path(tempfile.mkdtemp(prefix="surety-house-"))
    os.environ |= {
        "SURETY_HOME": str(place / "home"),
        "BENTOML_HOME": str(place / "bentoml"),
        "SURETY_MODEL_NAME": MODEL,
        "SURETY_LABEL_HORIZON_DAYS": "0",
        "SURETY_COVERAGE_ALARM_LABELS": "200",
        "BENTOML_DO_NOT_TRACK": "true",
    }
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    try:
        with redirect_stderr(io.StringIO()):  # the walks' log lines are written, since writing them is on the way
            model, request, label = model_path(place), request_path(), label_path()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    shapes, labelled = answer_shapes(), labelled_answers()
    rows: list[tuple[str, object, str, Collection[str]]] = [
        ("files a /predict passes (functions)", request.figure(), "<= 20 (<= 60)", request.files),
        ("files a label passes to an alarm in an answer", label.figure(), "<= 35", label.files),
        ("files a model passes from train to live", model.figure(), "<= 45", model.files),
        (f"files that name a stored field ({FIELD})", len(files_naming(FIELD)), "<= 5", files_naming(FIELD)),
        (f"files that name a gate rule ({GATE_RULE})", len(files_naming(GATE_RULE)), "2", files_naming(GATE_RULE)),
        ("public names defined in more than one file", len(names_twice()), "<= 10", _listed(names_twice())),
        ("module names that stand twice", len(modules_twice()), "0", _listed(modules_twice())),
        ("shapes of an answer", len(shapes), "<= 8", shapes),
        ("shapes of a labelled answer", len(labelled), "1", labelled),
        ("files that put a file in place whole", len(calling(WHOLE_FILE)), "1", calling(WHOLE_FILE)),
        ("files that lock a file", len(calling(LOCK)), "1", calling(LOCK)),
        ("product lines (ml_core, scripts, service.py)", lines(), "<= 34000", ()),
    ]
    for what, value, wanted, found in rows:
        print(f"{what:50} {value!s:>10}   wanted {wanted}")
        if details:
            print("".join(f"    {each}\n" for each in sorted(found)), end="")


def _listed(found: Mapping[str, list[str]]) -> list[str]:
    return [f"{name}: {', '.join(files)}" for name, files in found.items()]


if __name__ == "__main__":
    main()
