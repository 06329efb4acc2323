"""Writes docs/security-figures.md from what the security tests found last: `python -m tests.security.document`."""

from __future__ import annotations

from tests.e2e.workplace import ROOT
from tests.security.figures import FIGURES

PAGE = ROOT / "docs" / "security-figures.md"

HEAD = """# Security, in figures

What the service refuses, the test that tries it with real files, processes and certificates, and the figure it gave last. What is
behind each line is told in [security](security.md). The page is written by `make security` from the last run.

"""


def main() -> None:
    PAGE.write_text(HEAD + FIGURES.table("subject"), encoding="utf-8")


if __name__ == "__main__":
    main()
