"""Circuits: the weights between two layers (linear_path, vjp, average_slopes, expanded_weights), what builds a unit
(circuit) and what builds a cell of a map (cell_circuit)."""
