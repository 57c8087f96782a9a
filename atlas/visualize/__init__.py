"""The feature-visualisation engine: pictures that a layer of a network would most like to see.

Usable alone, in three lines:

    network = load("efficientnet_lite0")
    pixels = render(network, "_blocks.10", directions, size=128)
    picture = neuron(network, "_blocks.10", 7)

For whole levels of an atlas there are draw, which also begins with parents' pictures, and score. Inside: parametrize
(pictures as spectra), transform (small moves), objective (what is asked for), cut (the network up to the layer),
arguments (what is given, checked), optimize (many icons), climb (the loop), parents (starts from coarser icons),
diverse (pictures that differ), recipe (the settings), alone (pictures without a pipeline), score.
"""

from atlas.visualize.optimize import Icons, draw, measure_batch, step_seconds
from atlas.visualize.recipe import Recipe
from atlas.visualize.score import Scores, score
from atlas.visualize.single import neuron, render
from atlas.visualize.subnetwork import fitting_precision

__all__ = [
    "Icons",
    "Recipe",
    "Scores",
    "draw",
    "fitting_precision",
    "measure_batch",
    "neuron",
    "render",
    "score",
    "step_seconds",
]
