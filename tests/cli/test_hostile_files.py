"""Every option that takes a file is given files of every kind: one line, a status that means something, no cell told."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.hostile_files import ANY_KIND, CANARY, YAML, Maker, tables
from tests.cli.typing_surety import Told
from tests.lab.past_answers.scoring import cohort_records, written
from tests.security.figures import record
from tests.serve.answering.stored import Home
from tests.toy_models import NAME, toy_frame

CONFIG = f"model: {NAME}\nfeature_version: v1\nseed: 7\ndata: {{source: cohort.parquet}}\ntraining: {{rounds: 4}}\n"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
MUTATIONS = 12

OF_CONFIGS = [
    ("train", "--config", "{f}"),
    ("train", "--config", "{f}", "--dry-run"),
    ("features", "run", "--config", "{f}"),
    ("validate", "--config", "{f}"),
    ("promote", "--config", "{f}"),
    ("retrain", "--config", "{f}"),
    ("example", "--config", "{f}"),
    (
        "import-model",
        "--uri",
        "models:/x/1",
        "--model",
        NAME,
        "--feature-version",
        "v1",
        "--calibration",
        "good.csv",
        "--config",
        "{f}",
    ),
    ("drift", "check", "--reference", "good.csv", "--current", "good.csv", "--config", "{f}"),
]
OF_TABLES = [
    ("features", "run", "--config", "good.yaml", "--data", "{f}", "--dry-run"),
    ("features", "run", "--config", "good.yaml", "--data", "{f}", "--quarantine", "aside.csv"),
    ("validate", "--config", "good.yaml", "--data", "{f}"),
    (
        "import-model",
        "--uri",
        "models:/x/1",
        "--model",
        NAME,
        "--feature-version",
        "v1",
        "--config",
        "good.yaml",
        "--calibration",
        "{f}",
    ),
    ("drift", "check", "--reference", "{f}", "--current", "good.csv"),
    ("drift", "check", "--reference", "good.csv", "--current", "{f}"),
    ("drift", "check", "--reference", "good.csv", "--current", "{f}", "--config", "good.yaml"),
    ("drift", "check", "--reference", "{f}", "--current", "{f}"),
    ("labels", "import", "{f}"),
    ("labels", "import", "{f}", "--dry-run"),
    ("score", "{f}", "scored.parquet"),
    ("data", "fetch", "--path", "{f}", "--out", "fetched.parquet"),
]
OF_OTHERS = [
    (("keys", "list", "--file", "{f}"), ".json"),
    (("keys", "add", "ward", "--role", "predict", "--file", "{f}"), ".json"),
    (("keys", "revoke", "ward", "--file", "{f}"), ".json"),
    (("drift", "check", "--reference", "{f}", "--current", "good.csv"), ".npz"),
    (("score", "good.csv", "{f}"), ".parquet"),
    (("features", "run", "--config", "good.yaml", "--data", "bad.csv", "--quarantine", "{f}"), ".csv"),
    (("data", "make", "--rows", "50", "--out", "{f}"), ".parquet"),
    (("report", "--out", "{f}"), ".html"),
    (("report", "--json", "{f}"), ".json"),
    (("retrain", "--config", "good.yaml", "--summary", "{f}", "--dry-run"), ".md"),
]


@pytest.fixture
def typed(home: Home, run: Callable[..., Told], tmp_path: Path) -> Iterator[Callable[..., Told]]:
    """Types a command in a folder with a good configuration and good tables, before a home with a live model."""
    (tmp_path / "good.yaml").write_text(CONFIG)
    written(tmp_path / "good.csv", cohort_records(100))
    (tmp_path / "bad.csv").write_text((tmp_path / "good.csv").read_text().replace("\n", ",x\n", 1))
    return run


def cases(
    kinds: dict[str, tuple[str, Maker]], verbs: list[tuple[str, ...]]
) -> Iterator[tuple[str, Path, tuple[str, ...]]]:
    for verb in verbs:
        for number, (kind, (suffix, make)) in enumerate(kinds.items()):
            path = Path(f"case-{number}{suffix}")
            clear(path)
            make(path)
            yield kind, path, tuple(word.replace("{f}", str(path)) for word in verb)
            clear(path)


def clear(path: Path) -> None:
    for file in (path, path.with_name(f"other-{path.name}"), Path("scored.parquet"), Path("aside.csv")):
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink(missing_ok=True)


def faults(told: Told) -> list[str]:
    """What is wrong with what a command said."""
    everything, lines = told.out + told.err, told.err.splitlines()
    is_usage = told.err.startswith("Usage:")
    return [
        fault
        for fault, holds in {
            f"status {told.code}": told.code not in {0, 1, 2, 3, 4},
            "a traceback": "Traceback" in everything,
            "an unforeseen fault": "internal fault" in everything,
            "raw control characters": RAW.search(everything) is not None,
            "a cell": CANARY in everything,
            "no line that says why": told.code == 1 and not (lines and lines[-1].startswith("surety: ")),
            "more than a line that says why": told.code == 1
            and not is_usage
            and sum(line.startswith("surety: ") for line in lines) > 1,
            "a line without end": max(map(len, lines), default=0) > 2_100,
        }.items()
        if holds
    ]


def tried(typed: Callable[..., Told], found: Iterator[tuple[str, Path, tuple[str, ...]]]) -> tuple[int, list[str]]:
    n, wrong = 0, []
    for kind, _, words in found:
        told = typed(*words)
        n += 1
        wrong += [f"{' '.join(words)} ({kind}): {fault}: {told.err[-300:]!r}" for fault in faults(told)]
    return n, wrong


def test_no_configuration_stops_a_command_without_a_word(typed):
    kinds = {kind: (".yaml", make) for kind, make in {**ANY_KIND, **YAML}.items()}
    n, wrong = tried(typed, cases(kinds, OF_CONFIGS))
    record("hostile configurations", "one line and a status, no traceback, no raw control character",
           {"verbs": len(OF_CONFIGS), "cases": n, "wrong": len(wrong)})  # fmt: skip
    assert wrong == []


def test_no_table_stops_a_command_without_a_word_and_no_cell_is_told(typed):
    kinds = {f"{kind}, {suffix}": (suffix, make) for kind, make in ANY_KIND.items() for suffix in (".csv", ".parquet")}
    kinds |= tables(toy_frame().head(60), MUTATIONS)
    n, wrong = tried(typed, cases(kinds, OF_TABLES))
    record("hostile tables", "one line and a status, no traceback, no raw control character, no cell",
           {"verbs": len(OF_TABLES), "cases": n, "wrong": len(wrong)})  # fmt: skip
    assert wrong == []


def test_no_other_file_stops_a_command_without_a_word(typed):
    n, wrong = 0, []
    for verb, suffix in OF_OTHERS:
        more, also = tried(typed, cases({kind: (suffix, make) for kind, make in ANY_KIND.items()}, [verb]))
        n, wrong = n + more, wrong + also
    record("hostile files of other kinds", "one line and a status, no traceback, no raw control character",
           {"verbs": len(OF_OTHERS), "cases": n, "wrong": len(wrong)})  # fmt: skip
    assert wrong == []


ADDRESSES = [
    "nonsense", "localhost:5000", "htp://host", "http://", "https://", "http://[::1", "http://host:port", "http://:0",
    "https://127.0.0.1:1", "http://127.0.0.1:9", "https://nowhere.invalid", f"http://{'a' * 300}.invalid", "http://\x1b[31m",
    "sqlite:", "sqlite://", "sqlite:////no/such/folder/mlflow.db", "postgresql://u:CANARY-cell@127.0.0.1:1/x", "mysql://x", "file:///no/such",
    "databricks", "databricks://x", "uc:x", "::::", "/etc/passwd", "http://user:CANARY-cell@127.0.0.1:1/", "\u202ehttp://x", "a" * 5_000, " ",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES, ids=range(len(ADDRESSES)))
def test_no_address_of_a_registry_stops_a_command_without_a_word(typed, monkeypatch, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    before = set(Path().iterdir())
    for words in (("models", "list"), ("validate", "--config", "good.yaml"), ("import-model",), ("status",)):
        told = typed(*words)
        assert faults(told) == [], (words, told.err)
    assert set(Path().iterdir()) == before  # no folder was made of it


@pytest.mark.parametrize(
    "words",
    [
        ("no\x1b[31msuch",), ("score", "--no\x1bsuch"),
        ("audit", "\x1b[2J"), ("rollout", "shadow", "--tag", "\u202e\x1b]0;x\x07"), ("models", "card", "--model", "\x1b[1m"),
        ("status", "--model", "\x1b[31m"), ("status", "--model", "a\nb"), ("status", "--model", "../../etc"), ("log", "show", "--model", "a/b\x9b"),
        ("replay", "--since", "\x1b"), ("score", "\udcff.csv", "x.csv"), ("import-model", "--uri", "models:/\x1b[31m/1"),
        ("validate", "--config", "good.yaml", "--version", "\x1b"), ("validate", "--config", "good.yaml", "--alias", "\x1b'; drop"),
        ("keys", "add", "\x1b[31m", "--role", "predict", "--file", "k.json"), ("alarms", "acknowledge", "\x1b[31m", "--why", "\x1b"),
        ("log", "erase-subject", "\x1b[31m\udcff"), ("data", "make", "--out", "\x1b[31m.txt"),
    ],
)  # fmt: skip
def test_no_argument_is_printed_as_the_terminal_would_obey_it(typed, words):
    told = typed(*words)
    assert faults(told) == []


@pytest.mark.parametrize("form", ["json", "table"])
def test_hostile_names_in_stores_are_printed_as_text(home, typed, capsys, form):
    from ml_core.base.journal import Journal
    from ml_core.cli.output import emit, note

    hostile = "\x1b[31mred\x07\x9b2J\u202e[/bold][link=x]\x7f"
    Journal(home.settings.journal).append(hostile, {"why": hostile, "model": NAME})
    for words in (("rollout", "show"), ("status",), ("report",), ("log", "show")):
        assert faults(typed(*words, "--output", form) if words != ("report",) else typed(*words)) == []
    capsys.readouterr()
    emit({hostile: hostile, "rows": [{hostile: hostile}], "list": [hostile]}, form)
    emit([{hostile: hostile}], form)
    note(hostile)
    said = capsys.readouterr()
    assert RAW.search(said.out + said.err) is None
    assert "red" in said.out
    assert "[/bold]" in said.out + said.err


HOSTILE = "\x1b[31mred\x07\x9b2J\u202e[/bold]\n\x7f" * 20


def test_a_hostile_registry_is_told_in_one_line(tmp_path, run, monkeypatch):
    """Tags, descriptions and MLmodel files are what somebody else wrote."""
    from tests.homes import MODEL, registered_home

    place = registered_home(tmp_path / "registered")
    monkeypatch.setenv("SURETY_HOME", str(place.settings.home))
    (tmp_path / "good.yaml").write_text(CONFIG.replace(NAME, MODEL))
    tags = ("model_hash", "feature_version", "data", "code_commit", "delta_version", "gate", "bento_tag", "stage")
    with place.registry.session("hostile") as mlflow:
        client = mlflow.MlflowClient()
        for tag in tags:
            client.set_model_version_tag(MODEL, "1", tag, HOSTILE)
        client.update_model_version(MODEL, "1", description=HOSTILE)
        client.set_registered_model_tag(MODEL, "hostile", HOSTILE)
    n, wrong = 0, []
    model_files = list((place.settings.home / "mlartifacts").rglob("MLmodel"))
    kinds = {**YAML, **{kind: make for kind, make in ANY_KIND.items() if kind not in {"a folder", "absent"}}}
    assert model_files
    for kind in (None, *kinds):
        for file in model_files:
            if kind is not None:
                clear(file)
                kinds[kind](file)
        for words in REGISTRY_VERBS if kind is None else REGISTRY_VERBS[-2:]:
            told = run(*words)
            n += 1
            wrong += [f"{' '.join(words)} ({kind}): {fault}: {told.err[-300:]!r}" for fault in faults(told)]
    record("hostile tags and MLmodel files", "one line and a status, no traceback, no raw control character",
           {"verbs": len(REGISTRY_VERBS), "cases": n, "wrong": len(wrong)})  # fmt: skip
    assert wrong == []


REGISTRY_VERBS = [
    ("models", "list", "--model", "readmission_risk", "--output", "table"),
    ("models", "list", "--model", "readmission_risk", "--output", "json"),
    ("models", "card", "--model", "readmission_risk"),
    ("status", "--model", "readmission_risk"),
    ("validate", "--config", "good.yaml"),
    ("promote", "--config", "good.yaml"),
    ("import-model", "--model", "readmission_risk", "--version", "1"),
    ("import-model", "--uri", "models:/readmission_risk/1", "--model", "adopted", "--feature-version", "v1",
     "--calibration", "good.csv"),
]  # fmt: skip


def test_a_fault_of_the_software_is_one_line_too(typed, monkeypatch):
    import ml_core.cli.cmd_status as verb

    def broken(*_args: object, **_more: object) -> None:
        raise ZeroDivisionError(CANARY)

    monkeypatch.setattr(verb.command, "callback", broken)
    told = typed("status")
    assert (told.code, CANARY in told.err, "Traceback" in told.err) == (1, False, False)
    assert re.fullmatch(r"surety: internal fault: ZeroDivisionError at \S+:\d+; SURETY_LOG_LEVEL=DEBUG .*\n", told.err)


def test_a_level_that_is_none_is_wrong_usage(typed, monkeypatch):
    monkeypatch.setenv("SURETY_LOG_LEVEL", "\x1b[31m")
    told = typed("status")
    assert (told.code, faults(told)) == (2, [])
