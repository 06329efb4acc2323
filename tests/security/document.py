"""Writes docs/security-figures.md from what the security tests found last: `python -m tests.security.document`."""

from __future__ import annotations

from tests.e2e.workplace import ROOT
from tests.security.figures import FIGURES

PAGE = ROOT / "docs" / "security-figures.md"

HEAD = """# Security, in figures

This page lists what the service refuses. Each row names the test that tries it with real files, processes and certificates, and the
figure of the last run. [Security](security.md) explains each line. `make security` writes this page.

"""


def main() -> None:
    PAGE.write_text(HEAD + FIGURES.table("subject"), encoding="utf-8")


if __name__ == "__main__":
    main()
