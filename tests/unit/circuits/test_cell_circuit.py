"""Which cells build a cell."""

import numpy as np
import pytest
import torch
from between_layers import stack
from torch import nn

from atlas.circuits.average_slopes import AverageSlopes
from atlas.circuits.cell_circuit import cell_circuits, cell_overlap, edge_weights
from atlas.circuits.linear_path import LinearPath
from atlas.errors import ConfigError


def test_cells_that_build_a_cell() -> None:
    """Each unit of the target reads one channel of the source, twice at different places, and opposes another."""
    network = stack(nn.Identity())
    with torch.no_grad():
        network.module.last.weight.zero_()
        for unit in range(6):
            network.module.last.weight[unit, unit, 0, 0] = network.module.last.weight[unit, unit, 2, 1] = 0.5
            network.module.last.weight[unit, unit + 1, 1, 1] = -2
    path = LinearPath(network, "wide", "last")
    slopes = AverageSlopes({}, 1)
    targets = 3 * np.eye(6, dtype=np.float32) + 7  # what all cells have in common builds none of them
    sources = np.concatenate([np.eye(8), np.eye(8)[:1] * 0.5, np.eye(8)[1:2]]).astype(np.float32) + 2
    weights_of_edges = edge_weights(path, slopes, targets, sources)
    assert weights_of_edges.shape == (6, 10)
    assert np.abs(weights_of_edges).max(1) == pytest.approx(1)
    weights = network.module.last.weight.sum((2, 3)).detach().numpy()
    expected = (targets - targets.mean(0)) @ weights @ (sources - sources.mean(0)).T
    assert weights_of_edges == pytest.approx(expected / np.abs(expected).max(1, keepdims=True), abs=1e-5)
    assert int(weights_of_edges[3].argmax()) == 3
    assert int(weights_of_edges[3].argmin()) == 4

    overlap = np.zeros((6, 10), np.float32)
    overlap[0, 0], overlap[0, 8], overlap[0, 1] = 0.1, 0.6, 0.3  # cell 8 is half as strong, and there more often
    cells = cell_circuits(path, slopes, targets, sources, overlap, count=2)
    assert cells.source.shape == cells.weight.shape == cells.overlap.shape == (6, 4)
    assert cells.source[0, :2].tolist() == [8, 0]
    assert cells.overlap[0, :2] == pytest.approx([0.6, 0.1])
    assert set(cells.source[0, 2:]) == {1, 9}  # the same row twice; their overlap does not matter
    assert (cells.weight[:, :2] > 0).all()
    assert (cells.weight[:, 2:] < 0).all()
    assert cells.weight[0] == pytest.approx(weights_of_edges[0, cells.source[0]])
    assert cells.source[3, 0] == 3  # no overlap with any: by weight


def test_fewer_cells_than_asked_for_leave_places_empty() -> None:
    network = stack(nn.Identity())
    path = LinearPath(network, "wide", "last")
    means = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    cells = cell_circuits(
        path, AverageSlopes({}, 1), np.eye(6, dtype=np.float32)[:1], means, np.zeros((1, 2), np.float32)
    )
    assert sorted(cells.source[0].tolist()) == [-1, -1, -1, -1, 0, 1]
    assert (cells.source[0, [0, 3]] >= 0).all()  # one supports and one opposes: they differ from their mean by as much
    with pytest.raises(ConfigError, match=r"Give shares of shape \(1, 2\)"):
        cell_circuits(path, AverageSlopes({}, 1), np.eye(6, dtype=np.float32)[:1], means, np.zeros((2, 2), np.float32))
    with pytest.raises(ConfigError, match="Cells of wide have 8 numbers each"):
        edge_weights(path, AverageSlopes({}, 1), np.eye(6, dtype=np.float32), means[:, :5])


def test_overlap_counts_rows_of_both_maps() -> None:
    overlap = cell_overlap(np.array([0, 0, 0, 0, 1, -1]), np.array([2, 2, 0, -1, 1, 1]), 3, 3)
    assert overlap == pytest.approx(np.array([[0.25, 0, 0.5], [0, 1, 0], [0, 0, 0]]))
    with pytest.raises(ConfigError, match="Give one of each for each row"):
        cell_overlap(np.zeros(3, np.int64), np.zeros(2, np.int64), 1, 1)
