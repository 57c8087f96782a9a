/** How cells are chosen: on either map, from lists, and by arrow keys. */

import type { Subject } from '../image/subject.svelte';
import { pageErrorText, errorText, type AtlasMap } from '../lib/atlas';
import type { Cell } from '../lib/cells';
import { loadDetails } from '../lib/details';
import { MOST_CELLS, type CellRef } from '../lib/link';
import type { PageState } from '../lib/page_state.svelte';
import type { Maps } from './maps.svelte';

/** Cells of a rectangle on the second map that are looked up on the first. */
const MOST_THERE = 60;

export class Selection {
  /** Whether a click or a tap selects further cells. */
  multiple = $state(false);
  readonly #pageState: PageState;
  readonly #maps: Maps;
  readonly #subject: Subject | null;
  readonly #warn: (sentence: string) => void;

  constructor(pageState: PageState, maps: Maps, subject: Subject | null, warn: (sentence: string) => void) {
    this.#pageState = pageState;
    this.#maps = maps;
    this.#subject = subject;
    this.#warn = warn;
  }

  /** Open a cell, or with `more` select it beside others or take it out; empty ground closes. */
  open(cell: Cell | null, more: boolean): void {
    const pageState = this.#pageState;
    if (!cell) {
      if (!more && !this.multiple) pageState.cells = [];
      return;
    }
    const place = placeOf(cell);
    const isSelected = pageState.cells.some((other) => isSame(other, place));
    if (more || this.multiple) {
      const others = pageState.cells.filter((other) => !isSame(other, place) && other.grid === place.grid);
      this.#select(isSelected ? others : [place, ...others]);
    } else {
      pageState.cells = isSelected && pageState.cells.length === 1 ? [] : [place];
      if (pageState.cells.length) this.#reveal(place);
    }
  }

  /** Select cells of one level beside those of it that are selected already. */
  add(cells: readonly Cell[]): void {
    if (!cells.length) return;
    const places = cells.map(placeOf);
    const others = this.#pageState.cells.filter((other) => other.grid === places[0]?.grid && !places.some((added) => isSame(added, other)));
    this.#select([...places, ...others]);
  }

  /** Open a cell of the layer, or of another one that is shown then. */
  go(place: CellRef, atlasMap: AtlasMap = this.#pageState.atlasMap): void {
    if (atlasMap !== this.#pageState.atlasMap) this.#pageState.switchTo(atlasMap);
    this.#pageState.cells = [place];
    this.#reveal(place);
  }

  /** From the open cell, or from the middle, to the next cell in a direction. */
  neighbour(right: number, down: number): void {
    const { cells, pointedCell: pointed } = this.#maps;
    const from = this.#pageState.cells[0] ?? pointed;
    if (!from || !cells || from.grid !== cells.grid) return;
    for (let far = 1; far < cells.grid; far++) {
      const next = cells.at(from.row + far * down, from.col + far * right);
      if (next) return this.go(placeOf(next));
    }
  }

  /** Cells of the second map are chosen: the first one opens those that hold most of the same activations. */
  async selectFromSecond(cells: readonly (Cell | null)[]): Promise<void> {
    const pageState = this.#pageState;
    const { atlasMap: first, secondMap: second } = pageState;
    const drawnCells = cells.filter((cell) => cell?.drawn).slice(0, MOST_THERE) as Cell[];
    if (!drawnCells.length || !second) return;
    try {
      const sheets = await Promise.all(drawnCells.map((cell) => loadDetails(second, cell)));
      if (pageState.atlasMap !== first || pageState.secondMap !== second) return;
      const matches = sheets.flatMap((sheet) => sheet?.details.cells_on_other_maps[first.path]?.slice(0, 1) ?? []);
      const places = new Map(matches.map(([grid, row, col]) => [`${grid}.${row}.${col}`, { grid, row, col }]));
      if (places.size) {
        this.#select([...places.values()]);
        if (pageState.cells[0]) this.#reveal(pageState.cells[0]);
      } else this.#warn(`Of ${second.name} it is not known which cells of ${first.name} hold the same activations: one of them is a map of classes.`);
    } catch (error) {
      this.#warn(errorText(error, pageErrorText));
    }
  }

  /** Cells of one level as the selection; a link holds no more than MOST_CELLS. */
  #select(places: CellRef[]): void {
    this.#pageState.cells = places.slice(0, MOST_CELLS);
    if (places.length > MOST_CELLS) this.#warn(`${MOST_CELLS} cells are selected, which is the most; ${places.length - MOST_CELLS} more were in the rectangle.`);
  }

  #reveal(place: CellRef): void {
    this.#maps.reveal(place, this.#subject?.open === true);
  }
}

function placeOf({ grid, row, col }: CellRef): CellRef {
  return { grid, row, col };
}

function isSame(one: CellRef, other: CellRef): boolean {
  return one.grid === other.grid && one.row === other.row && one.col === other.col;
}
