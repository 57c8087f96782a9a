"""Places, attributions and shards: what one row of the store holds, and that it does not depend on who made it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from small_network import factory, forking_factory, mixed_factory

from atlas.collect import Pace, Reader, collect_shard, observe_views, place, position, prefetch, shard_views
from atlas.config import Config
from atlas.images import open_picture
from atlas.networks import Layer, Network, describe_layer, load
from atlas.observe import Observer
from atlas.operations import FusedConvolution
from atlas.sources import Listing, list_images
from atlas.store import read_columns
from atlas.views import Failure, View, backdrop, cut_view, cut_views

LAYERS = ("stem", "residual", "branches")


def layer_of(height: int, width: int) -> Layer:
    return Layer("x", 3, height, width, 16, 1, 1)


def test_places_lie_evenly_in_the_middle_two_thirds() -> None:
    places = np.array(
        [place(0, f"{key}.png", view, draw) for key in range(1000) for view in range(2) for draw in range(2)]
    )
    assert places.min() >= 1 / 6
    assert places.max() < 5 / 6
    assert places.min() < 0.17
    assert places.max() > 0.83
    counts = np.histogram2d(*places.T, bins=4, range=[[1 / 6, 5 / 6]] * 2)[0]
    assert ((counts - 250) ** 2 / 250).sum() < 37.7  # chi-squared, 15 degrees of freedom, 0.1 %
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.05
    assert len(np.unique(places, axis=0)) == len(places)


def test_a_place_depends_on_its_own_keys_only() -> None:
    here = place(7, "a/b.png", 3, 1)
    assert [place(7, f"{key}", 3, 1) for key in ("x", "a/b.png", "y")][1] == here
    others = {
        place(8, "a/b.png", 3, 1),
        place(7, "a/c.png", 3, 1),
        place(7, "a/b.png", 4, 1),
        place(7, "a/b.png", 3, 0),
    }
    assert len(others | {here}) == 5


@pytest.mark.parametrize("side", [1, 2, 3, 5, 7, 14, 28])
def test_the_position_is_the_one_that_holds_the_place(side: int) -> None:
    places = np.array([place(0, f"{key}", 0, 0) for key in range(500)])
    found = position(places, layer_of(side, 2 * side))
    y, x = found.T
    assert ((y / side <= places[:, 1]) & (places[:, 1] < (y + 1) / side)).all()
    assert ((x / (2 * side) <= places[:, 0]) & (places[:, 0] < (x + 1) / (2 * side))).all()
    if side >= 6:  # edges are left out
        assert y.min() >= 1
        assert y.max() <= side - 2
    if side in (3, 5):
        assert set(y) == set(range(side))


def test_the_last_position_holds_the_end_of_the_square() -> None:
    np.testing.assert_array_equal(position(np.array([[1.0, 1.0], [0.0, 0.5]]), layer_of(7, 9)), [[6, 8], [3, 0]])


def by_autograd(
    network: torch.nn.Module,
    modules: Sequence[torch.nn.Module],
    inputs: torch.Tensor,
    positions: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Logits, activations (n, draws, channels) and h · ∂logit/∂h (n, draws, classes) of each module, the plain way."""
    outputs: dict[torch.nn.Module, torch.Tensor] = {}
    values: dict[torch.nn.Module, torch.Tensor] = {}

    def keep(module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        outputs[module] = output
        values[module] = output.detach().clone()
        return output.clone()

    handles = [module.register_forward_hook(keep) for module in modules]
    logits = network(inputs.clone().requires_grad_(True))
    for handle in handles:
        handle.remove()
    activations, attributions = [], []
    for module, where in zip(modules, positions):
        rows = torch.arange(len(inputs))[:, None]
        activations.append(values[module].permute(0, 2, 3, 1)[rows, where[..., 0], where[..., 1]])
        effects = []
        for target in range(logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[:, target].sum(), outputs[module], retain_graph=True)
            effects.append((gradient * values[module]).sum(1)[rows, where[..., 0], where[..., 1]])
        attributions.append(torch.stack(effects, dim=2))
    return logits.detach(), activations, attributions


@pytest.mark.parametrize(
    "layers",
    [
        ("residual",),
        ("stem", "residual", "depthwise", "branches", "last"),
        ("last", "stem"),
        # Inside a block whose sums are written in place, before and after the layer.
        ("residual.first", "residual.second"),
        ("depthwise.spread", "depthwise.depthwise", "branches.narrow", "branches.wide"),
        ("residual.second", "depthwise.depthwise"),
        ("residual.first.conv", "residual", "branches.wide.relu", "branches"),
    ],
)
@pytest.mark.parametrize("draws", [1, 3])
def test_attributions_are_those_of_autograd(layers: tuple[str, ...], draws: int) -> None:
    network = load("small_network:factory", size=32, keep=layers)
    generator = torch.Generator().manual_seed(draws)
    inputs = network.normalize(torch.rand(4, 3, 32, 32, generator=generator))
    described = [describe_layer(network, layer) for layer in layers]
    positions = [torch.randint(0, layer.height, (4, draws, 2), generator=generator) for layer in described]
    observer = Observer(network, layers)
    seen = observer.observe(inputs, dict(zip(layers, positions)), attributions=True)
    # Judged by the untouched network, norms not folded.
    plain = factory().eval()
    logits, activations, attributions = by_autograd(
        plain, [plain.get_submodule(layer) for layer in layers], inputs, positions
    )
    torch.testing.assert_close(seen.logits, logits, rtol=1e-4, atol=1e-5)
    for layer, activation, attribution in zip(layers, activations, attributions):
        torch.testing.assert_close(seen.activations[layer], activation, rtol=1e-4, atol=5e-5)  # the folding's rounding
        torch.testing.assert_close(seen.attributions[layer], attribution, rtol=1e-4, atol=1e-5)
        assert float(seen.attributions[layer].abs().max()) > 1e-3
    assert not any(module._forward_hooks for module in network.module.modules())
    with torch.no_grad():
        torch.testing.assert_close(network.module(inputs), logits, rtol=1e-4, atol=1e-5)


def test_nothing_is_computed_twice_but_tangents_behind_a_layer(small: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 9 convolutions, values take each once, and a layer's tangents those behind it, once for each draw."""
    runs, tangents = [], []
    run, tangent = FusedConvolution.run, FusedConvolution.tangent
    inputs = small.normalize(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    positions = {layer: torch.full((2, 2, 2), 3) for layer in LAYERS}
    observer = Observer(small, LAYERS)
    observer.observe(inputs, positions, attributions=True)
    monkeypatch.setattr(FusedConvolution, "run", lambda self, maps: runs.append(self) or run(self, maps))
    monkeypatch.setattr(
        FusedConvolution, "tangent", lambda self, maps, outputs: tangents.append(self) or tangent(self, maps, outputs)
    )
    seen = observer.observe(inputs, positions, attributions=True)
    torch.testing.assert_close(seen.logits, small.module(inputs).detach(), rtol=0, atol=1e-5)
    assert len(runs) == len(set(runs)) == 9
    behind = {"stem": 8, "residual": 6, "branches": 1}
    assert len(tangents) == 2 * sum(behind.values())


@pytest.mark.parametrize("layers", [("first",), ("gate", "pooled"), ("first", "mixed", "gate")])
def test_other_operations_have_torchs_own_derivatives(layers: tuple[str, ...]) -> None:
    """Gates, pooling, attention and norms that depend on the picture: nothing that the walk has a rule for."""
    network = load("small_network:mixed_factory", size=32, keep=layers)
    inputs = network.normalize(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(5)))
    described = [describe_layer(network, layer) for layer in layers]
    positions = [torch.full((3, 2, 2), layer.height // 2) for layer in described]
    observer = Observer(network, layers)
    seen = observer.observe(inputs, dict(zip(layers, positions)), attributions=True)
    assert all(observer._walks.values()), "recorded"
    plain = mixed_factory().eval()
    logits, activations, attributions = by_autograd(
        plain, [plain.get_submodule(layer) for layer in layers], inputs, positions
    )
    torch.testing.assert_close(seen.logits, logits, rtol=1e-4, atol=1e-5)
    for layer, activation, attribution in zip(layers, activations, attributions):
        torch.testing.assert_close(seen.activations[layer], activation, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(seen.attributions[layer], attribution, rtol=1e-4, atol=1e-5)
        assert float(seen.attributions[layer].abs().max()) > 1e-3


def test_a_network_whose_path_depends_on_the_picture_is_used_as_it_is() -> None:
    network = load("small_network:forking_factory", size=32)
    inputs = network.normalize(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5)))
    layers, where = ("stem", "branches"), torch.tensor([[[3, 4], [2, 2]]])
    observer = Observer(network, layers)
    for sign in (1, -1):  # one for each path
        seen = observer.observe(sign * inputs, dict.fromkeys(layers, where), attributions=True)
        plain = forking_factory().eval()
        modules = [plain.get_submodule(layer) for layer in layers]
        logits, activations, attributions = by_autograd(plain, modules, sign * inputs, [where, where])
        torch.testing.assert_close(seen.logits, logits, rtol=1e-4, atol=1e-5)
        for layer, activation, attribution in zip(layers, activations, attributions):
            torch.testing.assert_close(seen.activations[layer], activation, rtol=1e-4, atol=5e-5)
            torch.testing.assert_close(seen.attributions[layer], attribution, rtol=1e-4, atol=1e-5)
    assert not any(observer._walks.values())


def test_half_precision_agrees_and_threads_share_an_observer(small: Network) -> None:
    inputs = small.normalize(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    positions = {layer: torch.full((4, 1, 2), 3) for layer in LAYERS}
    exact = Observer(small, LAYERS)
    half = Observer(small, LAYERS, "bfloat16")
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda _: exact.observe(inputs, positions, attributions=True), range(8)))
    for other in seen[1:]:
        torch.testing.assert_close(other.attributions["stem"], seen[0].attributions["stem"], rtol=0, atol=0)
    found = half.observe(inputs, positions, attributions=True)
    assert all(half._walks.values())
    for layer in LAYERS:
        for kind, least in (("activations", 0.999), ("attributions", 0.9)):  # a ReLU or two close that were open
            known, other = getattr(seen[0], kind)[layer], getattr(found, kind)[layer]
            assert other.dtype == torch.float32
            assert not torch.equal(known, other)
            assert float(torch.cosine_similarity(known, other, dim=-1).min()) > least


def test_without_attributions_the_activations_are_the_same(small: Network) -> None:
    observer = Observer(small, LAYERS)
    inputs = small.normalize(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    positions = {layer: torch.randint(0, 8, (3, 2, 2), generator=torch.Generator().manual_seed(2)) for layer in LAYERS}
    plain = observer.observe(inputs, positions, attributions=False)
    dual = observer.observe(inputs, positions, attributions=True)
    assert plain.attributions == {}
    torch.testing.assert_close(plain.logits, dual.logits, rtol=0, atol=1e-6)
    for layer in LAYERS:
        torch.testing.assert_close(plain.activations[layer], dual.activations[layer], rtol=0, atol=1e-6)


def test_attributions_of_efficientnet_lite0_are_those_of_autograd(efficientnet: Network) -> None:
    from skimage import data

    pixels = cut_view(data.chelsea(), (75, 0, 375, 300), efficientnet.size, (0, 0, 0))
    inputs = efficientnet.from_bytes(torch.from_numpy(pixels[None]))
    places = [(3, 3), (6, 7), (7, 10), (10, 4), (11, 11)]
    where = {"_blocks.10": torch.tensor([places])}
    observer = Observer(efficientnet, ["_blocks.10"])
    seen = observer.observe(inputs, where, attributions=True).attributions["_blocks.10"]
    assert all(observer._walks.values()), "recorded"
    assert seen.shape == (1, 5, 1000)
    module = efficientnet.submodule("_blocks.10")
    kept: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    logits = efficientnet.module(inputs.requires_grad_(True))
    handle.remove()
    differences = []
    for target in (281, 282, 0, 999):
        (gradient,) = torch.autograd.grad(logits[0, target], kept[0], retain_graph=True)
        effects = (gradient * kept[0]).detach().sum(1)[0]
        differences += [abs(float(seen[0, draw, target] - effects[place])) for draw, place in enumerate(places)]
    # Rounding shuts a ReLU or opens one here and there: autograd itself is as far from what it gives in float64.
    assert max(differences) < 1e-3
    assert float(seen.abs().max()) > 0.1


def test_shards_cut_the_pictures_without_gap_or_overlap() -> None:
    shards = [shard_views(number, images=7, crops=3, images_per_shard=2) for number in range(4)]
    assert shards[0] == {0: [0, 1, 2], 1: [0, 1, 2]}
    assert shards[3] == {6: [0, 1, 2]}
    everything = [(image, view) for shard in shards for image, views in shard.items() for view in views]
    assert everything == [(image, view) for image in range(7) for view in range(3)]


def test_prefetching_keeps_the_order_and_goes_no_further_than_asked() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item * item

    stream = prefetch(work, range(100), threads=2, ahead=4)
    assert [next(stream) for _ in range(10)] == [number**2 for number in range(10)]
    stream.close()  # type: ignore[attr-defined]
    assert len(started) <= 10 + 4
    assert list(prefetch(work, range(5), threads=2, ahead=4)) == [0, 1, 4, 9, 16]
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda item: 1 // item, [1, 0, 1], threads=2, ahead=4))


@pytest.fixture(scope="module")
def listing(config: Config) -> Listing:
    return list_images(config.images, config.seed)


@pytest.fixture(scope="module")
def described(small: Network) -> list[Layer]:
    return [describe_layer(small, layer) for layer in ("residual", "branches")]


def make_shard(
    folder: Path,
    network: Network,
    described: Sequence[Layer],
    listing: Listing,
    config: Config,
    views: dict[int, list[int]],
) -> tuple[dict[str, Path], int, list[Failure]]:
    paths = {layer.name: folder / layer.name / "part-00000.parquet" for layer in described}
    reader = Reader(Observer(network, [layer.name for layer in described]), {layer.name: layer for layer in described})
    metadata = {layer.name: {"layer": layer.name} for layer in described}
    rows, failures = collect_shard([reader], listing, config, views, paths, metadata, Pace(5))
    return paths, rows, failures


ALL = ["image", "image_id", "view", "draw", "box", "place_x", "place_y", "y", "x", "label", "predicted", "confidence"]
VECTORS = ["activation", "attribution"]


@pytest.fixture(scope="module")
def shard(
    tmp_path_factory: pytest.TempPathFactory, small: Network, described: list[Layer], listing: Listing, config: Config
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shard")
    paths, rows, failures = make_shard(
        folder, small, described, listing, config, shard_views(0, len(listing), 3, len(listing))
    )
    assert rows == len(listing) * 3 * 2
    assert failures == []
    return paths


def test_rows_stand_in_the_order_of_the_listing(shard: dict[str, Path], listing: Listing, config: Config) -> None:
    rows = read_columns(shard["residual"], ALL)
    expected = [(image, view, draw) for image in range(len(listing)) for view in range(3) for draw in range(2)]
    assert list(zip(rows["image_id"].tolist(), rows["view"].tolist(), rows["draw"].tolist())) == expected
    assert rows["image"].tolist() == [listing.keys[image] for image, _, _ in expected]
    labels = [listing.labels[image] for image, _, _ in expected]
    assert pq.read_table(shard["residual"])["label"].to_pylist() == labels
    assert None in labels
    assert {0, 1} < set(labels)
    places = np.array([place(config.seed, listing.keys[image], view, draw) for image, view, draw in expected])
    np.testing.assert_allclose(np.stack([rows["place_x"], rows["place_y"]], 1), places, rtol=1e-6)


def test_row_i_of_one_layer_is_row_i_of_the_next(shard: dict[str, Path]) -> None:
    same = [name for name in ALL if name not in ("x", "y")]
    first, second = (pq.read_table(shard[layer], columns=same) for layer in ("residual", "branches"))
    assert first.equals(second)


def test_a_row_is_what_its_source_and_box_give(
    shard: dict[str, Path], small: Network, described: list[Layer], listing: Listing, config: Config
) -> None:
    """Cut again from its source by its row alone, a view gives the very pixels, and the pixels the very vector."""
    kept: dict[tuple[int, int], NDArray[np.uint8]] = {}
    for image in range(len(listing)):
        views = cut_views(listing, image, config, small.size, [0, 1, 2])
        assert not isinstance(views, Failure)
        kept.update({(view.image_id, view.view): view.pixels for view in views})
    for layer in described:
        rows = read_columns(shard[layer.name], ALL + VECTORS)
        for row in range(0, len(rows["image"]), 7):
            key, view = rows["image"][row], int(rows["view"][row])
            picture = open_picture(Path(listing.source) / key)
            pixels = cut_view(picture, rows["box"][row], small.size, backdrop(config.seed, key, view))
            np.testing.assert_array_equal(pixels, kept[int(rows["image_id"][row]), view])
            with torch.no_grad():
                inputs = small.from_bytes(torch.from_numpy(pixels[None]))
                maps, logits = small.activations(inputs, layer.name), small.module(inputs)
            y, x = int(rows["y"][row]), int(rows["x"][row])
            assert y == int(float(rows["place_y"][row]) * layer.height)
            assert x == int(float(rows["place_x"][row]) * layer.width)
            np.testing.assert_allclose(
                rows["activation"][row].astype(np.float32), maps[0, :, y, x], rtol=2e-3, atol=1e-4
            )
            assert rows["predicted"][row] == int(logits.argmax())
            assert rows["confidence"][row] == pytest.approx(float(logits.softmax(1).max()), abs=1e-5)
            assert rows["attribution"][row].shape == (5,)


def test_equal_work_gives_equal_bytes(
    shard: dict[str, Path], tmp_path: Path, small: Network, described: list[Layer], listing: Listing, config: Config
) -> None:
    views = shard_views(0, len(listing), 3, len(listing))
    again, _, _ = make_shard(tmp_path, small, described, listing, config, views)
    for layer, path in shard.items():
        assert path.read_bytes() == again[layer].read_bytes()


def test_rows_do_not_depend_on_the_shard_they_are_in(
    shard: dict[str, Path], tmp_path: Path, small: Network, described: list[Layer], listing: Listing, config: Config
) -> None:
    part, rows, _ = make_shard(
        tmp_path, small, described, listing, config, shard_views(1, len(listing), 3, images_per_shard=3)
    )
    assert rows == 18
    whole = pq.read_table(shard["branches"])
    assert pq.read_table(part["branches"], columns=ALL[:10]).equals(whole.select(ALL[:10]).slice(18, 18))
    found = read_columns(part["branches"], VECTORS)
    for name, expected in read_columns(shard["branches"], VECTORS).items():
        np.testing.assert_allclose(found[name].astype(float), expected[18:36].astype(float), rtol=2e-3, atol=2e-4)


def test_broken_pictures_become_failures_and_stop_nothing(
    tmp_path: Path, small: Network, described: list[Layer], config: Config, pictures: Path
) -> None:
    images = config.images.model_copy(update={"classes": ("broken", "cats"), "shuffle": False})
    listing = list_images(images, 0)
    paths, rows, failures = make_shard(
        tmp_path, small, described, listing, config, shard_views(0, len(listing), 3, len(listing))
    )
    assert rows == 6 * 3 * 2
    told = {failure.image: failure.error for failure in failures}
    assert set(told) == {"broken/cut.jpg", "broken/empty.png", "broken/float.tiff", "broken/text.jpg"}
    assert len(failures) == 4
    assert told["broken/empty.png"] == "the file is empty"
    assert all(failure.view is None for failure in failures)
    for path in paths.values():
        assert set(read_columns(path, ["image_id"])["image_id"].tolist()) == set(range(4, 10))


def test_a_view_that_is_not_finite_leaves_all_layers(listing: Listing, config: Config) -> None:
    """Only one layer of one view overflows float16, and the whole view goes."""
    network = load("small_network:factory", size=32, device="cpu")
    layers = [describe_layer(network, layer) for layer in ("residual", "branches")]
    reader = Reader(Observer(network, ["residual", "branches"]), {layer.name: layer for layer in layers})
    cut = [cut_views(listing, image, config, 32, [0]) for image in range(3)]
    batch = [(view,) for views in cut for view in views if isinstance(view, View)]  # type: ignore[union-attr]
    # The second view's own pixels push one channel of the later layer over the edge.
    network.submodule("branches").register_forward_hook(
        lambda _module, _inputs, output: output + 7e4 * (torch.arange(len(output)) == 1).view(-1, 1, 1, 1)
    )
    rows, failures = observe_views([reader], listing, config, batch, 4)
    assert failures == [(1, Failure(listing.keys[1], 0, "an activation or attribution is not finite in float16"))]
    for layer in ("residual", "branches"):
        assert rows[layer]["image_id"].tolist() == [0, 0, 2, 2]
        assert rows[layer]["draw"].tolist() == [0, 1, 0, 1]
        assert rows[layer]["activation"].shape == (4, 8 if layer == "residual" else 16)
        assert np.isfinite(rows[layer]["activation"]).all()
        assert len(rows[layer]["image"]) == len(rows[layer]["label"]) == len(rows[layer]["y"]) == 4


def test_a_shard_whose_views_all_failed_is_an_empty_file(
    tmp_path: Path, described: list[Layer], listing: Listing, config: Config
) -> None:
    network = load("small_network:broken_factory", size=32)
    views = shard_views(0, len(listing), 3, 2)
    paths, rows, failures = make_shard(tmp_path, network, described, listing, config, views)
    assert rows == 0
    assert [(failure.image, failure.view) for failure in failures] == [
        (listing.keys[image], view) for image, of_image in views.items() for view in of_image
    ]
    assert pq.read_table(paths["residual"]).num_rows == 0


def test_small_runs_have_smaller_shards_and_none_is_over_the_limit() -> None:
    from atlas.config import validate
    from pipelines.collect import images_per_shard

    def rows(pictures: int, crops: int = 1, **collect: int) -> int:
        values = {"out": "x", "network": {"name": "n"}, "layers": ["l"], "collect": collect}
        config = validate({**values, "images": {"source": "s", "crops": crops}}, "test")
        return images_per_shard(config, pictures) * crops * config.collect.positions_per_image

    assert rows(100) == 256
    assert rows(1_000_000) == 15_625
    assert rows(100_000_000) == 65_536
    assert rows(1_000_000, rows_per_shard=1000) == 1000
    assert rows(549, crops=20) == 240
    assert rows(10, crops=3000, rows_per_shard=1000) == 3000, "a picture is not cut in two"
