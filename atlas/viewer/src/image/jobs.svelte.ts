/** Running requests: at most one of each kind, each with a signal that aborts it. */

/** Kinds of requests to the server. */
export type Job = 'limits' | 'given' | 'samples' | 'summary' | 'icons' | 'stand-ins' | 'classes' | 'removed' | 'groups';

export class Jobs {
  /** Progress of each running job, 0 to 1; jobs that do not run have no entry. */
  progress = $state.raw<Partial<Record<Job, number>>>({});
  readonly #controls = new Map<Job, AbortController>();
  readonly #onError: (error: unknown) => void;

  /** `onError` is called with errors, but not with those of work that was stopped. */
  constructor(onError: (error: unknown) => void) {
    this.#onError = onError;
  }

  /** Start a job, in place of a running one of its kind. */
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
