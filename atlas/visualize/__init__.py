"""The feature-visualisation engine: pictures that a layer of a network would most like to see.

Usable alone, in three lines:

    network = load("efficientnet_lite0")
    pixels = render(network, "_blocks.10", directions, size=128)
    picture = neuron(network, "_blocks.10", 7)

For whole levels of an atlas there are draw, which also begins with parents' pictures, and score. Inside: parametrize
(pictures as spectra), transform (small moves), objective (what is asked for), optimize (the loop), score.
"""

from atlas.visualize.optimize import Icons, draw, neuron, render
from atlas.visualize.score import Scores, score

__all__ = ["Icons", "Scores", "draw", "neuron", "render", "score"]
