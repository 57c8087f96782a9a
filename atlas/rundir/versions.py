"""Which versions a result was made with."""

from importlib.metadata import version

# Of this project.
VERSION = "0.1.0"
# Of a site's files: the page reads those of its own.
SITE_FORMAT = 3


def versions() -> dict[str, str]:
    """Versions of this project and of what its figures depend on."""
    names = ("torch", "torchvision", "umap-learn", "faiss-cpu", "dask", "pyarrow", "numpy", "pillow", "simplejpeg")
    return {"activation-atlas": VERSION, **{name: version(name) for name in names}}
