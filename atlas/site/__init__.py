"""Everything a browser needs, as static files."""
