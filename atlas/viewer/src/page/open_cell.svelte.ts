/** The open cell, the first of those that are chosen, and what is told of it. */

import { pageErrorText, errorText } from '../lib/atlas';
import { cancellable } from '../lib/cancellable';
import { loadCells, type Cells } from '../lib/cells';
import { loadDetails, type CellSheet } from '../lib/details';
import type { CellRef } from '../lib/link';
import type { Look } from '../lib/look.svelte';

export class Opened {
  /** The cells of its own level, which the zoom may have left behind. */
  cells = $state.raw<Cells | null>(null);
  /** What is told of it; null while it is under way. */
  sheet = $state.raw<CellSheet | null>(null);
  problem = $state<string | null>(null);
  readonly #look: Look;

  /** Called while a component begins, with which it ends; `warn` hears of what is no matter of the drawer. */
  constructor(look: Look, warn: (sentence: string) => void) {
    this.#look = look;

    $effect(() => {
      this.cells = null;
      const place = this.place;
      if (!place) return;
      return cancellable(
        () => loadCells(look.atlasMap, place.grid),
        (found) => {
          this.cells = found;
          const there = look.cells.filter(({ grid, row, col }) => grid === found.grid && found.find(row, col) >= 0);
          if (there.length < look.cells.length) look.cells = there; // a link may name empty ground
        },
        (error) => warn(errorText(error, pageErrorText)),
      );
    });

    $effect(() => {
      const cell = this.cell;
      this.sheet = this.problem = null;
      if (!cell?.drawn) return;
      return cancellable(
        () => loadDetails(look.atlasMap, cell),
        (found) => (this.sheet = found),
        (error) => (this.problem = errorText(error, pageErrorText)),
      );
    });
  }

  readonly place = $derived.by(() => this.#look.cells[0] ?? null);
  /** The cell itself, once its level's cells are there. */
  readonly cell = $derived.by(() => {
    const place = this.place;
    return place && this.cells?.grid === place.grid ? this.cells.at(place.row, place.col) : null;
  });
  /** Where its activations are on the second map. */
  readonly there = $derived.by<readonly CellRef[]>(() => {
    const { secondMap: other } = this.#look;
    const found = this.cell && other && this.sheet?.details.elsewhere[other.path];
    return found?.map(([grid, row, col]) => ({ grid, row, col })) ?? [];
  });
}
