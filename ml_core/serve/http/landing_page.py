"""The page at ``/``: what runs here and where to look, without anything from elsewhere.

It needs no key, so it says nothing that needs one. A key that is typed into it stays in the page's memory: its script
sends it as a header to the same origin, and forgets it with the page.
"""

from __future__ import annotations

import base64
import hashlib

from ml_core.serve.http.replies import Header, Reply

__all__ = ["page_reply"]

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 46rem; margin: 3rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; }
nav { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1.5rem; margin: 1.5rem 0; }
code, pre { font: 14px/1.45 ui-monospace, monospace; }
form { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; }
input, button { font: inherit; padding: .25rem .6rem; }
input { flex: 1 1 14rem; }
pre { overflow: auto; max-height: 32rem; padding: .8rem; border: 1px solid #8886; border-radius: .3rem; }
pre:empty { display: none; }
"""

_SCRIPT = """
const key = document.getElementById("key");
const shown = document.getElementById("shown");
async function show(path) {
  const headers = key.value ? {authorization: "Bearer " + key.value.trim()} : {};
  try {
    const reply = await fetch(path, {headers, cache: "no-store"});
    const text = await reply.text();
    let body = text;
    try { body = JSON.stringify(JSON.parse(text), null, 2); } catch { /* metrics are no JSON */ }
    shown.textContent = (reply.ok ? "" : reply.status + " " + reply.statusText + "\\n") + body;
  } catch (error) {
    shown.textContent = String(error);
  }
}
document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  show(event.submitter ? event.submitter.value : "status");
});
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Surety</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<h1>Surety</h1>
<p>Prediction sets with a stated coverage per class, and the lineage of every answer.</p>
<nav aria-label="Routes">
<a href="{root}/docs.json">/docs.json</a><span>the OpenAPI document, with the columns of the served model</span>
<a href="{root}/status">/status</a><span>what is live, how it is doing, and why something is not</span>
<a href="{root}/metrics">/metrics</a><span>counters in Prometheus' text form</span>
<a href="{root}/health">/health</a><span>can it answer (no key)</span>
<a href="{root}/readyz">/readyz</a><span>can it take traffic (no key)</span>
</nav>
<p>Where keys are on, a link by itself answers 401. Show it here with a key of a role that may read it:</p>
<form>
<input id="key" type="password" autocomplete="off" placeholder="key, if one is needed" aria-label="Key">
<button value="{root}/status">Status</button>
<button value="{root}/docs.json">OpenAPI</button>
<button value="{root}/metrics">Metrics</button>
</form>
<pre id="shown" aria-live="polite"></pre>
<p>The handbook is the folder <code>docs/</code> of the source: <code>docs/http.md</code> for the routes,
<code>docs/runbook.md</code> for what to do when something is wrong.</p>
<script>{script}</script>
</body>
</html>
"""


def page_reply(root_path: str) -> Reply:
    """The page, with a policy under which a browser runs and fetches nothing but what is in it and what it asks for."""
    body = _PAGE.format(style=_STYLE, script=_SCRIPT, root=root_path)
    policy = (
        f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers: tuple[Header, ...] = (
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"x-frame-options", b"DENY"),
    )
    return Reply(200, body.encode(), b"text/html; charset=utf-8", headers)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
