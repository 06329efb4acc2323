"""The workflows on GitHub run make targets and nothing else, with no more rights than reading, on pinned actions."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_core.cli.cmd_retrain import command as retrain
from tests.long_tests import LONG

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
# As texts: YAML 1.1 takes the key `on` for a truth.
WORKFLOWS: dict[str, Any] = {path.stem: yaml.load(path.read_text(), Loader=yaml.BaseLoader) for path in FILES}
JOBS = {f"{name}.{job}": told for name, workflow in WORKFLOWS.items() for job, told in workflow["jobs"].items()}
STEPS = {f"{job} {i}": step for job, told in JOBS.items() for i, step in enumerate(told["steps"])}
TARGETS = sorted({step["run"].removeprefix("make ") for step in STEPS.values() if "run" in step})
MAKEFILE = (ROOT / "Makefile").read_text()
CHEAP = ("schema",)
"""Targets of a few seconds, which are run here as a runner would; the others are run by CI as they are."""


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Make with the environment that the tests run in, which is taken as it is."""
    mine = [f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.installed"]
    return subprocess.run(["make", *mine, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_workflows_are_those_that_are_documented() -> None:
    assert list(WORKFLOWS) == ["cd", "ci", "ct", "nightly"]


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_step_is_one_make_target_or_one_pinned_action(step: dict[str, Any]) -> None:
    assert ("run" in step) != ("uses" in step)
    if "run" in step:
        assert re.fullmatch(r"make [a-z-]+", step["run"])  # so no input, and no secret, is ever part of a command
        assert "shell" not in step
    else:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_beside_a_pin_stands_its_version(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_an_action_is_pinned_to_one_commit_everywhere() -> None:
    pins = {step["uses"] for step in STEPS.values() if "uses" in step}
    assert len(pins) == len({pin.partition("@")[0] for pin in pins})


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_a_workflow_may_read_and_no_more(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & workflow["on"].keys()
    assert "env" not in workflow


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_runs_of_a_workflow_do_not_overlap(workflow: dict[str, Any]) -> None:
    assert workflow["concurrency"]["group"]
    assert workflow["concurrency"]["cancel-in-progress"] in {"false", "${{ github.event_name == 'pull_request' }}"}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_job_ends_and_keeps_no_credentials_of_the_checkout(job: dict[str, Any]) -> None:
    assert 0 < int(job["timeout-minutes"]) <= 540
    checkout, python = job["steps"][:2]
    assert checkout["uses"].startswith("actions/checkout@")
    assert checkout["with"] == {"persist-credentials": "false"}
    assert python["uses"].startswith("actions/setup-python@")


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_secrets_go_to_the_step_that_needs_them(job: dict[str, Any]) -> None:
    wide = {key: value for key, value in job.items() if key != "steps"}
    assert "secrets." not in str(wide)
    for step in job["steps"]:
        assert "secrets." not in str({key: value for key, value in step.items() if key != "env"})


def test_no_secret_reaches_a_change_from_outside() -> None:
    assert "secrets." not in str(WORKFLOWS["ci"])


def test_python_versions_are_those_that_the_package_names() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    found = re.findall(r"Python :: (3\.\d+)", "\n".join(named))
    assert WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]["python"] == found


def test_forcing_is_a_tick_that_reaches_the_command_by_the_environment() -> None:
    workflow = WORKFLOWS["ct"]
    assert workflow["on"]["workflow_dispatch"]["inputs"]["force_retrain"]["type"] == "boolean"
    assert "schedule" in workflow["on"]
    (step,) = [step for step in workflow["jobs"]["retrain"]["steps"] if step.get("run") == "make ct"]
    assert step["env"]["FORCE_RETRAIN"] == "${{ inputs.force_retrain || false }}"
    assert next(option.envvar for option in retrain.params if option.name == "force") == "FORCE_RETRAIN"


@pytest.mark.parametrize("target", TARGETS)
def test_target_exists_and_what_it_runs_is_here(target: str) -> None:
    assert re.search(rf"^{target}:.*## \S", MAKEFILE, re.MULTILINE), "no such target, or it does not say what it does"
    planned = make("-n", target)
    assert planned.returncode == 0, planned.stderr
    for module in re.findall(r"python -m ((?:ml_core|scripts|benchmarks|tests)[\w.]*)", planned.stdout):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for script in re.findall(r"deploy/[\w/.-]+\.sh", planned.stdout):
        assert (ROOT / script).is_file(), script
        assert (ROOT / script).stat().st_mode & 0o111, script
    for path in re.findall(r"pytest (tests/[\w/.]+)", planned.stdout):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("target", CHEAP)
def test_target_runs(target: str) -> None:
    assert target in TARGETS
    done = make(target)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_jobs_secrets_and_variables_are_documented() -> None:
    page = (ROOT / "docs" / "ci.md").read_text()
    for name in set(re.findall(r"(?:secrets|vars)\.(\w+)", str(WORKFLOWS))):
        assert f"`{name}`" in page, name
    for name, job in JOBS.items():
        (row,) = [line for line in page.splitlines() if f"| `{name}` |" in line]
        assert row.endswith(f"| {job['timeout-minutes']} |"), row


def test_every_test_of_a_change_is_in_one_of_the_parts() -> None:
    parts = [make("-n", part).stdout for part in ("test-processes", "test-cluster", "test-rooms")]
    named = [name for part in parts for name in re.findall(r"\btests/[\w/.]+", part)]
    assert len(named) == len(set(named))
    tests = ROOT / "tests"
    tops = {path.relative_to(tests).parts[0] for path in tests.rglob("test_*.py")} - {"statistical"}  # slow as a whole
    assert {Path(name).relative_to("tests").parts[0] for name in named} == tops


def test_what_quick_leaves_out_is_there() -> None:
    for file, names in LONG.items():
        text = (ROOT / "tests" / file).read_text()
        assert [name for name in names if f"def {name.partition('[')[0]}(" not in text] == [], file


def test_hooks_before_a_commit_are_make_targets_and_fetch_nothing() -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert re.search(rf"^{hook['entry'].removeprefix('make ')}:.*## ", MAKEFILE, re.MULTILINE), hook
