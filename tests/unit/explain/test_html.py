"""The page beside an explanation: what it says of each figure, and that names cannot break it."""

import re
from typing import Any

import pytest

from atlas.explain.html import page


@pytest.fixture
def facts() -> dict[str, Any]:
    effect = {"class": 1, "name": "tabby", "attribution": "last/attribution-tabby.png"}
    group = {
        "picture": "last/group-1.png", "icon": "last/group-1-icon.png", "share": 0.5,
        "supports": [{"class": 1, "name": "tabby, tabby cat", "value": 1.234}],
        "opposes": [{"class": 2, "name": "lynx", "value": -0.5}],
    }  # fmt: skip
    layer = {
        "path": "last", "rows": 2, "cols": 3, "channels": 20, "classes": [effect], "icons": "last/icons.png",
        "place": "last/place.png", "confidence": [0.5, 0.9, 0.3, 0.2, 1.0, 0.4], "groups": [group],
        "explained_share": 0.8, "split_by_sign": False,
    }  # fmt: skip
    classes = [{"class": 1, "name": "tabby", "probability": 0.8761, "logit": 12.341}]
    network = {"name": "net", "size": 48, "picture": "picture.png", "classes": classes}
    return {"title": "cat.png", "run": "runs/x", "networks": [network], "layers": [layer]}


def text_of(facts: dict[str, Any]) -> str:
    """The words of the page, without its tags."""
    body = page(facts).partition("<body>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_figures_and_pictures_are_those_of_the_facts(facts: dict[str, Any]) -> None:
    text = text_of(facts)
    assert text.startswith("cat.png, explained")
    assert "tabby 87.6% 12.34" in text
    assert "What net sees: 48 × 48 pixels" in text
    assert "last: 2 × 3 positions of 20 channels" in text
    assert "The groups hold 80% of what the layer says" in text
    assert "Group 1, 40% of what the layer says +1.23 tabby −0.50 lynx" in text
    images = re.findall(r'src="([^"]+)"', page(facts))
    assert images == [
        "picture.png", "last/icons.png", "last/attribution-tabby.png", "last/place.png", "last/group-1.png",
        "last/group-1-icon.png",
    ]  # fmt: skip
    assert not re.findall(r"<script|https?://", page(facts)), "nothing from outside"


@pytest.mark.parametrize(
    ("confidence", "sentence"),
    [
        ([0.5, 0.9], "there are 2. All of them are like what was in the data."),
        ([0.01, 0.9, None], "there are 3. Nothing like 1 of them was in the data."),
        ([0.01, 0.1, 0.19, 0.2], "there are 4. Nothing like 1 of them was in the data. Little like 2 of them was."),
        ([0.05], "there are 1. Little like 1 of them was."),
    ],
)
def test_places_say_how_like_the_data_they_are(
    facts: dict[str, Any], confidence: list[float | None], sentence: str
) -> None:
    facts["layers"][0]["confidence"] = confidence
    assert sentence in text_of(facts)


def test_names_are_escaped(facts: dict[str, Any]) -> None:
    facts["title"] = "<b>&.png"
    facts["layers"][0]["classes"][0] |= {"name": 'a "quoted" <i>', "attribution": "last/a b&c.png"}
    html = page(facts)
    assert "<title>&lt;b&gt;&amp;.png, explained</title>" in html
    assert "<i>" not in html
    assert 'alt="What each position adds to a &quot;quoted&quot; &lt;i&gt;"' in html, "escaped once"
    assert 'src="last/a%20b%26c.png"' in html


def test_a_position_that_was_taken_out_has_its_picture(facts: dict[str, Any]) -> None:
    assert "what it loses when the position is taken out" not in text_of(facts)
    facts["layers"][0]["classes"][0]["removed"] = "last/without-each-tabby.png"
    assert "tabby: what it loses when the position is taken out" in text_of(facts)


def test_without_groups_there_is_nothing_of_them(facts: dict[str, Any]) -> None:
    facts["layers"][0]["split_by_sign"] = True
    assert "Positive and negative activations are taken apart for it." in text_of(facts)
    del facts["layers"][0]["groups"]
    assert "groups" not in text_of(facts)
