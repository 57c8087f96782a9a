/** Work under way: one piece of each kind at a time, each with a signal that ends it at once. */

/** What may be under way at the server. */
export type Job = 'limits' | 'given' | 'samples' | 'summary' | 'icons' | 'stand-ins' | 'classes' | 'removed' | 'groups';

export class Jobs {
  /** How far each is, 0 to 1; those that are not there are not under way. */
  progress = $state.raw<Partial<Record<Job, number>>>({});
  readonly #controls = new Map<Job, AbortController>();
  readonly #onError: (error: unknown) => void;

  /** `failed` is called with errors, but not with those of work that was stopped. */
  constructor(onError: (error: unknown) => void) {
    this.#onError = onError;
  }

  /** Start a piece of work, in place of the one of its kind that may be under way. */
  async run(kind: Job, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    this.stop(kind);
    const control = new AbortController();
    this.#controls.set(kind, control);
    this.report(kind, 0);
    try {
      await work(control.signal);
    } catch (error) {
      if (!control.signal.aborted) this.#onError(error);
    } finally {
      if (this.#controls.get(kind) === control) this.#end(kind);
    }
  }

  report(kind: Job, share: number): void {
    this.progress = { ...this.progress, [kind]: share };
  }

  stop(kind: Job): void {
    this.#controls.get(kind)?.abort();
    this.#end(kind);
  }

  stopAll(but?: Job): void {
    for (const kind of [...this.#controls.keys()]) if (kind !== but) this.stop(kind);
  }

  #end(kind: Job): void {
    this.#controls.delete(kind);
    const { [kind]: _, ...others } = this.progress;
    this.progress = others as Partial<Record<Job, number>>;
  }
}
