/** What a link opens besides the maps: a step of the tour, or a picture. */

import type { Subject } from '../image/subject.svelte';
import { pageErrorText, errorText } from '../lib/atlas';
import { openPicture } from '../tour/picture';
import type { TourState } from '../tour/state.svelte';
import { openingIn, stepIn } from '../tour/tour';

export class LinkRequests {
  /** Whether the picture's way through the network is shown. */
  forwardOpen = $state(false);
  /** The name of the picture whose way is shown as soon as it is there. */
  #awaitedPicture = $state<string | null>(null);
  readonly #subject: Subject | null;
  readonly #tour: TourState;
  readonly #warn: (sentence: string) => void;

  /** Called while a component begins, with which it ends. */
  constructor(subject: Subject | null, tour: TourState, warn: (sentence: string) => void) {
    this.#subject = subject;
    this.#tour = tour;
    this.#warn = warn;

    $effect(() => {
      if (this.#awaitedPicture === null || subject?.picture?.name !== this.#awaitedPicture) return;
      this.#awaitedPicture = null;
      this.forwardOpen = true;
    });
  }

  /** Do what the address line says. */
  follow(): void {
    const [subject, tour] = [this.#subject, this.#tour];
    const opening = openingIn(location.hash);
    const from = tour.step;
    tour.apply(location.hash);
    if (tour.at !== null) {
      this.forwardOpen = false;
      this.#awaitedPicture = null;
      subject?.close();
    }
    if (!opening) return;
    if (!subject) {
      this.#warn(
        'What the network makes of a picture is told by the network itself. Where the run lies, give atlas serve runs/NAME and open the address that it prints.',
      );
      return;
    }
    openPicture(subject, from)
      .then((name) => opening === 'forward' && (this.#awaitedPicture = name))
      .catch((error) => this.#warn(errorText(error, pageErrorText)));
  }

  /** Whether the address line names a step of a tour that this site has not. */
  get tourMissing(): boolean {
    return !this.#tour.exists && stepIn(location.hash) !== null;
  }
}
