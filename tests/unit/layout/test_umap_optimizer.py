"""The optimiser of the layout: the same map with one thread, one as good with several."""

import numpy as np
from made_rows import clusters, quality
from umap.umap_ import fuzzy_simplicial_set, simplicial_set_embedding

from atlas.layout import neighbors
from atlas.layout.umap_optimizer import embed


def test_one_thread_gives_the_same_map_every_time_and_several_one_as_good() -> None:
    rows, _ = clusters(1500)
    generator = np.random.default_rng(0)
    indices, distances = neighbors.knn_graph(neighbors.build_index(rows, threads=1), rows, 10)
    graph, _, _ = fuzzy_simplicial_set(
        rows, 10, np.random.RandomState(0), "cosine", knn_indices=indices, knn_dists=distances
    )
    start = generator.normal(size=(1500, 2)).astype(np.float32)
    maps = [embed(graph, start, a=1.9, b=0.8, epochs=200, seed=0, threads=threads) for threads in (1, 1, 2)]
    np.testing.assert_array_equal(maps[0], maps[1])
    umap, _ = simplicial_set_embedding(
        rows, graph, 2, 1.0, 1.9, 0.8, 1.0, 5, 200, start, np.random.RandomState(0), "cosine", {}, False, {}, False
    )
    expected = quality(rows, umap)
    for figures in (quality(rows, maps[0]), quality(rows, maps[2])):
        assert figures["trustworthiness"] > expected["trustworthiness"] - 0.01
        assert figures["recall"] > expected["recall"] - 0.02
