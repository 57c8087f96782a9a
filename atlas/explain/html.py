"""The small page beside an explanation's pictures: plain HTML, no script, nothing from outside."""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import quote

# Confidences below which a place is called unlike all data, and unlike most of it, as on the page.
_UNLIKE, _HARDLY = 0.05, 0.2

_STYLE = """
:root { color-scheme: light dark; --ground: #f7f7f5; --ink: #1c1d1f; --soft: #5a5d62; --line: rgb(0 0 0 / 12%);
  --support: #b34e00; --oppose: #1b6ca8; }
@media (prefers-color-scheme: dark) { :root { --ground: #111214; --ink: #ececea; --soft: #a5a9ae;
  --line: rgb(255 255 255 / 14%); --support: #f08a3c; --oppose: #6db3e8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 32px 24px 64px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { margin: 0 0 16px; font-size: 20px; }
h2 { margin: 48px 0 8px; padding-top: 16px; border-top: 1px solid var(--line); font-size: 17px; }
h3 { margin: 24px 0 8px; font-size: 15px; }
p { max-width: 68ch; margin: 0 0 12px; }
small, figcaption, td, th { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; }
td, th { padding: 2px 16px 2px 0; text-align: left; font-weight: 400; }
td:first-child { color: var(--ink); }
td.number { text-align: right; }
img { display: block; max-width: 100%; height: auto; }
figure { margin: 0; }
.side { display: flex; flex-wrap: wrap; gap: 24px; align-items: start; }
.pair { gap: 8px; }
.grid { width: min(100%, 720px); image-rendering: auto; }
.support { color: var(--support); }
.oppose { color: var(--oppose); }
.group { width: 232px; }
.group .pair { display: flex; gap: 4px; margin-bottom: 4px; }
.group .pair img { width: 114px; height: 114px; }
"""


def page(facts: dict[str, Any]) -> str:
    """index.html for ``facts``, which explain.json holds."""
    title = escape(f"{facts['title']}, explained")
    networks = "\n".join(_network(network) for network in facts["networks"])
    layers = "\n".join(_layer(layer) for layer in facts["layers"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{networks}
{layers}
<p><small>By the atlas {escape(facts["run"])}. All figures stand in <a href="explain.json">explain.json</a>.</small></p>
</body>
</html>
"""


def _network(network: dict[str, Any]) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(entry['name'])}</td><td class=number>{entry['probability']:.1%}</td>"
        f"<td class=number>{entry['logit']:.2f}</td></tr>"
        for entry in network["classes"]
    )
    picture = _picture(network["picture"], "What the network sees of the picture", 280)
    return f"""<section class="side">
<figure>{picture}
<figcaption>What {escape(network["name"])} sees: {network["size"]} × {network["size"]} pixels</figcaption></figure>
<table><tr><th>What it takes it for</th><th>probability</th><th>logit</th></tr>
{rows}</table>
</section>"""


def _layer(layer: dict[str, Any]) -> str:
    rows, cols = layer["rows"], layer["cols"]
    effects = "\n".join(_effect(entry) for entry in layer["classes"])
    groups = ""
    if "groups" in layer:
        figures = "\n".join(
            _group(group, number, layer["explained_share"]) for number, group in enumerate(layer["groups"], 1)
        )
        parts = "Positive and negative activations are taken apart for it. " if layer["split_by_sign"] else ""
        groups = f"""<h3>In {len(layer["groups"])} groups</h3>
<p>Positions that say the same, found by non-negative matrix factorisation. {parts}The groups hold
{layer["explained_share"]:.0%} of what the layer says (of the squares of its activations). The figures tell what the
logits of the likeliest classes lose (+), or gain (−), when the group is taken out.</p>
<div class="side">{figures}</div>"""
    return f"""<section>
<h2>{escape(layer["path"])}: {rows} × {cols} positions of {layer["channels"]} channels</h2>
<h3>What it sees at each position</h3>
<p>Each picture is drawn from what the layer says at that one position: what it would most like to see there. The
larger, the stronger it is.</p>
{_picture(layer["icons"], f"An icon for each position of {layer['path']}", None, "grid")}
<h3>What each position adds</h3>
<p><span class="support">Orange speaks for the class (+)</span>, <span class="oppose">blue against it (−)</span>: the
first-order attribution, h · ∂logit/∂h: the activation times the slope of the logit, an estimate of what the class
would lose without the position.</p>
<div class="side">{effects}</div>
<h3>Its place on the atlas</h3>
<p>{_places(layer)}</p>
{_picture(layer["place"], f"The positions as dots on the atlas of {layer['path']}", None, "grid")}
{groups}
</section>"""


def _effect(entry: dict[str, Any]) -> str:
    name = entry["name"]
    figures = [
        f"<figure>{_picture(entry['attribution'], f'What each position adds to {name}', 280)}"
        f"<figcaption>{escape(name)}: to first order</figcaption></figure>"
    ]
    if "removed" in entry:
        figures.append(
            f"<figure>{_picture(entry['removed'], f'What {name} loses without each position', 280)}"
            f"<figcaption>{escape(name)}: what it loses when the position is taken out</figcaption></figure>"
        )
    return f'<div class="side pair">{"".join(figures)}</div>'


def _places(layer: dict[str, Any]) -> str:
    confidences = [value for value in layer["confidence"] if value is not None]
    unlike = sum(value < _UNLIKE for value in confidences)
    hardly = sum(_UNLIKE <= value < _HARDLY for value in confidences)
    total = len(layer["confidence"])
    sentences = [f"Each dot is a position, laid where the activations lie that are most like it; there are {total}."]
    if unlike:
        sentences.append(f"Nothing like {unlike} of them was in the data.")
    if hardly:
        sentences.append(f"Little like {hardly} of them was.")
    if not unlike and not hardly:
        sentences.append("All of them are like what was in the data.")
    return " ".join(sentences)


def _group(group: dict[str, Any], number: int, explained_share: float) -> str:
    lines = [(entry, "support", "+") for entry in group["supports"][:3]]
    lines += [(entry, "oppose", "−") for entry in group["opposes"][:3]]
    effects = "<br>".join(
        f'<span class="{side}">{sign}{abs(entry["value"]):.2f}</span> {escape(entry["name"].split(",")[0])}'
        for entry, side, sign in lines
    )
    icon = _picture(group["icon"], f"What group {number} would like to see", 114) if "icon" in group else ""
    share = f"{group['share'] * explained_share:.0%} of what the layer says"
    return f"""<figure class="group">
<div class="pair">{_picture(group["picture"], f"Where group {number} is", 114)}{icon}</div>
<figcaption>Group {number}, {share}<br>{effects}</figcaption></figure>"""


def _picture(name: str, text: str, width: int | None, kind: str = "") -> str:
    size = f' width="{width}"' if width else ""
    return f'<img src="{quote(name)}" alt="{escape(text, quote=True)}"{size}{f" class={kind}" if kind else ""}>'
