"""The page at ``/``: whole by itself, under a policy that lets a browser fetch nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from ml_core.base.settings import Settings
from ml_core.serve.answering.inference import InferenceService
from ml_core.serve.http import landing_page
from ml_core.serve.http.api_keys import add_key
from ml_core.serve.http.landing_page import page_reply
from tests.lab.report.browser import BROWSER, FLAGS
from tests.serve.http.apis import http_api, listening
from tests.toy_models import toy_live, toy_model


@pytest.fixture(scope="module")
def page() -> str:
    return page_reply("").body.decode()


def policy() -> dict[str, str]:
    headers = dict(page_reply("").headers)
    parts = (part.strip().partition(" ") for part in headers[b"content-security-policy"].decode().split(";"))
    return {name: value for name, _, value in parts}


def test_nothing_in_it_comes_from_elsewhere(page: str) -> None:
    links = re.findall(r'(?:src|href|action|value)="([^"]*)"', page)
    assert set(links) == {"data:,", "/docs.json", "/status", "/metrics", "/health", "/readyz"}
    assert "://" not in page
    assert "@import" not in page
    assert "url(" not in page


def test_policy_allows_only_the_style_and_the_script_in_it(page: str) -> None:
    rules = policy()
    assert rules["default-src"] == "'none'"
    assert (rules["connect-src"], rules["form-action"], rules["base-uri"]) == ("'self'", "'none'", "'none'")
    assert rules["frame-ancestors"] == "'none'"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not re.search(r"\son[a-z]+=|\sstyle=|javascript:", page)


def test_links_follow_the_prefix() -> None:
    body = page_reply("/surety").body.decode()
    assert set(re.findall(r'(?:href|value)="(/[^"]*)"', body)) == {
        f"/surety/{name}" for name in ("docs.json", "status", "metrics", "health", "readyz")
    }


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("typed", ["its key", "no key"])
def test_a_key_that_is_typed_in_shows_what_it_opens(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a browser, under the policy, with the first button pressed by a line added to the script."""
    key = add_key(tmp_path / "keys.json", "operator", ["admin"])
    line = f'key.value = "{key if typed == "its key" else ""}"; document.querySelector("button").click();'
    monkeypatch.setattr(landing_page, "_SCRIPT", f"{landing_page._SCRIPT}{line}")
    settings = Settings(api_keys_file=tmp_path / "keys.json", home=tmp_path / "home")
    with listening(http_api(settings, InferenceService(toy_live()))) as port:
        places = (f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom")
        command = [str(BROWSER), *FLAGS, *places, f"http://127.0.0.1:{port}/"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    shown = done.stdout.partition('<pre id="shown"')[2]
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    if typed == "its key":
        assert toy_model().model_hash in shown
        assert complaints == []
    else:
        assert "401 Unauthorized" in shown
        assert not [line for line in complaints if "Content Security Policy" in line]
