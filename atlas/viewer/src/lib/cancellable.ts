/**
 * Ask for something, and hear the answer or the failure for as long as it is wanted. What this returns ends it, which makes
 * it an effect's own end; the signal that `ask` is given tells of it too.
 */
export function cancellable<T>(task: (signal: AbortSignal) => Promise<T>, onResult: (answer: T) => void, onError: (error: unknown) => void): () => void {
  const controller = new AbortController();
  task(controller.signal)
    .then((answer) => controller.signal.aborted || onResult(answer))
    .catch((error) => controller.signal.aborted || onError(error));
  return () => controller.abort();
}
