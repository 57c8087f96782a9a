/** The link to what is on the screen, in the browser's address line and in its history. */

import { untrack } from 'svelte';

import type { PageState } from '../lib/page_state.svelte';
import type { TourState } from '../tour/state.svelte';
import type { Maps } from './maps.svelte';

/** Milliseconds after which a slider is taken to rest. */
const RESTING = 250;

export class Address {
  readonly #pageState: PageState;
  readonly #maps: Maps;
  readonly #tour: TourState;
  /** What was shown when the last step in the history was made. */
  #historyKey: string;
  /** The link that was last written or followed. */
  #known = location.hash;
  #timer = 0;

  /** Called while a component begins, with which it ends. */
  constructor(pageState: PageState, maps: Maps, tour: TourState) {
    this.#pageState = pageState;
    this.#maps = maps;
    this.#tour = tour;
    this.#historyKey = pageState.historyKey;

    // A change of what is shown is a step in the browser's history; moves of the map and of sliders are not.
    $effect(() => {
      const next = this.#shown;
      untrack(() => this.write(next));
    });

    // Sliders are written when they rest: browsers let a page change its address only so often.
    $effect(() => {
      void [pageState.patches, pageState.darkening, pageState.swipeAt, pageState.density];
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.write(), RESTING);
    });
  }

  get #shown(): string {
    return this.#pageState.historyKey + this.#tour.suffix;
  }

  /** Write the link; what is shown `next`, where that is new, is a step of its own. */
  write(next?: string): void {
    const map = this.#maps.first?.map;
    if (!map || this.#maps.frame.side === 1) return;
    if (location.hash !== this.#known) return; // another link stands there and is followed next
    const link = this.#pageState.link(map.targetView) + this.#tour.suffix;
    if (link === location.hash) return;
    try {
      if (next !== undefined && next !== this.#historyKey) history.pushState(null, '', link);
      else history.replaceState(null, '', link);
    } catch {
      return; // too often for this browser: the next rest writes it
    }
    this.#known = location.hash;
    if (next !== undefined) this.#historyKey = next;
  }

  /** A link has been followed: what it shows is where the history stands. */
  linkFollowed(): void {
    this.#historyKey = this.#shown;
    this.#known = location.hash;
  }
}
