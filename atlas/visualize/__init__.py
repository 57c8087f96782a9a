"""The feature-visualisation engine: draws the pictures that excite a layer of a network most.

Usable alone, in three lines:

    network = load("efficientnet_lite0")
    pixels = render(network, "_blocks.10", directions, size=128)
    picture = neuron(network, "_blocks.10", 7)

For whole levels of an atlas there are draw, which can begin with the pictures of coarser cells, and score. Inside:
recipe (the settings), parametrize (pictures as spectra), transform (random moves), objective (what is maximised),
subnetwork (the network up to the layer), validation (of arguments), ascent (the loop), optimize (many icons),
coarse_start (pictures of coarser cells to begin with), single (pictures without a pipeline), diverse (several pictures
of one unit), score.
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
