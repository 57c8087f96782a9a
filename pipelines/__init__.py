"""How the work is spread: the six stages of a run on Dask workers."""
