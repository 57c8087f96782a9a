"""The activation store: written by collect, read by everyone."""
