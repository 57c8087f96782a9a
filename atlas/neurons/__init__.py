"""One neuron: what each unit (channel) of a layer answers to, what it does for the classes, and what builds it."""
