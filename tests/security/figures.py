"""What the security tests found, in ``build/security/figures.json``."""

from __future__ import annotations

from tests.e2e.workplace import ROOT
from tests.figures import FigureBook

__all__ = ["FIGURES", "record"]

FIGURES = FigureBook(ROOT / "build" / "security" / "figures.json")
record = FIGURES.record
