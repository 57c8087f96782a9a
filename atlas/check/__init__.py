"""Whether a run is whole, and whether its files agree."""
