"""The units: systemd takes them, they may do little, and both work on one home as one user."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from tests.deploy.queries import DEPLOY, ROOT

FOLDER = DEPLOY / "systemd"
LASTING = ["surety.service", "surety-monitor.service"]
JOBS = {"surety-seal": "log seal", "surety-prune": "log prune --yes"}
UNITS = [*LASTING, *(f"{name}.service" for name in JOBS)]
HARDENING = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ReadWritePaths": "/var/lib/surety",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectControlGroups": "yes",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "SystemCallFilter": "@system-service",
}


def given(name: str) -> dict[str, str]:
    """What a unit says, by key; what is said more than once stands side by side."""
    found: dict[str, str] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (FOLDER / name).read_text(), re.MULTILINE):
        found[key] = f"{found[key]} {value}" if key in found else value
    return found


@pytest.mark.parametrize("name", [*UNITS, *(f"{name}.timer" for name in JOBS)])
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    for path in (*FOLDER.glob("*.service"), *FOLDER.glob("*.timer")):
        text = path.read_text()
        for program in re.findall(r"^ExecStart=/opt/surety/(\S+)", text, re.MULTILINE):
            (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
            if not (tmp_path / program).exists():
                (tmp_path / program).symlink_to("/bin/true")
        (tmp_path / path.name).write_text(text.replace("/opt/surety", str(tmp_path)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / name], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_unit_may_do_little(name: str) -> None:
    assert HARDENING.items() <= given(name).items()


@pytest.mark.parametrize("name", UNITS)
def test_units_share_user_and_home(name: str) -> None:
    service = given(name)
    assert (service["User"], service["Group"], service["StateDirectory"]) == ("surety", "surety", "surety")
    assert "SURETY_HOME=/var/lib/surety" in service["Environment"].split()
    assert service["UMask"] == "0077"
    assert re.search(r"^u surety ", (FOLDER / "sysusers.conf").read_text(), re.MULTILINE)
    named = re.findall(r"SURETY_(\w+)=", service["Environment"])
    assert {key.lower() for key in named} <= Settings.model_fields.keys()


def test_service_is_given_time_to_stop_and_stops_in_order() -> None:
    service = given("surety.service")
    assert int(service["TimeoutStopSec"]) == 40
    assert service["KillMode"] == "mixed"
    assert "--timeout-graceful-shutdown 10" in service["ExecStart"]


def test_monitor_needs_no_network() -> None:
    service = given("surety-monitor.service")
    assert service["PrivateNetwork"] == "yes"
    assert service["RestrictAddressFamilies"] == "AF_UNIX"


def test_monitors_command_exists() -> None:
    assert "surety monitor --every 5s" in given("surety-monitor.service")["ExecStart"]
    assert (ROOT / "scripts" / "monitor.py").is_file()


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_started_again(name: str) -> None:
    assert given(name)["Restart"] == "on-failure"


@pytest.mark.parametrize(("name", "words"), JOBS.items())
def test_seal_and_prune_run_every_night_and_are_made_up_for(name: str, words: str) -> None:
    assert given(f"{name}.service")["Type"] == "oneshot"
    assert given(f"{name}.service")["ExecStart"].endswith(f"/surety {words}")
    timer = given(f"{name}.timer")
    assert re.fullmatch(r"\*-\*-\* 0[12]:15:00 UTC", timer["OnCalendar"])
    assert (timer["Persistent"], timer["WantedBy"]) == ("yes", "timers.target")


def test_days_are_sealed_before_old_ones_are_removed() -> None:
    assert given("surety-seal.timer")["OnCalendar"] < given("surety-prune.timer")["OnCalendar"]
    assert "surety-seal.service" in given("surety-prune.service")["After"]
