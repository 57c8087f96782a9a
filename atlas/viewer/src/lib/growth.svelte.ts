/** How an open page follows the run that still makes its site. */

import { FORMAT, lookAgain, type AtlasVersion, type Site } from './atlas_file';
import { holds } from './growing.svelte';
import { isLate, makingWords, momentWords, waitWords } from './growth_words';
import type { PageState } from './page_state.svelte';

const LOOK = 15_000; // milliseconds between two looks at a site whose server sends no events
const TICK = 10_000; // milliseconds between two looks at the clock
/** Tries without an answer after which a server counts as gone: a proxy ends streams now and then, and the next try succeeds. */
const TRIES = 2;

/** What the server says: what changes with atlas.json, how the run is, and the seconds that it still takes. */
interface GrowthEvent {
  atlas: string | null;
  state: 'running' | 'done' | 'failed' | 'stopped' | null;
  seconds_left: number | null;
}

export class Growth {
  /** Whether what is there now is shown only when the page is loaded again: it was built anew, or is of another run. */
  outdated = $state(false);
  readonly #pageState: PageState;
  #version: AtlasVersion;
  #state = $state<GrowthEvent['state']>(null);
  /** When the run is expected to be done, in milliseconds; null where nobody says. */
  #end = $state<number | null>(null);
  /** How often the server did not answer since its last event. */
  #unanswered = $state(0);
  #now = $state(Date.now());
  /** Whether the server sends events; one that does not is looked at now and then. */
  #hasEvents: boolean;
  #events: EventSource | null = null;
  #timers: ReturnType<typeof setInterval>[] = [];
  #lastSeen: string | null = null;
  #work: Promise<void> = Promise.resolve();
  #ended = false;

  constructor(pageState: PageState, { version, hasApi }: Site) {
    this.#pageState = pageState;
    this.#version = version;
    this.#hasEvents = hasApi;
    this.#noteExpectedEnd();
  }

  /** What is missing, as a sentence without its time; null where all is there. */
  readonly words = $derived.by(() => {
    const { atlas } = this.#pageState;
    if (!atlas.making) return null;
    const missing = makingWords(atlas.making, atlas);
    if (this.#hasStopped) return `Not finished: ${missing}. The run has stopped; the same command, atlas run, goes on from there.`;
    if (this.#isGone) return `Not finished: ${missing}. The server does not answer. If it was stopped, the same command goes on from there.`;
    if (this.#isLate) return `Not finished: ${missing}. Nothing new has come since ${momentWords(atlas.making.written, this.#now)}; the run may have stopped.`;
    return `Still being made: ${missing}`;
  });

  /** How long it still takes; null where nobody says. */
  readonly wait = $derived.by(() =>
    this.#end === null || this.#hasStopped || this.#isGone || this.#isLate ? null : waitWords(this.#end - this.#now),
  );

  get #hasStopped(): boolean {
    return this.#state !== null && this.#state !== 'running';
  }

  get #isGone(): boolean {
    return this.#unanswered >= TRIES;
  }

  get #isLate(): boolean {
    const { making } = this.#pageState.atlas;
    return this.#state === null && making !== undefined && isLate(making, this.#now);
  }

  /** Follow the run while the page is seen, until all is there; returns what ends it. */
  follow(): () => void {
    if (!this.#pageState.atlas.making) return () => undefined;
    const turn = () => (document.visibilityState === 'hidden' ? this.#rest() : this.#begin());
    document.addEventListener('visibilitychange', turn);
    turn();
    return () => {
      document.removeEventListener('visibilitychange', turn);
      this.#stop();
    };
  }

  #begin(): void {
    if (this.#ended) return;
    this.#rest();
    this.#now = Date.now();
    this.#timers.push(setInterval(() => (this.#now = Date.now()), TICK));
    if (this.#hasEvents) this.#listen();
    else this.#lookNowAndThen();
  }

  /** A page that nobody sees asks for nothing, and takes none of the few connections that a browser has to a server. */
  #rest(): void {
    this.#events?.close();
    this.#events = null;
    this.#timers.splice(0).forEach(clearInterval);
  }

  #stop(): void {
    this.#ended = true;
    this.#rest();
  }

  #lookNowAndThen(): void {
    this.#next(() => this.#look());
    this.#timers.push(setInterval(() => this.#next(() => this.#look()), LOOK));
  }

  #listen(): void {
    const events = new EventSource('api/growth');
    this.#events = events;
    const doWithout = () => {
      this.#hasEvents = false;
      this.#unanswered = 0;
      this.#begin();
    };
    // The first event comes at once, unless a proxy keeps it back.
    const silence = setTimeout(doWithout, LOOK);
    this.#timers.push(silence);
    events.onmessage = ({ data }) => {
      clearTimeout(silence);
      this.#unanswered = 0;
      this.#next(() => this.#take(JSON.parse(data as string) as GrowthEvent));
    };
    events.onerror = () => {
      this.#state = null;
      this.#unanswered += 1;
      // The browser itself tries again, but not after an answer that refuses.
      if (events.readyState === EventSource.CLOSED && this.#events === events) doWithout();
    };
  }

  async #take(event: GrowthEvent): Promise<void> {
    if (event.atlas !== this.#lastSeen) {
      await this.#look();
      this.#lastSeen = event.atlas;
    }
    this.#state = event.state;
    this.#now = Date.now();
    if (event.seconds_left !== null) this.#end = this.#now + 1000 * event.seconds_left;
  }

  /** One after the other: a second look would ask for what the first one brings. */
  #next(work: () => Promise<void>): void {
    this.#work = this.#work.then(() => (this.#ended ? undefined : work()));
  }

  async #look(): Promise<void> {
    const { atlas: next, version } = await lookAgain(this.#version);
    this.#version = version;
    if (!next) return;
    const { atlas } = this.#pageState;
    const isReadable = next.format === FORMAT && holds(next, atlas);
    if (!isReadable || next.page !== atlas.page) this.outdated = true;
    if (isReadable) this.#pageState.grow(next);
    this.#noteExpectedEnd();
    if (!isReadable || !next.making) this.#stop();
  }

  #noteExpectedEnd(): void {
    const end = this.#pageState.atlas.making?.expected_end;
    this.#end = end === undefined ? null : Date.parse(end);
  }
}
