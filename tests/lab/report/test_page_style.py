"""The page's colours, by the contrast rule of WCAG 2.2 (1.4.3 and 1.4.11)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ml_core.lab.report import page
from ml_core.lab.report.svg import COLOURS

STYLE = (Path(page.__file__).parent / "report.css").read_text()
SCHEMES = dict(
    zip(
        ("light", "dark", "print"),
        (
            dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
            for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
        ),
        strict=True,
    )
)
WORDS = ("ink", "muted", "accent", "ok", "attention", "broken", "unknown")
GROUNDS = ("paper", "card", "ok-soft", "attention-soft", "broken-soft")


def luminance(colour):
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_is_that_of_the_rule():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_every_colour(scheme):
    assert set(WORDS) | set(GROUNDS) | set(COLOURS) | {"line"} == SCHEMES[scheme].keys()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_words_can_be_read_on_every_ground(scheme, word, ground):
    assert contrast(SCHEMES[scheme][word], SCHEMES[scheme][ground]) >= 4.5


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("mark", ["current", "alarm", "size-0", "size-1"])
def test_marks_can_be_told_from_the_paper(scheme, mark):
    assert contrast(SCHEMES[scheme][mark], SCHEMES[scheme]["paper"]) >= 3.0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_current_can_be_told_from_reference_and_one_label_from_two(scheme):
    colours = SCHEMES[scheme]
    assert contrast(colours["current"], colours["reference"]) >= 3.0
    assert contrast(colours["size-1"], colours["size-2"]) >= 2.5
