/** Saving: the view and a level as pictures, cells as a table, the link. */

import type { Cells } from '../lib/cells';
import { cellBox } from '../lib/frame';
import type { PageState } from '../lib/page_state.svelte';
import { cellsTable, download, poster, viewPicture, type MapInView } from '../lib/save';
import type { Colours } from '../lib/theme';
import type { Address } from './address.svelte';
import { WIDE, type Maps } from './maps.svelte';
import type { OpenCell } from './open_cell.svelte';

export class Saving {
  /** What is being saved, in words; null when nothing is. */
  progressText = $state<string | null>(null);
  /** What was done, in words. */
  doneText = $state<string | null>(null);
  readonly #pageState: PageState;
  readonly #maps: Maps;
  readonly #openCell: OpenCell;
  readonly #address: Address;
  readonly #warn: (sentence: string) => void;

  constructor(pageState: PageState, maps: Maps, openCell: OpenCell, address: Address, warn: (sentence: string) => void) {
    this.#pageState = pageState;
    this.#maps = maps;
    this.#openCell = openCell;
    this.#address = address;
    this.#warn = warn;
  }

  view(colours: Colours): void {
    const pageState = this.#pageState;
    const { first, second, frames } = this.#maps;
    if (!first) return;
    const maps: MapInView[] = [{ canvases: first.canvases(), frame: frames[0], left: 0, top: 0, from: 0, markedCells: pageState.cells }];
    if (pageState.secondMap && second) {
      const [left, top] = pageState.arrangement === 'swipe' ? [0, 0] : WIDE.matches ? [frames[0].width, 0] : [0, frames[0].height];
      maps.push({ canvases: second.canvases(), frame: frames[1], left, top, from: pageState.arrangement === 'swipe' ? pageState.swipeAt : 0, markedCells: this.#openCell.onSecondMap });
    }
    void this.#save('Saving the view …', () => viewPicture(maps, colours), 'view.png');
  }

  poster({ ground }: Colours): void {
    const { atlas, atlasMap, patches } = this.#pageState;
    const { cells } = this.#maps;
    if (!cells) return;
    const progress = (share: number) => (this.progressText = `Drawing the poster: ${Math.round(100 * share)} %`);
    void this.#save('Drawing the poster …', () => poster(atlas, atlasMap, cells, patches > 0.5 ? 'patches' : 'icons', ground, progress), `${cells.grid}.png`);
  }

  /** The chosen cells, else those in view. */
  table(): void {
    const { atlas, atlasMap, cells: selected } = this.#pageState;
    const cells = selected.length ? this.#openCell.cells : this.#maps.cells;
    if (!cells) return;
    const indices = selected.length ? selected.map(({ row, col }) => cells.find(row, col)).filter((i) => i >= 0) : this.#cellsInView(cells);
    const table = cellsTable(atlas, atlasMap, cells, indices);
    void this.#save('Saving the table …', () => Promise.resolve(new Blob([table], { type: 'text/csv' })), 'cells.csv');
  }

  async link(): Promise<void> {
    this.#address.write();
    try {
      await navigator.clipboard.writeText(location.href);
      this.doneText = 'The link is copied.';
      setTimeout(() => (this.doneText = null), 2000);
    } catch {
      this.#warn(`The browser lets no page copy here. The link is in its address line: ${location.href}`);
    }
  }

  #cellsInView(cells: Cells): number[] {
    const { frame } = this.#maps;
    return Array.from({ length: cells.length }, (_, i) => i).filter((i) => {
      const box = cellBox(frame, { grid: cells.grid, row: cells.row[i] as number, col: cells.col[i] as number });
      return box.left < frame.width && box.top < frame.height && box.left + box.width > 0 && box.top + box.height > 0;
    });
  }

  async #save(what: string, make: () => Promise<Blob>, end: string): Promise<void> {
    const name = `${this.#pageState.atlas.title}-${this.#pageState.atlasMap.path}-${end}`;
    this.progressText = what;
    try {
      download(await make(), name);
    } catch (error) {
      this.#warn(`That could not be saved: ${error instanceof Error ? error.message : error}. Try a coarser level, or load the page again.`);
    } finally {
      this.progressText = null;
    }
  }
}
