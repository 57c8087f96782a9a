"""One neuron: what excites each unit (channel) of a layer, what it does for the classes, and what builds it."""
