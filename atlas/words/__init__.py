"""What may be said of a cell of a layer, and how far it holds; usable without a pipeline.

In class names: evidence, folds, claims and table, by what its activations push the network towards. In words for what
its patches look like: patches, by colours, texture and vocabulary, where chance allows.
"""
