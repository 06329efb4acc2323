from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_core.lab.report.svg import COLOURS, drawable, picture


def line(figure):
    axes = figure.subplots()
    axes.plot([0, 1, 2], [1, 3, 2], marker="o", color=COLOURS["current"])
    axes.set_xlabel("days")


def titled(text):
    return lambda figure: figure.subplots().set_title(drawable(text, 200))


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter("text")]


def test_same_drawing_is_the_same_text():
    assert picture("a", "a line", line) == picture("a", "a line", line)


def test_other_peoples_settings_change_no_picture_and_are_left_alone():
    expected = picture("a", "a line", line)
    with mpl.rc_context({"font.size": 30.0, "axes.grid": True, "svg.fonttype": "path", "timezone": "Asia/Tokyo"}):
        assert picture("a", "a line", line) == expected
        assert mpl.rcParams["font.size"] == 30.0


def test_picture_is_one_svg_element_that_scales_and_says_what_it_shows():
    root = ET.fromstring(picture("a", 'mean & "more"', line, width=5.0, height=2.0))
    assert root.tag == "svg"
    assert root.attrib["viewBox"] == "0 0 360 144"
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", 'mean & "more"')
    assert not {"width", "height"} & root.attrib.keys()


def test_letters_stay_letters():
    assert "days" in texts(picture("a", "", line))


def test_colours_are_the_pages():
    svg = picture("a", "", line)
    assert "var(--current)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)


def test_a_colour_the_page_does_not_have_is_refused():
    with pytest.raises(KeyError):
        picture("a", "", lambda figure: figure.subplots().plot([0, 1], color="#ff0000"))


def test_nothing_refers_to_anything_outside():
    svg = picture("a", "", line)
    assert "http" not in svg
    assert "xmlns" not in svg
    names = set(re.findall(r' id="([^"]+)"', svg))
    used = set(re.findall(r'href="#([^"]+)"', svg)) | set(re.findall(r"url\(#([^)]+)\)", svg))
    assert names == used != set()


def test_names_of_two_pictures_differ():
    names = [set(re.findall(r' id="([^"]+)"', picture(name, "", line))) for name in ("a", "b")]
    assert not names[0] & names[1]


def test_text_is_no_formula_and_no_element():
    svg = picture("a", "", titled("$x^2$ <script>alert(1)</script> &amp;"))
    assert texts(svg)[-1] == "$x^2$ <script>alert(1)</script> &amp;"
    assert "<script" not in svg


def test_letters_the_drawing_font_lacks_raise_no_warning(recwarn):
    assert "患者" in texts(picture("a", "", titled("患者")))
    assert not recwarn.list


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40))
def test_any_text_gives_a_picture_that_can_be_read(text):
    ET.fromstring(picture("a", text, titled(text)))


def test_long_and_broken_labels_are_cut_to_one_line():
    assert drawable("one\n two\tthree") == "one two three"
    assert drawable("x" * 30) == "x" * 21 + "…"
    assert drawable("a\x00b\ud800") == "a\ufffdb\ufffd"
