"""The layout cut into cells: their sums, exemplars, crops and icons."""
