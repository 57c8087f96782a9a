"""How the work is spread: the five stages of a run on Dask workers."""
