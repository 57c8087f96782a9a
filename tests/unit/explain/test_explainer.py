"""One image: what is found of it, against the same worked out another way."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from explained import encoded, photo
from PIL import Image

from atlas.errors import AtlasError, ConfigError
from atlas.explain.effects import first_order, without_each, without_groups
from atlas.explain.explainer import Explainer, Picture
from atlas.explain.export.overlays import OPPOSE, SUPPORT, dotted, icon_grid, masked, overlay
from atlas.explain.groups import factorise
from atlas.explain.icons import Cancelled, draw_each
from atlas.explain.square import read_square
from atlas.networks.hooks import hooked
from atlas.networks.network import Network, load
from atlas.networks.tail import Tail
from atlas.rundir.directory import RunDirectory


@pytest.fixture(scope="session")
def picture(explainer: Explainer) -> Picture:
    return explainer.look(encoded(photo(1)))


# The picture


def test_the_square_is_the_centre_upright_and_over_white() -> None:
    pixels = photo(2, 40, 100)
    square = read_square(encoded(pixels), [40])
    assert (square.width, square.height, square.box) == (100, 40, (30, 0, 70, 40))
    np.testing.assert_array_equal(square.views[40], pixels[:, 30:70])
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_square(encoded(pixels, exif=exif), [40, 20])
    assert (turned.width, turned.height, turned.box) == (40, 100, (0, 30, 40, 70))
    np.testing.assert_array_equal(turned.views[40], np.rot90(pixels, -1)[30:70])
    assert turned.views[20].shape == (20, 20, 3)
    clear = np.dstack([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)])
    assert (read_square(encoded(clear), [32]).views[32] == 255).all()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "photo is empty; give the file of a picture."),
        (b"hello, I am a text", "photo is no picture in a known format; give JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF."),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "photo is a video (MP4 or QuickTime); give one frame of it as a"),
        (b"\x1aE\xdf\xa3\x01\0\0\0", "photo is a video (Matroska or WebM); give one frame"),
        (b"RIFF\x24\0\0\0AVI LIST", "photo is a video (AVI); give one frame"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "photo is a HEIC picture; save it as JPEG or PNG."),
        (b"%PDF-1.7 ", "photo is a PDF; save the picture in it as JPEG or PNG."),
        (encoded(photo(0, 60, 60))[:200], "photo cannot be read ("),
        (encoded(photo(0, 80, 80)), "photo has 6,400 pixels, and at most 5,000 are taken. Give it smaller"),
    ],
)
def test_what_is_no_picture_is_told_in_a_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_square(data, [32], name="photo", most=5000)
    assert str(raised.value).startswith(sentence)


# Effects


@pytest.mark.parametrize("layer", ["residual", "depthwise.spread", "branches", "branches.wide"])
@pytest.mark.parametrize("factory", ["factory", "forking_factory"])
def test_effects_are_those_of_the_plain_network(factory: str, layer: str) -> None:
    network = load(f"small_network:{factory}", size=32, keep=(layer,), device="cpu")
    inputs = network.from_bytes(torch.from_numpy(photo(3, 32, 32)[None].copy()))
    given = inputs.clone().requires_grad_(True)
    seen: list[torch.Tensor] = []
    with hooked(network.submodule(layer), lambda output: (seen.append(output), output.clone())[1]):
        logits = network.module(given)
    maps = seen[0]
    found = first_order(network, [layer], inputs, [4, 1])[layer]
    for row, number in enumerate((4, 1)):
        (gradient,) = torch.autograd.grad(logits[0, number], maps, retain_graph=True)
        np.testing.assert_allclose(found[row], (maps * gradient)[0].sum(0).detach(), rtol=1e-4, atol=1e-6)
    maps, logits = maps.detach(), logits.detach()
    tail = Tail(network, layer, inputs.shape)
    assert (tail._program is None) == (factory == "forking_factory")
    lost = np.concatenate(list(without_each(tail, inputs, maps[0], logits[0], [4, 1])), axis=1)
    height, width = maps.shape[2:]
    assert lost.shape == (2, height * width)
    assert np.abs(lost).max() > 0.01
    for position in (0, width + 2, height * width - 1):
        changed = maps.clone()
        changed[0, :, position // width, position % width] = 0
        with torch.no_grad(), hooked(network.submodule(layer), lambda _, changed=changed: changed):
            rest = network.module(inputs)
        np.testing.assert_allclose(lost[:, position], (logits - rest)[0, [4, 1]], rtol=1e-3, atol=1e-5)
    groups = factorise(maps[0].numpy(), 3)
    found = without_groups(tail, inputs, maps[0], logits[0], groups)
    part = torch.from_numpy(groups.directions[2, :, None, None] * groups.masks[2])
    with torch.no_grad(), hooked(network.submodule(layer), lambda _: maps - part):
        np.testing.assert_allclose(found[2], (logits - network.module(inputs))[0], rtol=1e-3, atol=1e-5)


def test_the_tail_costs_less_than_the_whole(efficientnet: Network) -> None:
    """What comes before the layer is run once: most steps of the list stand before a late layer."""
    tail = Tail(efficientnet, "_blocks.10", torch.Size((1, 3, 64, 64)))
    assert tail._program is not None
    assert len(tail._program._behind) < 0.45 * len(tail._program._nodes)


# Groups


@pytest.mark.parametrize("signed", [False, True])
def test_planted_groups_are_found(signed: bool) -> None:
    generator = np.random.default_rng(0)
    masks = np.zeros((3, 8, 8), np.float32)
    masks[0, :4, :5], masks[1, 4:, :3], masks[2, 5:, 4:] = 1, 0.5, 0.8
    directions = generator.random((3, 20)).astype(np.float32)
    directions[np.arange(20) % 3 != np.arange(3)[:, None]] = 0  # each has channels of its own
    if signed:
        directions[:, ::2] *= -1
    groups = factorise(np.einsum("khw,kc->chw", masks, directions), 3)
    assert groups.explained > 0.999
    assert groups.signed is signed
    assert groups.shares.tolist() == sorted(groups.shares, reverse=True)
    assert groups.shares.sum() == pytest.approx(1)
    unit = groups.directions / np.linalg.norm(groups.directions, axis=1, keepdims=True)
    cosine = unit @ (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    assert cosine.max(1) == pytest.approx(np.ones(3), abs=1e-3)
    for mask, which in zip(groups.masks, cosine.argmax(1)):
        np.testing.assert_allclose(mask, masks[which] / masks[which].max(), atol=1e-2)
    again = factorise(np.einsum("khw,kc->chw", masks, directions), 3)
    np.testing.assert_array_equal(groups.masks, again.masks)


def test_groups_that_cannot_be_are_told() -> None:
    maps = np.ones((4, 2, 2), np.float32)
    with pytest.raises(ConfigError, match="11 groups were asked for, expected 2 to 10"):
        factorise(maps, 11)
    with pytest.raises(ConfigError, match="5 groups were asked for, but the layer has 4 positions of 4 channels"):
        factorise(maps, 5)
    with pytest.raises(ConfigError, match="answers this picture with zeros alone"):
        factorise(0 * maps, 2)


# Icons


def test_icons_come_in_order_and_end_when_nobody_waits(small: Network) -> None:
    noise = torch.from_numpy(photo(5, 32, 32)[None].copy())
    with torch.no_grad():
        maps = small.activations(small.from_bytes(noise), "branches")[0]
    directions = maps.flatten(1).T[:30].numpy().copy()
    directions[4] = 0
    order = np.random.default_rng(2).permutation(30).tolist()
    asked = {"second_moment": np.eye(16), "size": 32, "steps": 24}
    drawn = list(draw_each(small, "branches", directions, order, **asked))
    assert [each.number for each in drawn] == [each for each in order if each != 4]
    assert all(each.pixels.shape == (32, 32, 3) for each in drawn)
    assert np.median([each.cosine for each in drawn]) > 0.8
    looked = 0

    def cancelled() -> bool:
        nonlocal looked
        looked += 1
        return looked > 3

    some = draw_each(small, "branches", directions, order, **asked, cancelled=cancelled)
    with pytest.raises(Cancelled):
        list(some)
    assert looked == 4  # not one batch more


# A run's explainer


def test_the_summary_holds_together(explainer: Explainer, picture: Picture) -> None:
    facts = picture.summary()
    assert facts["picture"] == {"width": 96, "height": 64, "box": [16, 0, 80, 64]}
    (network,) = facts["networks"]
    logits = picture.logits()
    order = np.argsort(-logits)
    assert [each["class"] for each in network["classes"]] == order.tolist()
    assert sum(each["probability"] for each in network["classes"]) == pytest.approx(1, abs=1e-4)
    assert [layer["path"] for layer in facts["layers"]] == ["middle", "last"]
    for layer in facts["layers"]:
        maps = picture.maps(layer["path"])
        assert maps.shape == (layer["channels"], layer["rows"], layer["cols"])
        norms = np.linalg.norm(maps, axis=0).reshape(-1)
        assert layer["magnitude"] == pytest.approx(norms / norms.max(), rel=1e-3)
        placed = explainer.run.place(layer["path"], maps.reshape(len(maps), -1).T)
        known = [index for index, u in enumerate(layer["u"]) if u is not None]
        assert len(known) > 10
        assert [layer["u"][index] for index in known] == pytest.approx(placed.u[known], abs=1e-4)
        assert all(0 <= layer["confidence"][index] <= 1 for index in known)
        for index in known:
            if layer["cell"][index] is not None:
                grid, row, col = layer["cell"][index]
                assert (row, col) == (int(layer["v"][index] * grid), int(layer["u"][index] * grid))
        assert set(layer["attribution"]) == {str(each) for each in order[:5]}
        best = str(order[0])
        expected = picture.attribution([int(best)])[int(best)][layer["path"]].reshape(-1)
        assert layer["attribution"][best] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    json.dumps(facts, allow_nan=False)


def test_the_attributions_are_those_of_the_store(explainer: Explainer, workshop: Path) -> None:
    """A picture that is one of the run's views, whole, gives what the store holds of it."""
    store = explainer.run.store("middle")
    row = store.take([5], ["image", "box", "y", "x", "activation", "attribution"])
    source = np.asarray(Image.open(workshop / "pictures" / str(row["image"][0])).convert("RGB"))
    x0, y0, x1, y1 = (int(side) for side in row["box"][0])
    picture = explainer.look(encoded(source[y0:y1, x0:x1]))
    y, x = int(row["y"][0]), int(row["x"][0])
    np.testing.assert_allclose(picture.maps("middle")[:, y, x], row["activation"][0], rtol=2e-2, atol=2e-2)
    classes = range(store.classes and len(store.classes))
    found = picture.attribution(list(classes))
    effects = [found[number]["middle"][y, x] for number in classes]
    np.testing.assert_allclose(effects, row["attribution"][0].astype(np.float32), rtol=3e-2, atol=3e-3)


def test_groups_tell_what_the_best_classes_lose(explainer: Explainer, picture: Picture) -> None:
    groups, effects = picture.groups("last", 3)
    facts = picture.group_facts("last", groups, effects)
    best = {each["class"] for each in picture.top_classes()}
    assert facts == picture.group_facts("last", groups, effects, [next(iter(best))])
    for number, group in enumerate(facts["groups"]):
        assert len(group["mask"]) == groups.masks[0].size
        values = [each["value"] for each in group["supports"]]
        assert values == sorted(values, reverse=True)
        for each in group["supports"] + group["opposes"]:
            assert each["class"] in best
            assert each["value"] == pytest.approx(effects[number, each["class"]], rel=1e-3)
        assert all(each["value"] < 0 for each in group["opposes"])


def test_channels_are_drawn_and_wrong_ones_told(explainer: Explainer) -> None:
    drawn = list(explainer.draw_channels("", "stem", [7, 2]))
    assert [each.number for each in drawn] == [7, 2]
    assert np.std(drawn[0].pixels) > 5
    with pytest.raises(ConfigError, match=r"Layer 'stem' of .* has no channel 12: it has 12, counted from 0"):
        next(explainer.draw_channels("", "stem", [12]))
    with pytest.raises(ConfigError, match="gives no map of activations"):
        next(explainer.draw_channels("", "head", [1]))


def test_classes_and_layers_are_found_by_name(explainer: Explainer) -> None:
    assert explainer.class_of("class 3") == 3
    assert explainer.class_of("4") == 4
    with pytest.raises(ConfigError, match="has no class 9: it has 7, counted from 0"):
        explainer.class_of("9")
    with pytest.raises(ConfigError, match=r"The network has no class 'klass 3' .* Near names: class 3"):
        explainer.class_of("klass 3")
    with pytest.raises(ConfigError, match="The run has no layer 'stem'; it has middle, last"):
        explainer.layer("stem")


def test_a_network_that_has_changed_is_refused(tiny: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {**tiny.network_facts(), "sha256": "0" * 64}
    monkeypatch.setattr(RunDirectory, "network_facts", lambda *_: facts)
    with pytest.raises(AtlasError, match="has other weights now than when the run was made"):
        Explainer(tiny.path)


# Sheets


def test_sheets_show_what_the_numbers_say() -> None:
    view = np.full((32, 32, 3), 128, np.uint8)
    effects = np.array([[2.0, -1.0], [0.0, 0.5]], np.float32)
    sheet = overlay(view, effects, side=64).astype(int)
    grey = sheet[48, 16]
    assert (grey == 128).all()
    assert np.abs(sheet[16, 16] - (0.8 * np.array(SUPPORT) + 0.2 * grey)).max() <= 1
    assert np.abs(sheet[16, 48] - (0.4 * np.array(OPPOSE) + 0.6 * grey)).max() <= 1
    icons = {0: np.full((20, 20, 3), 200, np.uint8), 3: np.full((20, 20, 3), 50, np.uint8)}
    grid = icon_grid(icons, [1.0, 1.0, 1.0, 0.25], 2, 2, side=40)
    assert (grid[:40, :40] == 200).all()
    assert (grid[:40, 40:] == grid[0, 40]).all()
    assert (grid[:, :, 0] == 50).sum() == 20 * 20
    light = masked(view, np.array([[1, 0], [0, 0]], np.float32), side=64)
    assert (light[4, 4] == 128).all()
    assert (light[60, 60] > 240).all()
    atlas = np.asarray(dotted(Image.new("RGB", (100, 100)), [20.0, np.nan], [70.0, np.nan], [1.0, 1.0], radius=6))
    assert (atlas[70, 20] == (28, 29, 31)).all()
    assert (atlas[70, 26] == (247, 247, 245)).all()
    assert atlas[:60].max() == 0
