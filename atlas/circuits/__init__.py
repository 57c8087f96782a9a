"""Weights between two layers, and what builds a unit or a cell."""
