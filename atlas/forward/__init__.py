"""One forward pass, number by number."""
