"""From a drawing by matplotlib to a small piece of SVG inside a page, in the page's own colours and letters.

The same drawing always gives the same text: no dates, no random names. Nothing in it refers to anything outside it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any, Final
from xml.etree import ElementTree as ET

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

__all__ = ["COLOURS", "picture", "drawable"]

COLOURS: Final = {
    "ink": "#000001",
    "muted": "#000002",
    "grid": "#000003",
    "reference": "#000004",
    "current": "#000005",
    "alarm": "#000006",
    "size-0": "#000007",
    "size-1": "#000008",
    "size-2": "#000009",
    "size-3": "#00000a",
}
"""The page's colours by name, with the colour that matplotlib draws in place of each."""

_VARIABLES = {stand_in: f"var(--{name})" for name, stand_in in COLOURS.items()}

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # letters stay letters: small, searchable, read aloud, in the page's font
    "svg.hashsalt": "surety",
    "text.parse_math": False,  # a level called "$5" is no formula
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "text.color": COLOURS["muted"],
    "axes.labelcolor": COLOURS["muted"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "axes.edgecolor": COLOURS["grid"],
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "ytick.left": False,
    "xtick.major.size": 3.0,
    "xtick.major.width": 0.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.4,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"^(?:url\()?#([^)]+)\)?$")
_HEX = re.compile(r"#[0-9a-f]{6}")
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def picture(name: str, says: str, draw: Callable[[Figure], None], width: float = 4.6, height: float = 2.0) -> Markup:
    """An ``<svg>`` element that scales with its place.

    Parameters
    ----------
    name : distinguishes what is named inside it from other pictures of the page
    says : the picture in words, for those who cannot see it
    draw : draws into an empty figure
    width, height : inches; 72 units of the picture, and letters are 10 units high
    """
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever this machine's own matplotlibrc says
        mpl.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message=r"Glyph \d+")  # letters are drawn by the browser, not from this font
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        raw = io.StringIO()
        figure.savefig(raw, format="svg", metadata=_NO_METADATA)
    root = ET.fromstring(raw.getvalue())  # noqa: S314  matplotlib has just written it
    return Markup(ET.tostring(_tidied(root, name, says), encoding="unicode"))  # noqa: S704  serialised, so escaped


def drawable(text: str, longest: int = 22) -> str:
    """The text as a label: on one line, without what XML cannot hold, and cut where it is too long."""
    clean = _NOT_XML.sub("\ufffd", " ".join(text.split()))
    return clean if len(clean) <= longest else f"{clean[: longest - 1]}…"


def _tidied(root: ET.Element, name: str, says: str) -> ET.Element:
    found = [_REFERENCE.match(value) for element in root.iter() for value in element.attrib.values()]
    used = dict.fromkeys(reference[1] for reference in found if reference)  # in the order of their coming
    names = {old: f"{name}-{n}" for n, old in enumerate(used)}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        element.tail = None
        if element.tag != "text":
            element.text = None
        _name(element, names)
        _restyle(element)
    _unwrap(root)
    longest = 1.45 * float(root.attrib["viewBox"].split()[2])  # letters of at most 14.5 px
    root.attrib = {
        "style": f"max-width:{longest:.0f}px",
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": _NOT_XML.sub("\ufffd", says),
    }
    return root


def _name(element: ET.Element, names: dict[str, str]) -> None:
    """Keep only names that are referred to, made unlike those of other pictures."""
    identity = element.attrib.pop("id", None)
    if identity in names:
        element.attrib["id"] = names[identity]
    for key in ("href", "clip-path"):
        found = _REFERENCE.match(element.attrib.get(key, ""))
        if found:
            element.attrib[key] = element.attrib[key].replace(found[1], names[found[1]])


def _restyle(element: ET.Element) -> None:
    """The page's colours and font, and coordinates to a tenth of a unit."""
    style = [part.partition(":")[::2] for part in element.attrib.pop("style", "").split(";") if part.strip()]
    kept = [
        f"{key.strip()}:{_HEX.sub(_page_colour, value.strip())}" for key, value in style if "font-family" not in key
    ]
    if kept:
        element.attrib["style"] = ";".join(kept)
    if element.attrib.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    for key in ("d", "x", "y", "width", "height", "transform"):
        if key in element.attrib:
            element.attrib[key] = " ".join(_NUMBER.sub(_short, element.attrib[key]).split())


def _unwrap(element: ET.Element) -> None:
    """Put the children of groups that say nothing in their place, and drop what draws nothing."""
    children: list[ET.Element] = []
    for child in element:
        _unwrap(child)
        if child.tag == "g" and not child.attrib:
            children += list(child)
        elif (
            child.tag not in {"metadata", "style"} and child.attrib.get("style") != "fill:none" and not _is_bare(child)
        ):
            children.append(child)
    element[:] = children


def _is_bare(element: ET.Element) -> bool:
    return element.tag in {"g", "defs"} and not len(element)


def _page_colour(found: re.Match[str]) -> str:
    return _VARIABLES[found[0]]


def _short(found: re.Match[str]) -> str:
    text = f"{float(found[0]):.1f}".removesuffix(".0")
    return "0" if text == "-0" else text
