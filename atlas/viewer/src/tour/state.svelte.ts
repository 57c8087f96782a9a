/** What is shown of the tour: a step, or the live view of one. */

import { errorText } from '../lib/atlas';
import type { PageState } from '../lib/page_state.svelte';
import { loadTour, stepIn, type TourStep, type Tour } from './tour';

export class TourState {
  tour = $state.raw<Tour | null>(null);
  problem = $state<string | null>(null);
  /** The step that is shown, counted from 0; null while the tour is closed. */
  at = $state<number | null>(null);
  /** The step whose live view is on the screen. */
  liveStep = $state<number | null>(null);
  #leaving = false;
  readonly #pageState: PageState;

  constructor(pageState: PageState) {
    this.#pageState = pageState;
  }

  /** Whether the site has a tour. */
  get exists(): boolean {
    return this.#pageState.atlas.tour === true;
  }

  /** What the page's link says of the tour. */
  readonly suffix = $derived(this.at === null ? '' : `&tour=${this.at + 1}`);
  readonly step = $derived.by<TourStep | null>(() => (this.at === null ? null : (this.tour?.steps[this.at] ?? null)));

  /** Show what a link says. */
  apply(hash: string): void {
    const step = stepIn(hash);
    if (step !== null && this.exists) return this.open(step);
    if (this.at !== null) this.liveStep = this.#leaving ? this.at : null;
    this.#leaving = false;
    this.at = null;
  }

  open(step = 0): void {
    this.at = this.#within(step);
    this.liveStep = null;
    if (this.tour) return;
    this.problem = null;
    loadTour()
      .then((tour) => {
        this.tour = tour;
        if (this.at !== null) this.at = this.#within(this.at);
      })
      .catch((error) => (this.problem = errorText(error)));
  }

  #within(step: number): number {
    return Math.min(step, (this.tour?.steps.length ?? Infinity) - 1);
  }

  /** To the step before or after; there is none beyond the ends. */
  turn(by: 1 | -1): void {
    if (this.at === null || !this.tour) return;
    this.at = Math.max(0, this.#within(this.at + by));
  }

  /** To the live view of the step. The page follows the link as if someone had typed it. */
  go(): void {
    const link = this.step?.link;
    if (!link) return;
    this.#leaving = true;
    if (location.hash === link) dispatchEvent(new HashChangeEvent('hashchange'));
    else location.hash = link;
  }

  /** From the live view to the step that it belongs to; what was opened for it closes. */
  back(): void {
    if (this.liveStep !== null) location.hash = `#tour=${this.liveStep + 1}`;
  }

  end(): void {
    this.at = this.liveStep = null;
  }
}
