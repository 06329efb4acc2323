"""The page at ``/``: whole by itself, under a policy that lets a browser fetch nothing else."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from ml_core.serve.http.landing_page import page_reply


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
