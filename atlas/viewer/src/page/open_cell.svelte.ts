/** The open cell, the first of those that are chosen, and its details. */

import { untrack } from 'svelte';

import { pageErrorText, errorText, iconsAddress } from '../lib/atlas';
import { cancellable } from '../lib/cancellable';
import { loadCells, type Cells } from '../lib/cells';
import { loadDetails, type CellSheet } from '../lib/details';
import type { CellRef } from '../lib/link';
import type { PageState } from '../lib/page_state.svelte';

export class OpenCell {
  /** The cells of its own level, which the zoom may have left behind. */
  cells = $state.raw<Cells | null>(null);
  /** Its details; null while they are loading. */
  sheet = $state.raw<CellSheet | null>(null);
  problem = $state<string | null>(null);
  readonly #pageState: PageState;

  /** Called while a component is set up, with which its effects end; `warn` shows errors that are not the drawer's. */
  constructor(pageState: PageState, warn: (sentence: string) => void) {
    this.#pageState = pageState;

    // When a grid's own icons take the place of quick ones, what is open stays until the new is there.
    let opened: unknown[] = [];
    $effect(() => {
      const [place, atlasMap] = [this.ref, pageState.atlasMap];
      void this.#icons;
      if (place !== opened[0] || atlasMap !== opened[1]) this.cells = this.sheet = null;
      opened = [place, atlasMap];
      if (!place) return;
      return cancellable(
        () => untrack(() => loadCells(atlasMap, place.grid)),
        (levelCells) => {
          this.cells = levelCells;
          const there = pageState.cells.filter(({ grid, row, col }) => grid === levelCells.grid && levelCells.find(row, col) >= 0);
          if (there.length < pageState.cells.length) pageState.cells = there; // a link may name empty ground
        },
        (error) => warn(errorText(error, pageErrorText)),
      );
    });

    $effect(() => {
      const cell = this.cell;
      this.problem = null;
      if (!cell?.drawn) {
        this.sheet = null;
        return;
      }
      return cancellable(
        () => untrack(() => loadDetails(pageState.atlasMap, cell)),
        (sheet) => (this.sheet = sheet),
        (error) => (this.problem = errorText(error, pageErrorText)),
      );
    });
  }

  readonly ref = $derived.by(() => this.#pageState.cells[0] ?? null);
  /** Where the icons of its grid lie. */
  readonly #icons = $derived.by(() => (this.ref ? iconsAddress(this.#pageState.atlasMap, this.ref.grid) : null));
  /** The cell itself, once its level's cells are there. */
  readonly cell = $derived.by(() => {
    const place = this.ref;
    return place && this.cells?.grid === place.grid ? this.cells.at(place.row, place.col) : null;
  });
  /** Where its activations are on the second map. */
  readonly onSecondMap = $derived.by<readonly CellRef[]>(() => {
    const { secondMap } = this.#pageState;
    const cells = this.cell && secondMap && this.sheet?.details.cells_on_other_maps[secondMap.path];
    return cells?.map(([grid, row, col]) => ({ grid, row, col })) ?? [];
  });
}
