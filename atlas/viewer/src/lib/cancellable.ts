/**
 * Ask for something, and hear the answer or the failure for as long as it is wanted. What this returns ends it, which makes
 * it an effect's own end; the signal that `ask` is given tells of it too.
 */
export function cancellable<T>(ask: (signal: AbortSignal) => Promise<T>, found: (answer: T) => void, failed: (error: unknown) => void): () => void {
  const stop = new AbortController();
  ask(stop.signal)
    .then((answer) => stop.signal.aborted || found(answer))
    .catch((error) => stop.signal.aborted || failed(error));
  return () => stop.abort();
}
