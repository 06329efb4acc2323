"""Headless Chromium for tests of pages: what a page becomes, what its console says, and how wide it is."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
)
MEASURE = """
<script>
for (const folded of document.querySelectorAll('details')) folded.open = true;
const letters = [...document.querySelectorAll('svg text')].filter((text) => text.getClientRects().length).map((text) => {
  const svg = text.closest('svg');
  return parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
});
parent.document.title = JSON.stringify({
  window: innerWidth, page: document.documentElement.scrollWidth,
  smallest: Math.min(...letters, 99), largest: Math.max(...letters, 0),
});
</script>
"""
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def opened_in(folder: Path, page: str, width: int) -> tuple[str, list[str]]:
    """Open a page in a window of that width; the document it became, and the console's lines."""
    assert BROWSER is not None
    file = folder / "opened.html"
    file.write_text(page, encoding="utf-8")
    places = (f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--dump-dom", file.as_uri())
    done = subprocess.run([BROWSER, *FLAGS, *places], capture_output=True, text=True, timeout=180, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def measured_in(folder: Path, page: str, width: int) -> tuple[dict[str, Any], list[str]]:
    """Lay a page out at that width, everything unfolded: the widths found and the sizes of letters, and the console.

    In a frame, because a window has a least width.
    """
    inner = html.escape(_POLICY.sub("", page).replace("</body>", f"{MEASURE}</body>"))
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{inner}"></iframe>'
    document, console = opened_in(folder, f"<!DOCTYPE html><title></title>{frame}", 1400)
    title = re.search(r"<title>(.*?)</title>", document, re.DOTALL)
    assert title is not None
    return json.loads(html.unescape(title[1])), console
