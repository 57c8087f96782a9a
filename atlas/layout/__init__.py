"""Activations to (u, v): neighbours, UMAP, placement of new points, and how true a map is."""
