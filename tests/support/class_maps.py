"""Maps of classes that several tests ask for, and columns to judge them by."""

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from atlas.rundir.directory import RunDirectory

OF_CLASSES = {"class_atlas": ["class 2"], "class_pair": ["class 1", "class 4"], "class_rows": 60, "class_grids": [3, 6]}


def columns_of(directory: RunDirectory, layer: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Attributions and predicted classes of all rows of a layer."""
    rows = pq.read_table(directory.shards(layer), columns=["attribution", "predicted"])
    return np.array(rows["attribution"].to_pylist(), np.float32), rows["predicted"].to_numpy()
