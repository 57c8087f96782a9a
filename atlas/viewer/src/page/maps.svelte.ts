/** The map, or two of them: where each lies in the window, and how one follows the other. */

import type { Cell, Cells } from '../lib/cells';
import { viewOf, viewShowing, type Frame } from '../lib/frame';
import type { CellRef } from '../lib/link';
import type { PageState } from '../lib/page_state.svelte';
import type { PaneHandle } from '../map/Pane.svelte';

/** Pixels that the drawer covers on the right of a wide window. */
export const DRAWER = 384;
/** Of a narrow one it covers this share at the bottom, and the bar so many pixels at the top. */
const DRAWER_SHARE = 0.58;
const BAR = 64;
const NOWHERE: Frame = { left: 0, top: 0, side: 1, width: 1, height: 1 };
export const WIDE = matchMedia('(min-width: 640px)');

export class Maps {
  frames = $state.raw<readonly [Frame, Frame]>([NOWHERE, NOWHERE]);
  first = $state.raw<PaneHandle | null>(null);
  second = $state.raw<PaneHandle | null>(null);
  /** The cells of the level that the first map shows. */
  cells = $state.raw<Cells | null>(null);
  /** The cell of the first map that is pointed at. */
  pointedCell = $state.raw<Cell | null>(null);
  /** Which of two the reader moves; the other one follows. */
  leader: 0 | 1 = 0;
  readonly #pageState: PageState;

  constructor(pageState: PageState) {
    this.#pageState = pageState;
  }

  get frame(): Frame {
    return this.frames[0];
  }

  /** Maps of classes have places of their own: they are not moved with others. */
  get #linked(): boolean {
    const { atlasMap, secondMap } = this.#pageState;
    return !secondMap || (atlasMap.classes_shown.length === 0 && secondMap.classes_shown.length === 0);
  }

  /** The other map follows the one that is moved. */
  moved(which: 0 | 1, frame: Frame): void {
    this.frames = which === 0 ? [frame, this.frames[1]] : [this.frames[0], frame];
    if (which !== this.leader || !this.#linked) return;
    const other = which === 0 ? this.second : this.first;
    other?.map.goTo(viewOf(frame), true);
  }

  /** Move the map where a cell lies outside the window or under the drawer. `image` says whether one image is open beside it. */
  reveal(place: CellRef, image: boolean): void {
    const { frame } = this;
    const wide = WIDE.matches;
    // Two maps make room for the drawer by themselves; on a phone the map has done so for the image.
    const covered = this.#pageState.secondMap || (image && !wide) ? 0 : 1;
    const [right, bottom] = wide ? [frame.width - covered * DRAWER, frame.height] : [frame.width, frame.height - covered * DRAWER_SHARE * innerHeight];
    const [left, top] = wide || image ? [0, 0] : [0, BAR];
    const view = viewShowing(frame, place, { left, top, right, bottom });
    if (!view) return;
    this.leader = 0;
    this.first?.map.goTo(view);
  }
}
