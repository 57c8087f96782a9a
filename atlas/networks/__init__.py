"""Networks: loaded and prepared, their layers measured, their activations and attributions read.

A person's way in is `network.load`; zoo knows where networks come from, and batch_norms folds their norms. Observer
reads layers with attributions (tangents), Tail runs what comes behind a layer, hooked reads or replaces one output.
precision and allocator say how they compute. program/ holds the network as a list of operations.
"""
