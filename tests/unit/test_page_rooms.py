"""The folders of the page are an ordered list: each imports only those above it, and no files import in a circle."""

from pathlib import Path
from types import ModuleType

import pytest
from checkout import CHECKOUT
from page_imports import arrows_up, folder_of, import_graph, imported_names

SOURCES = CHECKOUT / "atlas" / "viewer" / "src"

FOLDERS = [
    "lib",  # what the site and the server give, the state of the page, and how maps are drawn
    "parts",  # small components that others are made of
    "image",  # one picture beside the map
    "neurons",  # single units and their circuits
    "forward",  # one forward pass, number by number
    "tour",  # the tour
    "map",  # a map in its pane, or two
    "panels",  # what is open around the map
    "page",  # the page as a whole
    "",  # what starts it
]


def test_the_list_has_each_folder_of_the_page() -> None:
    assert {folder_of(module) for module in import_graph(SOURCES)} == set(FOLDERS)


def test_a_folder_imports_only_folders_above_it() -> None:
    assert arrows_up(import_graph(SOURCES), FOLDERS) == []


def test_no_files_import_each_other_in_a_circle(house: ModuleType) -> None:
    graph = import_graph(SOURCES)
    assert "lib/page_state.svelte.ts" in graph["App.svelte"]
    assert house.circles(graph) == []


def test_imports_of_all_kinds_are_read() -> None:
    source = """
    /** import no from './comment'; */
    // import no from './line';
    import './plain.css';
    import one, { type Two } from './one';
    import type { Three } from './three';
    import {
      four,
      five,
    } from './four';
    export { six } from './six';
    const text = 'import no';
    const later = await import('./later');
    type Eight = import('./eight').Eight;
    """
    names = ["plain.css", "one", "three", "four", "six", "later", "eight"]
    assert imported_names(source) == [f"./{name}" for name in names]


def test_an_import_that_nobody_can_follow_is_refused() -> None:
    with pytest.raises(ValueError, match=r"import\(\) has no plain string"):
        imported_names("const later = await import(name);")


def test_circles_of_types_only_and_imports_upward_are_found(house: ModuleType, tmp_path: Path) -> None:
    write(tmp_path / "low" / "one.svelte.ts", "import type { Two } from './two';")
    write(tmp_path / "low" / "two.ts", "import { one } from './one.svelte';\nimport Top from '../top/Top.svelte';")
    write(tmp_path / "top" / "Top.svelte", "<script>import Top from './Top.svelte';</script>")
    graph = import_graph(tmp_path)
    assert graph["low/two.ts"] == {"low/one.svelte.ts", "top/Top.svelte"}
    assert graph["top/Top.svelte"] == set()
    assert house.circles(graph) == [{"low/one.svelte.ts", "low/two.ts"}]
    assert arrows_up(graph, ["low", "top"]) == ["low/two.ts -> top/Top.svelte"]
    assert arrows_up(graph, ["top", "low"]) == []


def test_an_import_of_a_missing_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "one.ts", "import { two } from './two';")
    with pytest.raises(ValueError, match=r"one\.ts imports \./two, which does not exist"):
        import_graph(tmp_path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
