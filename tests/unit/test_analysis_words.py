"""A run opened for analysis: what may be said of its cells."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from documents import snippet

import atlas
from atlas.errors import AtlasError, ConfigError
from atlas.rundir.directory import RunDirectory
from atlas.rundir.markers import write_marker
from atlas.words.table import WORDS

GUIDE = "atlas/docs/guides/words.md"


def test_words_are_those_of_a_grid(made_run: RunDirectory, made_copy: RunDirectory) -> None:
    run = atlas.open_run(made_run.path)
    assert run.words("branches", 4).equals(pq.read_table(made_run.words("branches", 4)))
    with pytest.raises(ConfigError, match=r"has no grid of 5"):
        run.words("branches", 5)
    made_copy.words("branches", 4).unlink()
    with pytest.raises(AtlasError, match=r"the stage cells is not finished"):
        atlas.open_run(made_copy.path).words("branches", 4)


def test_the_guide_reads_words(made_copy: RunDirectory) -> None:
    """Where a class stands out in the cell (1, 0)."""
    path = made_copy.words("branches", 4)
    table = pq.read_table(path)
    classes = [
        [{"class": 2, "gain": 1.5, "t": 4.0}] if (cell["row"], cell["col"]) == (1, 0) else []
        for cell in table.to_pylist()
    ]
    table = table.set_column(2, WORDS.field("classes"), pa.array(classes, WORDS.field("classes").type))
    pq.write_table(table, path)
    write_marker(path.with_suffix(".json"), key=made_copy.stage_key("cells"), files=[path])
    text = snippet(GUIDE, "In Python").strip().replace("runs/demo", str(made_copy.path))
    *before, last = text.replace('"_blocks.15"', '"branches"').replace("20", "4").splitlines()
    names: dict[str, object] = {}
    exec("\n".join(before), names)
    assert eval(last, names) == [(1, 0, [atlas.open_run(made_copy.path).store("branches").classes[2]])]
