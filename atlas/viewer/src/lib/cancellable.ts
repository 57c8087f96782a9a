/**
 * Run an asynchronous task with callbacks for its result or error. The function that this returns cancels it, so that it can
 * be an effect's cleanup: no callback runs afterwards, and the signal handed to `task` is aborted.
 */
export function cancellable<T>(task: (signal: AbortSignal) => Promise<T>, onResult: (answer: T) => void, onError: (error: unknown) => void): () => void {
  const controller = new AbortController();
  task(controller.signal)
    .then((answer) => controller.signal.aborted || onResult(answer))
    .catch((error) => controller.signal.aborted || onError(error));
  return () => controller.abort();
}
