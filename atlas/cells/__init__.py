"""The layout divided into cells: their sums, exemplars, crops and icons."""
