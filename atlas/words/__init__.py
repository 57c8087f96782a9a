"""What may be said of a cell in words, and how sure it is."""
