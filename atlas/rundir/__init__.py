"""Where a run lies: its stages and paths, when a piece of work is done, and its copy elsewhere."""
