"""The page served, and what it asks of Python."""
