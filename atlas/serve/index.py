"""The page that lists the sites of several runs."""

import base64
import hashlib
import html
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from atlas.rundir.versions import SITE_FORMAT
from atlas.serve.site_files import REVALIDATE

_STYLE = """
:root { color-scheme: light dark; --ground: #f7f7f5; --ink: #1c1d1f; --soft: #5e6166; }
@media (prefers-color-scheme: dark) { :root { --ground: #111214; --ink: #eceded; --soft: #a2a6ab; } }
body { margin: 0; padding: 32px 24px; background: var(--ground); color: var(--ink);
  font: 15px/1.4 system-ui, sans-serif; }
h1 { margin: 0 0 24px; font-size: 20px; }
ul { display: flex; flex-wrap: wrap; gap: 24px; margin: 0; padding: 0; list-style: none; }
a { display: block; width: 160px; color: inherit; text-decoration: none; }
a:hover b, a:focus-visible b { text-decoration: underline; }
img { display: block; margin-bottom: 8px; }
b { display: block; }
span { color: var(--soft); font-size: 13px; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_INDEX_POLICY = f"default-src 'none'; img-src 'self'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="{icon}" type="image/svg+xml">
<title>Activation atlases</title>
<style>{style}</style>
</head>
<body>
<h1>Activation atlases</h1>
<ul>
{items}
</ul>
</body>
</html>
"""


def index_endpoint(sites: Mapping[str, Path]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint that answers with the page for ``sites``: the folder site/ of each run, by the run's name."""

    async def index(request: Request) -> Response:
        headers = {"cache-control": REVALIDATE, "content-security-policy": _INDEX_POLICY}
        return HTMLResponse(index_page(sites), headers=headers)

    return index


def index_page(sites: Mapping[str, Path]) -> str:
    """The page that lists several runs, each with a small picture of the layer that it opens on."""
    icon = f"{quote(next(iter(sites)))}/icon.svg"
    return _PAGE.format(
        style=_STYLE, icon=icon, items="\n".join(_index_item(name, site) for name, site in sites.items())
    )


def _index_item(name: str, site: Path) -> str:
    atlas = json.loads((site / "atlas.json").read_text())
    if atlas.get("format") != SITE_FORMAT:
        picture, what = "", "of another version; finish the run again"
    else:
        # A run at work may have maps of classes alone.
        layers = [layer for layer in atlas["layers"] if not layer["classes_shown"]] or atlas["layers"]
        layer = next((layer for layer in layers if layer["path"] == atlas.get("opening_map")), layers[len(layers) // 2])
        grid = min(grid["grid"] for grid in layer["grids"])
        level = (grid * atlas["icon_size"] - 1).bit_length() - 1
        address = f"{quote(name)}/{quote(layer['path'])}/grid-{grid:03d}/icons_files/{level}/0_0.webp"
        picture = f'<img src="{address}" alt="" width="160" height="160">'
        networks = " and ".join(network["name"] for network in atlas["networks"])
        what = f"{networks}, {len(layers)} layer{'s' if len(layers) != 1 else ''}"
        what += ", not all made yet" if "making" in atlas else ""
    return f'<li><a href="{quote(name)}/">{picture}<b>{html.escape(name)}</b> <span>{html.escape(what)}</span></a></li>'
